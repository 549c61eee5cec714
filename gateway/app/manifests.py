"""Kubernetes manifests of the gateway itself, for people without Helm. Pure; the chart does more."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from gateway.app.docker_desired import is_loopback_only
from gateway.config import Config
from gateway.contracts import Endpoint, Secret
from gateway.errors import UsageError

USER = 10001
"""Whom the image runs as."""
_SECRETS = "/run/secrets"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""In the image."""
_MARGIN = 15
"""Seconds more than delay and drain until Kubernetes kills."""
_FIRST_FREE = 1024
_LOW_PORTS = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def workload(config: Config, text: str, name: str, image: str, *, podman: bool = False) -> list[dict[str, Any]]:
    """A ConfigMap with the configuration, and what runs it.

    That is a Deployment with a Service for each backend, or, if nodes mount a backend, a DaemonSet in the nodes'
    network.

    Args:
        config: The configuration.
        text: The file as it is; it holds no secrets but names their files.
        name: Of every object but the Services.
        image: Of the container.
        podman: Whether it is for `podman kube play` rather than for Kubernetes.

    Raises:
        UsageError: It holds a secret itself, or what these manifests cannot do.
    """
    files = _check(config, name)
    labels = {"app.kubernetes.io/name": "gateway", "app.kubernetes.io/instance": name}
    nodes = any(spec.kind.kernel_mounts for spec in config.backends.values())
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": labels},
        "data": {"gateway.yaml": text},
    }
    template = {
        "metadata": {
            "labels": labels,
            "annotations": {"checksum/config": hashlib.sha256(text.encode()).hexdigest()},
        },
        "spec": _pod(config, name, image, nodes=nodes, files=files),
    }
    if podman:
        _for_podman(template["spec"])
    spec: dict[str, Any] = {"selector": {"matchLabels": labels}, "template": template}
    running = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet" if nodes else "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": spec if nodes else {"replicas": 1 if podman else 2, **spec},
    }
    return [settings, running, *([] if nodes or podman else _services(config, labels))]


def _for_podman(pod: dict[str, Any]) -> None:
    """Change a pod to what `podman kube play` runs."""
    # It gives the files of a Secret to root and the group root, and knows no fsGroup.
    del pod["securityContext"]["fsGroup"]
    pod["securityContext"]["supplementalGroups"] = [0]
    (container,) = pod["containers"]
    for probe in ("startupProbe", "livenessProbe"):
        # It runs httpGet as curl in the container, where there is none.
        del container[probe]["httpGet"]
        container[probe]["exec"] = {"command": ["gateway", "healthcheck"]}
    del container["readinessProbe"]  # which it does not know


def _check(config: Config, name: str) -> bool:
    """Whether the pod needs files of the Secret.

    Raises:
        UsageError: What these manifests cannot do.
    """
    if not re.fullmatch("[a-z]([-a-z0-9]{0,50}[a-z0-9])?", name):
        raise UsageError(f"--name {name}: a name of Kubernetes has small letters, digits and -")
    if config.docker is not None:
        raise UsageError("docker: a pod reaches no engine: leave the section out")
    if any(spec.kind.needs_capabilities for spec in config.tunnels.values()):
        raise UsageError("a VPN needs rights that these manifests do not give: use the chart with vpn.enabled")
    kinds = {spec.kind.name: spec.kind for spec in config.backends.values()}
    mounted = [each for each, kind in kinds.items() if kind.kernel_mounts]
    others = [each for each, kind in kinds.items() if not kind.kernel_mounts]
    if mounted and others:
        raise UsageError(
            f"kind {', '.join(mounted)} needs a gateway on each node, kind {', '.join(others)} needs a Service:"
            " use a file for each"
        )
    log = config.audit.log
    if isinstance(log, Path) and (".." in log.parts or not log.is_relative_to(_WRITABLE["state"])):
        raise UsageError(f"audit.log: the pod cannot write {log}: use stdout, or a file in {_WRITABLE['state']}")
    low = _low_ports(config)
    if low and mounted:
        raise UsageError(f"port {low[0]}: a pod in the node's network may listen on ports from {_FIRST_FREE} on only")
    named = {f"tunnels.{each}": [spec.options] for each, spec in config.tunnels.items()}
    named |= {f"backends.{each}": [spec.options, spec.check_options] for each, spec in config.backends.items()}
    ops = config.ops
    named["ops"] = [part for part in (ops.token_file, ops.metrics_token_file, ops.tls) if part is not None]
    files = [(place, path) for place, options in named.items() for path in _files(options)]
    for place, path in files:
        if path is None:
            raise UsageError(f"{place}: a secret stands in the file, and everybody may read a ConfigMap: use …_file")
        if str(path.parent) != _SECRETS and path != _CERTIFICATES:
            raise UsageError(f"{place}: the pod has no {path}: name a file in {_SECRETS}, not in a folder below")
    return any(path != _CERTIFICATES for _, path in files)


