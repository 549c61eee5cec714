"""Decides which configured volumes to create or recreate, and finds problems with mounts. Does no I/O."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.backend_support.volume_definition import VolumeSpec
from gateway.docker.labels import INSTANCE, MANAGED_BY, SPEC_HASH
from gateway.docker.volumes import EngineVolume, VolumeStatus


def volume_status(spec: VolumeSpec, there: EngineVolume | None, prefix: str, instance: str) -> VolumeStatus:
    """Return the status of a configured volume.

    Args:
        spec: The configured volume.
        there: The engine's volume of the same name; None if there is none.
        prefix: The prefix of the gateway's labels.
        instance: This gateway's name.
    """
    if there is None:
        return VolumeStatus(spec, "create", "pending", "it is missing")
    same = there.driver == spec.driver and dict(there.options) == spec.driver_options
    labels = there.labels
    ours = labels.get(f"{prefix}.{MANAGED_BY}") == "gateway" and labels.get(f"{prefix}.{INSTANCE}") == instance
    if same:
        return VolumeStatus(spec, None, "kept", "" if ours else "another program created it, with the same options")
    differs = ", ".join(_differences(spec.driver_options, there.options)) or f"driver {there.driver}"
    if not ours:
        return VolumeStatus(spec, None, "blocked", f"another program created a volume of that name: {differs}")
    if there.used:
        message = (
            f"its options differ ({differs}), and it is in use: remove the containers that use it, and the gateway"
            " recreates it"
        )
        return VolumeStatus(spec, None, "drifted", message)
    return VolumeStatus(spec, "recreate", "pending", f"its options differ: {differs}")


def create_body(spec: VolumeSpec, prefix: str, instance: str) -> dict[str, Any]:
    """Return the body of the request that creates a volume."""
    return {
        "Name": spec.name,
        "Driver": spec.driver,
        "DriverOpts": spec.driver_options,
        "Labels": {
            f"{prefix}.{MANAGED_BY}": "gateway",
            f"{prefix}.{INSTANCE}": instance,
            f"{prefix}.{SPEC_HASH}": hashlib.sha256(
                json.dumps(spec.driver_options, sort_keys=True).encode()
            ).hexdigest()[:16],
        },
    }


def _differences(wanted: Mapping[str, str], there: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(wanted.keys() | there.keys()):
        if wanted.get(key) != there.get(key):
            if key == "o":
                missing = set(wanted.get(key, "").split(",")) ^ set(there.get(key, "").split(","))
                yield f"o: {' '.join(sorted(missing))}"
            else:
                yield f"{key}: {there.get(key)!r} instead of {wanted.get(key)!r}"


def mount_problems(
    info: Mapping[str, Any], host: str, own_mode: str | None, specs: tuple[VolumeSpec, ...]
) -> Iterator[str]:
    """Yield a message for each reason why the engine cannot mount the configured volumes.

    Args:
        info: The response to `/info`.
        host: The engine's address, as configured.
        own_mode: The network mode of the gateway's own container; None if the gateway does not run in a container.
        specs: The configured volumes.
    """
    if not specs:
        return
    if any("rootless" in str(each) for each in info.get("SecurityOptions") or ()):
        yield (
            "volumes: a rootless engine cannot mount network file systems: mount the file system on the host, and use"
            " a bind mount"
        )
    if "Docker Desktop" in str(info.get("OperatingSystem", "")):
        yield "volumes: Docker Desktop mounts volumes in a virtual machine with its own 127.0.0.1: set volume.address"
    loopback = [spec.name for spec in specs if spec.address.startswith("127.") or spec.address == "::1"]
    if loopback and not host.startswith("unix://"):
        yield f"volumes {', '.join(loopback)}: 127.0.0.1 is the engine's host, not the gateway's: set volume.address"
    if loopback and own_mode is not None and own_mode != "host":
        yield (
            f"volumes {', '.join(loopback)}: the gateway's container does not use the host's network, so the engine "
            "cannot reach the listener: run the gateway's container with --network host, or publish the port and set"
            " volume.address"
        )
