"""Compose files: services that run `ssh -L`, and volumes of type nfs."""

import re
import shlex
from typing import Any

import yaml

from gateway.contracts import Endpoint
from gateway.errors import UsageError
from gateway.importing import ssh
from gateway.importing.found import Found

_NFS_PORT = 2049


def services(text: str, found: Found) -> None:
    """Add what the services tunnel, and what the volumes mount.

    Raises:
        UsageError: It is no compose file.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"this is no YAML: {error}") from None
    if not isinstance(document, dict):
        raise UsageError("this is no compose file: it has no services")
    for name, value in _mapping(document.get("services"), "services").items():
        service = _mapping(value, f"services.{name}")
        words = [word for key in ("entrypoint", "command") for word in _words(service, key, f"services.{name}")]
        line = " ".join(map(shlex.quote, words))
        # A shell that is given the command as one word.
        inner = next((word for word in words if re.search(r"\bssh\b.*\s-\w*L", word)), None)
        if inner or re.search(r"\bssh\b.*\s-\w*L", line):
            ssh.command(_only_ssh(inner or line), found)
            found.note(f"services.{name}: the gateway takes its place")
    for name, volume in _mapping(document.get("volumes"), "volumes").items():
        options = _mapping(_mapping(volume, f"volumes.{name}").get("driver_opts"), f"volumes.{name}.driver_opts")
        if str(options.get("type", "")).startswith("nfs"):
            _volume(name, {key: str(value) for key, value in options.items()}, found)


def _volume(name: str, options: dict[str, str], found: Found) -> None:
    mount = dict(part.partition("=")[::2] for part in options.get("o", "").split(","))
    server, _, export = options.get("device", "").rpartition(":")
    server = (mount.get("addr") or server).strip("[]")
    if not server or not export:
        raise UsageError(f"volumes.{name}: names no server (addr=) or no export (device)")
    version = mount.get("nfsvers") or mount.get("vers") or "4"
    if not version.startswith("4"):
        found.note(f"volumes.{name}: was mounted with NFS version {version}; through the gateway it is 4.2")
    port = mount.get("port") or str(_NFS_PORT)
    if not port.isdecimal():
        raise UsageError(f"volumes.{name}: port={port} is no port")
    found.backends[name] = {
        "kind": "nfs",
        "targets": [str(Endpoint(server, int(port)))],
        "export": export,
        "listen": "127.0.0.1:20490",
        "volume": {"name": name, **({"read_only": True} if "ro" in mount else {})},
    }
    found.note(
        f"volumes.{name}: mount what `gateway render compose` prints instead; add `via` where there is a bastion"
    )
    if sum(each.get("kind") == "nfs" for each in found.backends.values()) > 1:
        del found.backends[name]["listen"]  # a port of its own, which stays


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
    """From `ssh` on, up to where the shell goes on with something else."""
    match = re.search(r"(?:^|[\s;&/])((?:auto)?ssh\s[^;&|]*)", line)
    return match[1] if match else line
