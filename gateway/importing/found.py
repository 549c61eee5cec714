"""What an import found, and how it is written down."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from gateway.errors import UsageError

_KINDS = {3306: "mysql", 33060: "mysql", 5432: "postgres", 2049: "nfs", 445: "smb"}
_CHECKED = {"mysql", "postgres"}


@dataclass
class Found:
    """Tunnels and backends by name, and what a person must look at.

    Args:
        tunnels: Their keys.
        backends: Their keys.
        notes: What was left out, or must be completed.
    """

    tunnels: dict[str, dict[str, Any]] = field(default_factory=dict)
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Remember a note once."""
        if text not in self.notes:
            self.notes.append(text)

    def tunnel(self, keys: dict[str, Any]) -> str:
        """Add a tunnel, unless it is there; gives its name."""
        for name, known in self.tunnels.items():
            if known == keys:
                return name
        name = _unused(_short(str(keys["host"])), self.tunnels)
        self.tunnels[name] = keys
        return name

    def backend(self, via: str | None, target: str, listen: str) -> None:
        """Add a backend for a target; its kind is guessed by its port."""
        host, port = split(target)
        kind = _KINDS.get(port, "tcp")
        short = _short(host)
        name = _unused(short if short not in ("localhost", "127", "") else f"{kind}-{port}", self.backends)
        keys: dict[str, Any] = {"kind": kind, "targets": [target], "listen": listen}
        if via is not None:
            keys = {"kind": kind, "via": via, **{key: keys[key] for key in ("targets", "listen")}}
        if kind == "nfs":
            keys["export"] = "/"
            self.note(f"backends.{name}: set export to the path that is mounted")
        if kind in _CHECKED:
            self.note(f"backends.{name}: add check: {{user: …, password_file: …}}, an account that may only log in")
        self.backends[name] = keys

    def text(self) -> str:
        """The configuration file.

        Raises:
            UsageError: There is nothing in it.
        """
        if not self.backends:
            raise UsageError("nothing was found that forwards a port (-L, LocalForward)")
        sections = {"tunnels": self.tunnels, "backends": self.backends}
        return yaml.safe_dump({key: value for key, value in sections.items() if value}, sort_keys=False, width=100)


def split(target: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`.

    Raises:
        UsageError: It is neither.
    """
    match = re.fullmatch(r"\[?([^\]]*)\]?:(\d+)", target)
    if match is None or not match[1]:
        raise UsageError(f"{target!r} is no host:port")
    return match[1], int(match[2])


def _short(host: str) -> str:
    """A name for a host: its first label, or all of an address."""
    numeric = re.fullmatch(r"[0-9.:a-fA-F]*[.:][0-9.:a-fA-F]*", host)
    label = host if numeric and not host.startswith("127.") else host.partition(".")[0]
    return re.sub(r"[^a-zA-Z0-9-]", "-", label).strip("-")


def _unused(name: str, taken: Iterable[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}-{number}"
    return candidate