def _low_ports(config: Config) -> list[int]:
    """Those that only root may listen on, unless the pod is told otherwise."""
    addresses = [each for spec in config.backends.values() for each in spec.listen if isinstance(each, Endpoint)]
    return sorted({each.port for each in addresses if each.port < _FIRST_FREE})


def _files(value: Any) -> Iterator[Path | None]:
    """The files that options name; None for a secret that they hold themselves."""
    if isinstance(value, Secret):
        yield value.path
    elif isinstance(value, Path):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _files(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _files(each)


def _pod(config: Config, name: str, image: str, *, nodes: bool, files: bool) -> dict[str, Any]:
    stop = config.shutdown.delay + config.shutdown.drain
    probes = _probe_port(config)
    hosts = [each.host for each in (config.ops.listen, config.ops.probe_listen) if each is not None]
    everywhere = "[::]" if "::" in hosts else "0.0.0.0"  # noqa: S104 - the kubelet comes from outside
    secret_mount = [{"name": "secrets", "mountPath": _SECRETS, "readOnly": True}] if files else []
    secret = [{"name": "secrets", "secret": {"secretName": name, "defaultMode": 0o440}}] if files else []
    # The kubelet must reach probes, whatever the file says; who may see more is the file's to say.
    container = {
        "name": "gateway",
        "image": image,
        "args": [
            "run",
            "-c",
            "/etc/gateway/gateway.yaml",
            "--ops-probe-listen",
            f"{everywhere}:{probes}",
            "--ops-admin-socket",
            f"{_WRITABLE['run']}/admin.sock",
            "--state-dir",
            _WRITABLE["state"],
        ],
        "ports": [
            {"name": "probes", "containerPort": probes},
            *(
                []
                if is_loopback_only(config.ops.listen)
                else [{"name": "ops", "containerPort": config.ops.listen.port}]
            ),
        ],
        "startupProbe": _probe("/startupz", periodSeconds=1, failureThreshold=120),
        "livenessProbe": _probe("/livez", periodSeconds=10),
        "readinessProbe": _probe("/readyz", periodSeconds=5, failureThreshold=1),
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": _RESTRICTED,
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/gateway", "readOnly": True},
            *secret_mount,
            *({"name": name, "mountPath": path} for name, path in _WRITABLE.items()),
        ],
    }
    return {
        **({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if nodes else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": int(stop) + _MARGIN,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            **({"sysctls": [_LOW_PORTS]} if _low_ports(config) else {}),
        },
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            *secret,
            *({"name": each, "emptyDir": {"sizeLimit": "64Mi"}} for each in _WRITABLE),
        ],
    }


_WRITABLE = {"run": "/run/gateway", "state": "/var/lib/gateway", "tmp": "/tmp"}  # noqa: S108 - in the container


def _probe_port(config: Config) -> int:
    """That of the file, or else the first after `ops.listen` that nothing has."""
    if config.ops.probe_listen is not None:
        return config.ops.probe_listen.port
    addresses = [each for spec in config.backends.values() for each in spec.listen if isinstance(each, Endpoint)]
    taken = {config.ops.listen.port, *(each.port for each in addresses)}
    return next(port for port in count(config.ops.listen.port) if port not in taken)


def _probe(path: str, **more: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "probes"}, "timeoutSeconds": 3, **more}


def _services(config: Config, labels: dict[str, str]) -> Iterator[dict[str, Any]]:
    for backend, spec in config.backends.items():
        addresses = [address for address in spec.listen if isinstance(address, Endpoint)]
        for address in addresses:
            if is_loopback_only(address):
                raise UsageError(f"backends.{backend}.listen: no other pod reaches {address}: use 0.0.0.0")
        if not re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", backend):
            raise UsageError(f"backends.{backend}: its Service needs a name of small letters, digits and -")
        if ports := sorted({address.port for address in addresses}):
            yield {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": backend, "labels": labels},
                "spec": {
                    "selector": labels,
                    "ports": [{"name": f"p{port}", "port": port, "targetPort": port} for port in ports],
                },
            }
