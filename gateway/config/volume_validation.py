"""Checks the keys of `volume` for values that Docker or mount(2) would refuse or misinterpret."""

import re
from collections.abc import Iterator

from gateway.backend_support.kernel_mount_properties import KernelMountProperties
from gateway.backend_support.volume_definition import VolumeOptions
from gateway.config.model import BackendSpec, Config
from gateway.relay.resolver import is_address

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""Matches the names that Docker accepts for volumes."""
_RESERVED = frozenset({"addr", "ip", "port", "hard", "soft", "ro", "rw", "sec"})
"""The mount options that the gateway sets itself. The configuration must not contain them."""
_SECRET = {"user", "username", "pass", "password", "password2", "cred", "credentials"}


def volume_problems(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yield each problem of a volume as a tuple: backend name, key in the backend's section, message."""
    seen: dict[str, str] = {}
    for name, spec in config.backends.items():
        volume, mount = spec.kind.volume_options(spec.options), spec.kind.mount
        if volume is None or mount is None:
            continue
        if volume.name in seen:
            message = f"{volume.name} is also the volume of backend {seen[volume.name]}: choose another name"
            yield name, "volume.name", message
        seen.setdefault(volume.name, name)
        yield from ((name, key, message) for key, message in _of_volume(spec, volume, mount))


def _of_volume(spec: BackendSpec, volume: VolumeOptions, mount: KernelMountProperties) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(volume.name):
        yield "volume.name", f"{volume.name!r} is not a volume name: use letters, digits and '_.-', at least two"
    if spec.listen and all(address.is_unix for address in spec.listen):
        yield "listen", "a volume needs a TCP address: add one in addition to the unix socket, or remove listen"
    if volume.address is not None and not is_address(volume.address):
        yield (
            "volume.address",
            f"{volume.address!r} is not an IP address: use one, because the engine may resolve a name differently",
        )
    yield from mount.problems(spec.options)
    for option in volume.mount_options:
        problem = _of_option(mount, option)
        if problem:
            yield "volume.mount_options", problem


def _of_option(mount: KernelMountProperties, option: str) -> str | None:
    key, _, value = option.partition("=")
    if re.search(r"[\s,]", option) or not option:
        return f"{option!r}: write one option per item, without commas and spaces"
    if key in mount.version_options:
        known = ", ".join(mount.versions)
        return None if value in mount.versions else f"{option}: mounts through the gateway support only {known}"
    if key in _RESERVED | mount.reserved:
        return f"{key} is set by the gateway, because the mount depends on it: remove it"
    if key in _SECRET:
        return (
            f"{key}: every user of Docker can read the options of a volume: mount the share on the host, and use a"
            " bind mount"
        )
    return None
