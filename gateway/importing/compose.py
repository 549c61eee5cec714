"""Converts compose files: services that run `ssh -L`, and volumes that a kind of backend mounts."""

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from gateway.backends import KINDS, kind_of_file_system
from gateway.backends.common.volume import ImportedVolume
from gateway.errors import UsageError
from gateway.importing import ssh
from gateway.importing.result import ImportResult


def import_compose(text: str, result: ImportResult) -> None:
    """Convert the ssh services and the network volumes of a compose file.

    Args:
        text: The content of the file.
        result: Gets the tunnels and backends.

    Raises:
        UsageError: The text is not a compose file, or a service or volume cannot be converted.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise UsageError("not a compose file: the document is not a mapping")
    for name, value in _mapping(document.get("services"), "services").items():
        service = _mapping(value, f"services.{name}")
        words = [word for key in ("entrypoint", "command") for word in _words(service, key, f"services.{name}")]
        line = " ".join(map(shlex.quote, words))
        # The command may be one word, as an argument of a shell.
        inner = next((word for word in words if re.search(r"\bssh\b.*\s-\w*L", word)), None)
        if inner or re.search(r"\bssh\b.*\s-\w*L", line):
            ssh.import_command(_only_ssh(inner or line), result)
            result.add_note(f"services.{name}: the gateway replaces this service")
    for name, volume in _mapping(document.get("volumes"), "volumes").items():
        options = _mapping(_mapping(volume, f"volumes.{name}").get("driver_opts"), f"volumes.{name}.driver_opts")
        kind = kind_of_file_system(str(options["type"])) if "type" in options else None
        if kind is not None and kind.mount is not None and kind.mount.import_volume is not None:
            read = kind.mount.import_volume
            _add_volume(name, kind.name, read, {key: str(value) for key, value in options.items()}, result)


def _add_volume(
    name: str,
    kind: str,
    read: Callable[[Mapping[str, str]], ImportedVolume],
    options: dict[str, str],
    result: ImportResult,
) -> None:
    """Add the backend of a volume.

    Args:
        name: The volume's name.
        kind: The kind of the backend.
        read: Returns the backend's keys from the volume's driver options.
        options: The volume's driver options.
        result: Gets the backend.
    """
    try:
        keys, notes = read(options)
    except ValueError as error:
        raise UsageError(f"volumes.{name}: {error}") from None
    volume = {"name": name, **keys.pop("volume", {})}
    result.backends[name] = {"kind": kind, **keys, "listen": "127.0.0.1:20490", "volume": volume}
    for note in (
        *notes,
        "replace it with the output of `gateway render compose`; add `via` if there is a bastion",
    ):
        result.add_note(f"volumes.{name}: {note}")
    if sum(KINDS[each["kind"]].kernel_mounts for each in result.backends.values()) > 1:
        del result.backends[name]["listen"]  # the gateway then allocates a port for each volume


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a mapping of keys and values")
    return {str(key): inner for key, inner in value.items()}


def _words(service: dict[str, Any], key: str, where: str) -> list[str]:
    value = service.get(key)
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise UsageError(f"{where}.{key}: {error}") from error
    return [str(each) for each in value] if isinstance(value, list) else []


def _only_ssh(line: str) -> str:
    """Return the ssh command in a shell command line."""
    match = re.search(r"(?:^|[\s;&/])((?:auto)?ssh\s[^;&|]*)", line)
    return match[1] if match else line
