"""Renders the variables, labels and volumes of an application's container, so that it can use the backends."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from gateway.backend_support.volume_definition import VolumeSpec
from gateway.config import Config
from gateway.errors import UsageError
from gateway.relay.resolver import is_loopback


def env(config: Config, host: str | None) -> list[str]:
    """Return two variables for each backend, such as `ORDERS_HOST=orders` and `ORDERS_PORT=3306`.

    Backends that the kernel mounts, such as NFS, need no variables.

    Args:
        config: The configuration.
        host: The address at which containers reach the gateway. None to use the names of the backends. On the Docker
            networks of the gateway, these names resolve to the gateway.

    Raises:
        UsageError: Two backends have the same variables.
    """
    lines = []
    names: dict[str, str] = {}
    for name, port in _ports(config, host):
        prefix = re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII).upper()
        if names.setdefault(prefix, name) != name:
            raise UsageError(f"backends {names[prefix]} and {name}: both have the variable {prefix}_HOST: rename one")
        lines += [f"{prefix}_HOST={host or name}", f"{prefix}_PORT={port}"]
    return lines


def compose(config: Config, host: str | None) -> str:
    """Return the Compose keys that an application needs to use the backends, as YAML.

    Args:
        config: The configuration.
        host: The address at which containers reach the gateway; None to use the names of backends. See `env`.
    """
    specs = _volumes(config)
    app: dict[str, Any] = {"environment": dict(line.split("=", 1) for line in env(config, host))}
    if labels := _labels(config):
        app["labels"] = labels
    if specs:
        app["volumes"] = [
            {
                "type": "volume",
                "source": spec.name,
                "target": f"/mnt/{spec.name}",
                "read_only": spec.read_only,
                # Without `nocopy`, Docker copies the image's files to the share as root. Most servers refuse this.
                "volume": {"nocopy": True},
            }
            for spec in specs
        ]
    document: dict[str, Any] = {"services": {"app": app}}
    if specs:
        document["volumes"] = {
            spec.name: {
                "name": spec.name,
                "driver": spec.driver,
                # Double each dollar sign, because Compose expands `$NAME` to the value of a variable.
                "driver_opts": {key: value.replace("$", "$$") for key, value in spec.driver_options.items()},
            }
            for spec in specs
        }
    return yaml.safe_dump(document, sort_keys=False)


def docker_run(config: Config, host: str | None) -> str:
    """Return a `docker volume create` command for each volume, and a `docker run` command for an application.

    Args:
        config: The configuration.
        host: The address at which containers reach the gateway; None to use the names of backends. See `env`.
    """
    commands = []
    specs = _volumes(config)
    for spec in specs:
        options = " ".join(f"--opt {shlex.quote(f'{key}={value}')}" for key, value in spec.driver_options.items())
        commands.append(f"docker volume create --driver {spec.driver} {options} {shlex.quote(spec.name)}")
    parts = ["docker run"]
    parts += [f"-e {shlex.quote(line)}" for line in env(config, host)]
    parts += [f"--label {key}={value}" for key, value in _labels(config).items()]
    for spec in specs:
        mode = ",readonly" if spec.read_only else ""
        mount = f"type=volume,src={spec.name},dst=/mnt/{spec.name},volume-nocopy{mode}"
        parts.append(f"--mount {shlex.quote(mount)}")
    return "\n".join([*commands, " \\\n  ".join([*parts, "IMAGE"])])


def reachability_warnings(config: Config) -> Iterator[str]:
    """Yield warnings about backends that listen only on loopback addresses: one for each listener of such a backend.

    Skip backends that the kernel mounts, such as NFS.
    """
    for name, spec in config.backends.items():
        addresses = [address for address in spec.listen if not address.is_unix]
        if spec.kind.kernel_mounts or not all(is_loopback(address.host) for address in addresses):
            continue
        for address in addresses:
            yield (
                f"backends.{name}.listen: only containers with the host's network reach {address}:"
                " listen on 0.0.0.0, or set --host to an address that containers reach"
            )


def _ports(config: Config, host: str | None) -> Iterator[tuple[str, int]]:
    """Yield the name and a TCP port of each backend. Skip backends that the kernel mounts, such as NFS.

    Prefer a listener on `host`. If there is none, prefer a loopback listener if `host` is a loopback address, and
    a listener that is not on a loopback address otherwise.
    """
    on_loopback = host is not None and is_loopback(host)
    for name, spec in config.backends.items():
        addresses = [address for address in spec.listen if not address.is_unix]
        if addresses and not spec.kind.kernel_mounts:
            best = min(addresses, key=lambda each: (each.host != host, is_loopback(each.host) is not on_loopback))
            yield name, best.port


def _labels(config: Config) -> dict[str, str]:
    """Return the labels by which a container requests access to backends; empty if there is no section `docker`."""
    if config.docker is None:
        return {}
    prefix = config.docker.label_prefix
    return {f"{prefix}.enable": "true", f"{prefix}.backends": ",".join(name for name, _ in _ports(config, None))}


def _volumes(config: Config) -> list[VolumeSpec]:
    volumes = (spec.kind.volume(spec.options, spec.listen, spec.hold) for spec in config.backends.values())
    return [volume for volume in volumes if volume is not None]
