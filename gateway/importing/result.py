"""The result of an import: tunnels, backends and notes, and their YAML."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from gateway.backends import kind_of_port
from gateway.errors import UsageError


@dataclass
class ImportResult:
    """Imported tunnels and backends.

    Args:
        tunnels: The configuration keys of each tunnel, by name.
        backends: The configuration keys of each backend, by name.
        notes: What was not imported, and what the user must add.
    """

    tunnels: dict[str, dict[str, Any]] = field(default_factory=dict)
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_note(self, text: str) -> None:
        """Add a note, unless it is already there."""
        if text not in self.notes:
            self.notes.append(text)

    def add_tunnel(self, keys: dict[str, Any]) -> str:
        """Add a tunnel, unless there is one with the same keys; return its name."""
        for name, existing in self.tunnels.items():
            if existing == keys:
                return name
        name = _unused(_short(str(keys["host"])), self.tunnels)
        self.tunnels[name] = keys
        return name

    def add_backend(self, via: str | None, target: str, listen: str) -> None:
        """Add a backend, whose kind follows from the target's port.

        Args:
            via: The name of the tunnel; None for a direct backend.
            target: The target, as `host:port`.
            listen: The listener, as the configuration writes it.

        Raises:
            UsageError: `target` is not valid.
        """
        host, port = split_target(target)
        kind = kind_of_port(port)
        short = _short(host)
        name = _unused(short if short not in ("localhost", "127", "") else f"{kind.name}-{port}", self.backends)
        keys: dict[str, Any] = {"kind": kind.name}
        if via is not None:
            keys["via"] = via
        self.backends[name] = {**keys, "targets": [target], "listen": listen, **kind.imports.keys}
        if kind.imports.note:
            self.add_note(f"backends.{name}: {kind.imports.note}")

    def to_yaml(self) -> str:
        """Return the configuration file.

        Raises:
            UsageError: The result has no backend.
        """
        if not self.backends:
            raise UsageError("there is no local forward to import (-L, LocalForward)")
        sections = {"tunnels": self.tunnels, "backends": self.backends}
        return yaml.safe_dump({key: value for key, value in sections.items() if value}, sort_keys=False, width=100)


def split_target(target: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port` into host and port.

    Raises:
        UsageError: The target has another form.
    """
    match = re.fullmatch(r"\[?([^\]]*)\]?:(\d+)", target)
    if match is None or not match[1]:
        raise UsageError(f"{target!r} is not host:port")
    return match[1], int(match[2])


def _short(host: str) -> str:
    """Return a name for a host: its first label, or the whole address, with `-` for other characters."""
    numeric = re.fullmatch(r"[0-9.:a-fA-F]*[.:][0-9.:a-fA-F]*", host)
    label = host if numeric and not host.startswith("127.") else host.partition(".")[0]
    return re.sub(r"[^a-zA-Z0-9-]", "-", label).strip("-")


def _unused(name: str, taken: Iterable[str]) -> str:
    """Return `name`, with a number appended if it is taken."""
    number, candidate = 2, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}-{number}"
    return candidate
