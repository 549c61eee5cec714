"""Checks whether the pods of `gateway render kubernetes` can run a configuration."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config import Config
from gateway.contracts.secret import Secret
from gateway.errors import UsageError
from gateway.relay.resolver import is_loopback

SECRETS = "/run/secrets"
"""The directory where the pod mounts the Secret."""
WRITABLE = {"run": "/run/gateway", "state": "/var/lib/gateway", "tmp": "/tmp"}  # noqa: S108 - in the container
"""The writable directories of the container, by volume name."""
FIRST_UNPRIVILEGED_PORT = 1024
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""The file of certificate authorities in the image."""
_LONGEST_WORKLOAD_NAME = 52
"""The maximum length of a workload's name. Kubernetes uses the name, plus up to 11 characters, as a label, and limits
a label to 63 characters."""
_LONGEST_SERVICE_NAME = 63


def validate(config: Config, name: str, *, services: bool) -> None:
    """Check that the rendered manifests can run the gateway with a configuration.

    Args:
        config: The configuration.
        name: The name of the Kubernetes objects.
        services: Whether the manifests contain Services. If so, each backend that listens on a port has one, unless
            the kernel mounts the backend.

    Raises:
        UsageError: The manifests cannot run the configuration, or the configuration contains a secret.
    """
    if not _is_dns_label(name, _LONGEST_WORKLOAD_NAME):
        raise UsageError(
            f"--name {name}: use at most {_LONGEST_WORKLOAD_NAME} lowercase letters, digits and '-', start with a"
            " letter, and end with a letter or digit"
        )
    if config.docker is not None:
        raise UsageError("docker: a pod has no access to a container engine: remove the `docker` section")
    if any(spec.kind.needs_capabilities for spec in config.tunnels.values()):
        raise UsageError(
            "a VPN needs capabilities that these manifests do not grant: use the Helm chart with vpn.enabled"
        )
    log = config.audit.log
    if isinstance(log, Path) and (".." in log.parts or not log.is_relative_to(WRITABLE["state"])):
        raise UsageError(f"audit.log: the pod cannot write to {log}: use stdout, or a file in {WRITABLE['state']}")
    for backend, spec in config.backends.items():
        if any(address.is_unix for address in spec.listen):
            raise UsageError(f"backends.{backend}.listen: other pods cannot reach a unix socket: use an address")
    _validate_backends(config, services=services)
    for place, path in _files(config):
        if path is None:
            raise UsageError(
                f"{place}: a ConfigMap must not contain a secret: write the secret to a file, and set the key that"
                " ends in _file instead"
            )
        if str(path.parent) != SECRETS and path != _CERTIFICATES:
            raise UsageError(f"{place}: the pod has no {path}: use a file in {SECRETS}, not in a subfolder")


def _validate_backends(config: Config, *, services: bool) -> None:
    kinds = {spec.kind.name: spec.kind for spec in config.backends.values()}
    mounted = [each for each, kind in kinds.items() if kind.kernel_mounts]
    others = [each for each, kind in kinds.items() if not kind.kernel_mounts]
    if mounted and others:
        raise UsageError(
            f"kind {', '.join(mounted)} needs a DaemonSet, and kind {', '.join(others)} needs a Deployment:"
            " write two configuration files"
        )
    low = privileged_ports(config)
    if low and mounted:
        raise UsageError(
            f"port {low[0]}: a pod in the node's network cannot listen on a port below {FIRST_UNPRIVILEGED_PORT}:"
            " choose a higher port"
        )
    for backend, spec in config.backends.items():
        if spec.kind.volume_options(spec.options) is not None and not spec.listen:
            raise UsageError(
                f"backends.{backend}.listen: without an address, the port would change with each new pod: set an"
                " address, such as 127.0.0.1:20490"
            )
        if mounted or not services:
            continue
        for address in spec.listen:
            if not address.is_unix and is_loopback(address.host):
                raise UsageError(f"backends.{backend}.listen: other pods cannot reach {address}: use 0.0.0.0")
        if not _is_dns_label(backend, _LONGEST_SERVICE_NAME):
            raise UsageError(
                f"backends.{backend}: the name of a Service has only lowercase letters, digits and '-', and starts"
                " with a letter: rename the backend"
            )


def needs_secret(config: Config) -> bool:
    """Return whether the configuration refers to files that the Secret must contain."""
    return any(path != _CERTIFICATES for _, path in _files(config))


def privileged_ports(config: Config) -> list[int]:
    """Return the ports below `FIRST_UNPRIVILEGED_PORT` on which backends or the ops server listen.

    A pod can listen on these ports only with the sysctl `net.ipv4.ip_unprivileged_port_start` (ip(7)).
    """
    ports = {each.port for spec in config.backends.values() for each in spec.listen if not each.is_unix}
    ports |= {each.port for each in (config.ops.listen, config.ops.probe_listen) if each is not None}
    return sorted(each for each in ports if 0 < each < FIRST_UNPRIVILEGED_PORT)


def _is_dns_label(name: str, longest: int) -> bool:
    """Return whether a name is a DNS label (RFC 1035) of at most `longest` characters, as Kubernetes requires."""
    return len(name) <= longest and re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name) is not None


def _files(config: Config) -> Iterator[tuple[str, Path | None]]:
    """Yield the section and path of each file and secret in the configuration.

    The path is None if the configuration contains the secret itself.
    """
    ops = config.ops
    sections: dict[str, list[Any]] = {
        **{f"tunnels.{name}": [spec.options] for name, spec in config.tunnels.items()},
        **{f"backends.{name}": [spec.options, spec.check_options] for name, spec in config.backends.items()},
        "ops": [ops.token_file, ops.metrics_token_file, ops.tls],
        "fleet": [config.fleet],
        "traces": [config.traces],
    }
    for section, values in sections.items():
        for path in _paths(values):
            yield section, path


def _paths(value: Any) -> Iterator[Path | None]:
    if isinstance(value, Secret):
        yield value.path
    elif isinstance(value, Path):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _paths(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths(each)
