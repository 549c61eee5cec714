"""Compose files: services that run `ssh -L`, and volumes of type nfs."""

import re
import shlex
from typing import Any

import yaml

from gateway.errors import UsageError
from gateway.importing import ssh
from gateway.importing.found import Found


def services(text: str, found: Found) -> None:
    """Add what the services tunnel, and what the volumes mount.

    Raises:
        UsageError: It is no compose file.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"this is no YAML: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("services", {}), dict):
        raise UsageError("this is no compose file: it has no services")
    for name, service in document.get("services", {}).items():
        words = _words(service.get("entrypoint")) + _words(service.get("command"))
        line = " ".join(map(shlex.quote, words))
        # A shell that is given the command as one word.
        inner = next((word for word in words if re.search(r"\bssh\b.*\s-\w*L", word)), None)
        if inner or re.search(r"\bssh\b.*\s-\w*L", line):
            ssh.command(_only_ssh(inner or line), found)
            found.note(f"services.{name}: the gateway takes its place")
    for name, volume in (document.get("volumes") or {}).items():
        options = (volume or {}).get("driver_opts") or {}
        if str(options.get("type", "")).startswith("nfs"):
            _volume(name, {key: str(value) for key, value in options.items()}, found)


def _volume(name: str, options: dict[str, str], found: Found) -> None:
    mount = dict(part.partition("=")[::2] for part in options.get("o", "").split(","))
    server, _, export = options.get("device", "").rpartition(":")
    server = mount.get("addr") or server
    if not server or not export:
        raise UsageError(f"volumes.{name}: names no server (addr=) or no export (device)")
    found.backends[name] = {
        "kind": "nfs",
        "targets": [f"{server}:{mount.get('port') or 2049}"],
        "export": export,
        "listen": "127.0.0.1:20490",
        "volume": {"name": name, **({"read_only": True} if "ro" in mount else {})},
    }
    found.note(
        f"volumes.{name}: mount what `gateway render compose` prints instead; add `via` where there is a bastion"
    )
    if sum(each.get("kind") == "nfs" for each in found.backends.values()) > 1:
        del found.backends[name]["listen"]  # a port of its own, which stays


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return shlex.split(value)
    return [str(each) for each in value or []]


def _only_ssh(line: str) -> str:
    """From `ssh` on, up to where the shell goes on with something else."""
    match = re.search(r"(?:^|[\s;&/])((?:auto)?ssh\s[^;&|]*)", line)
    return match[1] if match else line
