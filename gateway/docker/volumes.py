"""Defines the volumes of an engine, the status of configured volumes, and the addresses that mounts connect to."""

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.backend_support.volume_definition import VolumeSpec


@dataclass(frozen=True)
class EngineVolume:
    """A Docker volume that exists on the engine."""

    name: str
    driver: str
    options: Mapping[str, str]
    labels: Mapping[str, str]
    used: bool
    """Whether any container, running or not, refers to the volume."""


@dataclass(frozen=True)
class VolumeStatus:
    """The status of a configured volume.

    Args:
        change: The necessary action; None if the volume needs no action.
        state: `kept`: the volume is correct. `pending`: the gateway creates or recreates the volume. `drifted`: the
            volume's options are wrong, but a container uses the volume. `blocked`: another program created a volume
            with the same name but other options.
        message: Details; can be empty if `state` is `kept`.
    """

    spec: VolumeSpec
    change: Literal["create", "recreate"] | None
    state: Literal["kept", "pending", "drifted", "blocked"]
    message: str = ""


@dataclass(frozen=True)
class VolumeMountAddress:
    """An address that the engine's host connects to when it mounts a volume of a backend.

    Args:
        backend: The name of the backend.
        host: The backend's `volume.address`, or the IP address of the backend's listener (can be a wildcard).
        port: The port of the backend's listener.
        default_port: The port that the kernel uses if the mount options contain no port.
        is_share: Whether the device of a mount has the form `//server/share`.
    """

    backend: str
    host: str
    port: int
    default_port: int
    is_share: bool = False

    def is_at(self, address: str, port: int | None, bridges: Collection[str] = (), *, is_share: bool = False) -> bool:
        """Return whether a mount with the options `addr` and `port` connects to this `VolumeMountAddress`.

        Args:
            address: The mount option `addr`.
            port: The mount option `port`; None if it is absent.
            bridges: The addresses of the engine's host on its bridge networks.
            is_share: Whether the device of the mount has the form `//server/share`. If there is no mount option
                `port`, the default port depends on this form.
        """
        if port is None and is_share is not self.is_share:
            return False
        if (self.default_port if port is None else port) != self.port:
            return False
        found, host = _parsed(address), _parsed(self.host)
        if found is not None and host is not None and host.is_unspecified:
            return found.version == host.version and (found.is_loopback or found in map(_parsed, bridges))
        return (found or address) == (host or self.host)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None
