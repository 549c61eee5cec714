"""Converts compose files: services that run `ssh -L`, and NFS volumes."""

import re
import shlex
from typing import Any

import yaml

from gateway.contracts import Endpoint
from gateway.errors import UsageError
from gateway.importing import ssh
from gateway.importing.result import ImportResult

_NFS_PORT = 2049


def import_compose(text: str, result: ImportResult) -> None:
    """Convert the ssh services and NFS volumes of a compose file.

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
        if str(options.get("type", "")).startswith("nfs"):
            _volume(name, {key: str(value) for key, value in options.items()}, result)


def _volume(name: str, options: dict[str, str], result: ImportResult) -> None:
    mount = dict(part.partition("=")[::2] for part in options.get("o", "").split(","))
    server, _, export = options.get("device", "").rpartition(":")
    server = (mount.get("addr") or server).strip("[]")
    if not server or not export:
        raise UsageError(f"volumes.{name}: the server (addr=) or the export (device) is missing")
    version = mount.get("nfsvers") or mount.get("vers") or "4"
    if not version.startswith("4"):
        result.add_note(f"volumes.{name}: NFS version {version} becomes 4.2 through the gateway")
    port = mount.get("port") or str(_NFS_PORT)
    if not port.isdecimal():
        raise UsageError(f"volumes.{name}: port={port} is not a port number")
    result.backends[name] = {
        "kind": "nfs",
        "targets": [str(Endpoint(server, int(port)))],
        "export": export,
        "listen": "127.0.0.1:20490",
        "volume": {"name": name, **({"read_only": True} if "ro" in mount else {})},
    }
    result.add_note(
        f"volumes.{name}: replace it with the output of `gateway render compose`; add `via` if there is a bastion"
    )
    if sum(each.get("kind") == "nfs" for each in result.backends.values()) > 1:
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
