"""Kubernetes manifests of the gateway itself, for people without Helm. Pure; the chart does more."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from typing import Any

from gateway.app.rendering import ONLY_HERE
from gateway.config import Config
from gateway.contracts import Endpoint, Secret
from gateway.errors import UsageError

USER = 10001
"""Whom the image runs as."""
_SECRETS = "/run/secrets"
_MARGIN = 15
"""Seconds more than delay and drain until Kubernetes kills."""
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def workload(config: Config, text: str, name: str, image: str) -> list[dict[str, Any]]:
    """A ConfigMap with the configuration, and what runs it.

    That is a Deployment with a Service for each backend, or, where there is an NFS backend, a DaemonSet in the nodes'
    network.

    Args:
        config: The configuration.
        text: The file as it is; it holds no secrets but names their files.
        name: Of every object but the Services.
        image: Of the container.

    Raises:
        UsageError: It holds a secret itself, or what these manifests cannot do.
    """
    if any(secret.path is None for secret in _secrets([*config.tunnels.values(), *config.backends.values()])):
        raise UsageError(
            "a secret stands in the configuration itself, and everybody may read a ConfigMap: use …_file"
        )
    if any(spec.kind.single for spec in config.tunnels.values()):
        raise UsageError("a VPN needs rights that these manifests do not give: use the chart with vpn.enabled")
    if len({spec.kind.bulk for spec in config.backends.values()}) > 1:
        raise UsageError("NFS needs a gateway on each node, databases need a Service: use a file for each")
    labels = {"app.kubernetes.io/name": "gateway", "app.kubernetes.io/instance": name}
    nodes = any(spec.kind.bulk for spec in config.backends.values())
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
        "spec": _pod(config, name, image, nodes=nodes),
    }
    spec: dict[str, Any] = {"selector": {"matchLabels": labels}, "template": template}
    running = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet" if nodes else "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": spec if nodes else {"replicas": 2, **spec},
    }
    return [settings, running, *([] if nodes else _services(config, labels))]


def _secrets(value: Any) -> Iterator[Secret]:
    if isinstance(value, Secret):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _secrets(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _secrets(each)


def _pod(config: Config, name: str, image: str, *, nodes: bool) -> dict[str, Any]:
    stop = config.shutdown.delay + config.shutdown.drain
    ops = config.ops.listen.port
    # The listener of health and metrics must be reached by the kubelet, whatever the file says.
    container = {
        "name": "gateway",
        "image": image,
        "args": [
            "run",
            "-c",
            "/etc/gateway/gateway.yaml",
            "--ops-listen",
            f"0.0.0.0:{ops}",
            "--ops-admin-socket",
            f"{_WRITABLE['run']}/admin.sock",
            "--state-dir",
            _WRITABLE["state"],
        ],
        "ports": [{"name": "ops", "containerPort": ops}],
        "startupProbe": _probe("/startupz", periodSeconds=1, failureThreshold=60),
        "livenessProbe": _probe("/livez", periodSeconds=10),
        "readinessProbe": _probe("/readyz", periodSeconds=5, failureThreshold=1),
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": _RESTRICTED,
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/gateway", "readOnly": True},
            {"name": "secrets", "mountPath": _SECRETS, "readOnly": True},
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
        },
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            {"name": "secrets", "secret": {"secretName": name, "defaultMode": 0o440}},
            *({"name": each, "emptyDir": {"sizeLimit": "64Mi"}} for each in _WRITABLE),
        ],
    }


_WRITABLE = {"run": "/run/gateway", "state": "/var/lib/gateway", "tmp": "/tmp"}  # noqa: S108 - in the container


def _probe(path: str, **more: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "ops"}, "timeoutSeconds": 3, **more}


def _services(config: Config, labels: dict[str, str]) -> Iterator[dict[str, Any]]:
    for backend, spec in config.backends.items():
        addresses = [address for address in spec.listen if isinstance(address, Endpoint)]
        for address in addresses:
            if address.host.startswith(ONLY_HERE):
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
