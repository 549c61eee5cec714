"""Renders Kubernetes PersistentVolumes and PersistentVolumeClaims for the configured volumes."""

import re
from collections.abc import Iterator
from typing import Any

from gateway.backend_support.kernel_mount_properties import KernelMountProperties
from gateway.backend_support.volume_definition import VolumeSpec
from gateway.config import Config
from gateway.errors import UsageError

_CAPACITY = "1Gi"
"""The capacity of each volume. Kubernetes requires a value, but does not enforce it for network file systems."""


def persistent_volumes(config: Config) -> list[dict[str, Any]]:
    """Return a PersistentVolume and a PersistentVolumeClaim for each volume.

    Each node mounts the volumes through the gateway's pod on the same node.

    Args:
        config: The configuration. Each backend with a volume must have a listener.

    Raises:
        UsageError: The name of a volume is not valid in Kubernetes.
    """
    documents: list[dict[str, Any]] = []
    for spec in config.backends.values():
        mount, volume = spec.kind.mount, spec.kind.volume(spec.options, spec.listen, spec.hold)
        if mount is not None and volume is not None:
            documents += _documents(mount, volume)
    return documents


def _documents(mount: KernelMountProperties, volume: VolumeSpec) -> Iterator[dict[str, Any]]:
    if not re.fullmatch("[a-z0-9]([-a-z0-9.]*[a-z0-9])?", volume.name):
        raise UsageError(
            f"volume {volume.name}: a Kubernetes name consists of lowercase letters, digits, '-' and '.', with a"
            " letter or digit at both ends: rename the volume"
        )
    mode = "ReadOnlyMany" if volume.read_only else "ReadWriteMany"
    yield {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume.name},
        "spec": {
            "capacity": {"storage": _CAPACITY},
            "accessModes": [mode],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            **mount.persistent_volume(volume),
        },
    }
    yield {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": volume.name},
        "spec": {
            "accessModes": [mode],
            "storageClassName": "",
            "volumeName": volume.name,
            "resources": {"requests": {"storage": _CAPACITY}},
        },
    }
