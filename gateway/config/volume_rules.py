"""The rules of `volume`: what Docker and mount(2) would refuse, or take for something else."""

import ipaddress
import re
from collections.abc import Iterator

from gateway.backends.common.volume import VolumeOptions
from gateway.config.model import BackendSpec, Config
from gateway.contracts import Endpoint

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""What Docker takes for the name of a volume."""
_OURS = {
    "addr", "port", "proto", "vers", "nfsvers", "minorversion", "clientaddr", "mountaddr", "mountport", "mountproto",
    "mountvers", "hard", "soft", "softerr", "ro", "rw", "bg", "fg", "retry", "intr", "nointr", "resvport",
    "noresvport",
}  # fmt: skip
_SECRET = {"user", "username", "pass", "password", "password2", "cred", "credentials"}


def volume_problems(config: Config) -> Iterator[tuple[str, str, str]]:
    """The backend, the key below `volume`, and what is wrong there."""
    seen: dict[str, str] = {}
    for name, spec in config.backends.items():
        volume = getattr(spec.options, "volume", None)
        if not isinstance(volume, VolumeOptions):
            continue
        if volume.name in seen:
            yield (
                name,
                "name",
                f"{volume.name} is also the volume of backend {seen[volume.name]}: give it another name",
            )
        seen.setdefault(volume.name, name)
        yield from ((name, key, message) for key, message in _of_volume(spec, volume))


def _of_volume(spec: BackendSpec, volume: VolumeOptions) -> Iterator[tuple[str, str]]:
    if not _NAME.fullmatch(volume.name):
        yield "name", f"{volume.name!r} is no name of a volume: letters, digits and _.-, two at least"
    if spec.listen and not any(isinstance(address, Endpoint) for address in spec.listen):
        yield "name", "a kernel mounts from an address: listen on one beside the unix socket, or leave listen out"
    if volume.address is not None and not _is_address(volume.address):
        yield "address", f"{volume.address!r} is no IP address, and the engine resolves names in a network of its own"
    export = getattr(spec.options, "export", "/")
    if not export.startswith("/") or ".." in export.split("/"):
        yield "name", f"its export {export!r} must begin with / and have no .."
    for option in volume.mount_options:
        key = option.partition("=")[0]
        if re.search(r"[\s,]", option) or not option:
            yield "mount_options", f"{option!r}: one option each, without commas and spaces"
        elif key in _OURS:
            yield "mount_options", f"{key} is set by the gateway, which a mount through it depends on: leave it out"
        elif key in _SECRET:
            yield "mount_options", f"{key}: everybody may see a volume's options: mount on the host, and bind that"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
