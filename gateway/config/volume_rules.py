"""The rules of `volume`: what Docker and mount(2) would refuse, or take for something else."""

import re
from collections.abc import Iterator

from gateway.backends.common.volume import MountKind, VolumeOptions
from gateway.config.model import BackendSpec, Config
from gateway.contracts import Endpoint
from gateway.relay.resolver import is_address

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""What Docker takes for the name of a volume."""
_RESERVED = frozenset({"addr", "ip", "port", "hard", "soft", "ro", "rw", "sec"})
"""The mount options that the gateway sets for every kind."""
_SECRET = {"user", "username", "pass", "password", "password2", "cred", "credentials"}


def volume_problems(config: Config) -> Iterator[tuple[str, str, str]]:
    """The backend, the key below it, and what is wrong there."""
    seen: dict[str, str] = {}
    for name, spec in config.backends.items():
        volume, mount = spec.kind.volume_options(spec.options), spec.kind.mount
        if volume is None or mount is None:
            continue
        if volume.name in seen:
            message = f"{volume.name} is also the volume of backend {seen[volume.name]}: give it another name"
            yield name, "volume.name", message
        seen.setdefault(volume.name, name)
        yield from ((name, key, message) for key, message in _of_volume(spec, volume, mount))


def _of_volume(spec: BackendSpec, volume: VolumeOptions, mount: MountKind) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(volume.name):
        yield "volume.name", f"{volume.name!r} is no name of a volume: letters, digits and _.-, two at least"
    if spec.listen and not any(isinstance(address, Endpoint) for address in spec.listen):
        yield "listen", "a kernel mounts from an address: listen on one beside the unix socket, or leave listen out"
    if volume.address is not None and not is_address(volume.address):
        yield (
            "volume.address",
            f"{volume.address!r} is no IP address, and the engine resolves names in a network of its own",
        )
    yield from mount.problems(spec.options)
    for option in volume.mount_options:
        problem = _of_option(mount, option)
        if problem:
            yield "volume.mount_options", problem


def _of_option(mount: MountKind, option: str) -> str | None:
    key, _, value = option.partition("=")
    if re.search(r"[\s,]", option) or not option:
        return f"{option!r}: one option each, without commas and spaces"
    if key in ("vers", "nfsvers"):
        known = ", ".join(mount.versions)
        return None if value in mount.versions else f"{option}: a mount through the gateway is of version {known}"
    if key in _RESERVED | mount.reserved:
        return f"{key} is set by the gateway, which a mount through it depends on: leave it out"
    if key in _SECRET:
        return f"{key}: everybody may see a volume's options: mount on the host, and bind that"
    return None
