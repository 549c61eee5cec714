"""Renders Kubernetes manifests that run the gateway without Helm. The Helm chart has more options."""

import hashlib
from collections.abc import Iterator
from itertools import count
from typing import Any

import yaml

from gateway.config import Config
from gateway.config_rendering.kubernetes_compatibility import (
    SECRETS,
    WRITABLE,
    needs_secret,
    privileged_ports,
    validate,
)
from gateway.config_rendering.persistent_volumes import persistent_volumes
from gateway.relay.resolver import is_loopback

USER = 10001
"""The user ID and group ID of the process in the image."""
_GRACE = 15
"""Seconds by which `terminationGracePeriodSeconds` exceeds the sum of `shutdown.delay` and `shutdown.drain`.
The gateway can thus exit before Kubernetes kills the pod."""
_LOW_PORTS = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
_ON_EVERY_NODE = {
    "hostNetwork": True,
    "dnsPolicy": "ClusterFirstWithHostNet",
    "tolerations": [{"operator": "Exists"}],
}
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def kubernetes(config: Config, text: str, name: str, image: str, *, podman: bool = False) -> str:
    """Return the manifests as YAML: a ConfigMap, a workload, and Services or volumes for clients.

    For backends that the kernel mounts, such as NFS, the workload is a DaemonSet with `hostNetwork` on all nodes,
    including nodes with taints, and each volume has a PersistentVolume and a PersistentVolumeClaim.

    For other backends, the workload is a Deployment, and each backend that listens on a port has a Service.

    Args:
        config: The configuration.
        text: The content of the configuration file for the ConfigMap. The content must not include secrets, only
            paths of files with secrets.
        name: The name of the workload, the ConfigMap and the Secret.
        image: The container's image.
        podman: Whether to render for `podman kube play`, without Services and PersistentVolumes.

    Raises:
        UsageError: The manifests cannot run this configuration, or the name of a volume is not valid in Kubernetes.
    """
    validate(config, name, services=not podman)
    labels = {"app.kubernetes.io/name": "gateway", "app.kubernetes.io/instance": name}
    on_nodes = any(spec.kind.kernel_mounts for spec in config.backends.values())
    config_map = {
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
        "spec": _pod(config, name, image, on_nodes=on_nodes),
    }
    if podman:
        _adapt_to_podman(template["spec"])
    spec: dict[str, Any] = {"selector": {"matchLabels": labels}, "template": template}
    workload = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet" if on_nodes else "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": spec if on_nodes else {"replicas": 1 if podman else 2, **spec},
    }
    documents = [config_map, workload]
    if not podman:
        documents += persistent_volumes(config) if on_nodes else _services(config, labels)
    return yaml.safe_dump_all(documents, sort_keys=False)


def _adapt_to_podman(pod: dict[str, Any]) -> None:
    """Replace or remove the keys of a pod that `podman kube play` does not support."""
    # Podman ignores fsGroup, so the files of a Secret belong to group root. Add this group, so that the gateway can
    # read the files.
    del pod["securityContext"]["fsGroup"]
    pod["securityContext"]["supplementalGroups"] = [0]
    (container,) = pod["containers"]
    for probe in ("startupProbe", "livenessProbe"):
        # Podman implements httpGet by running curl in the container, and the image has no curl.
        del container[probe]["httpGet"]
        container[probe]["exec"] = {"command": ["gateway", "healthcheck"]}
    del container["readinessProbe"]  # Podman does not support readiness probes


def _pod(config: Config, name: str, image: str, *, on_nodes: bool) -> dict[str, Any]:
    stop = config.shutdown.delay + config.shutdown.drain
    probe_port = _probe_port(config)
    hosts = [each.host for each in (config.ops.listen, config.ops.probe_listen) if each is not None]
    # Listen on all addresses, because the kubelet connects from outside the pod.
    wildcard = "[::]" if "::" in hosts else "0.0.0.0"  # noqa: S104 - see the comment above
    secret = needs_secret(config)
    secret_mount = [{"name": "secrets", "mountPath": SECRETS, "readOnly": True}] if secret else []
    secret_volume = [{"name": "secrets", "secret": {"secretName": name, "defaultMode": 0o440}}] if secret else []
    container = {
        "name": "gateway",
        "image": image,
        "args": [
            "run",
            "-c",
            "/etc/gateway/gateway.yaml",
            "--ops-probe-listen",
            f"{wildcard}:{probe_port}",
            "--ops-admin-socket",
            f"{WRITABLE['run']}/admin.sock",
            "--state-dir",
            WRITABLE["state"],
        ],
        "ports": [
            {"name": "probes", "containerPort": probe_port},
            *(
                []
                if is_loopback(config.ops.listen.host)
                else [{"name": "ops", "containerPort": config.ops.listen.port}]
            ),
        ],
        "startupProbe": _probe("/startupz", periodSeconds=1, failureThreshold=120),
        "livenessProbe": _probe("/livez", periodSeconds=10),
        "readinessProbe": _probe("/readyz", periodSeconds=5, failureThreshold=1),
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": _RESTRICTED,
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/gateway", "readOnly": True},
            *secret_mount,
            *({"name": volume, "mountPath": path} for volume, path in WRITABLE.items()),
        ],
    }
    return {
        **(_ON_EVERY_NODE if on_nodes else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": int(stop) + _GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            **({"sysctls": [_LOW_PORTS]} if privileged_ports(config) else {}),
        },
        "containers": [container],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            *secret_volume,
            *({"name": volume, "emptyDir": {"sizeLimit": "64Mi"}} for volume in WRITABLE),
        ],
    }


def _probe_port(config: Config) -> int:
    """Return the port of `ops.probe_listen`. If it is not set, return the next unused port after `ops.listen`."""
    if config.ops.probe_listen is not None:
        return config.ops.probe_listen.port
    addresses = [each for spec in config.backends.values() for each in spec.listen if not each.is_unix]
    taken = {config.ops.listen.port, *(each.port for each in addresses)}
    return next(port for port in count(config.ops.listen.port) if port not in taken)


def _probe(path: str, **more: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "probes"}, "timeoutSeconds": 3, **more}


def _services(config: Config, labels: dict[str, str]) -> Iterator[dict[str, Any]]:
    for backend, spec in config.backends.items():
        if ports := sorted({address.port for address in spec.listen if not address.is_unix}):
            yield {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": backend, "labels": labels},
                "spec": {
                    "selector": labels,
                    "ports": [{"name": f"p{port}", "port": port, "targetPort": port} for port in ports],
                },
            }
