"""Defines the result of an import (tunnels, backends and notes), and converts the result to YAML."""

import ipaddress
import re
from dataclasses import dataclass, field, fields
from typing import Any

import yaml

from gateway.backends import KINDS, kind_of_port
from gateway.errors import UsageError
from gateway.importing.imported_setup import ImportedClient, ImportedContainer, ImportedLocalForward
from gateway.secret_redaction import hide_secrets
from gateway.unique_name import unique_name

_HOST = re.compile(r"[\w.%${}-]*[\w}]")
"""Matches a host name, an IPv4 address, or a reference to a variable."""
_LOCAL = ("localhost", "127", "")
"""Results of `short_name` that are not useful names for tunnels and backends, because they mean this host."""


@dataclass
class ImportResult:
    """Collects the imported tunnels and backends, and the notes for the user.

    Args:
        tunnels: The configuration keys of each tunnel, by name.
        backends: The configuration keys of each backend, by name.
        notes: Notes on what was not imported, and on what the user must add.
        forwards: The local forwards (`ssh -L`).
        clients: The clients of remote services.
        containers: The containers of all sources.
        reserved: Names of containers that the gateway does not replace. A backend must not have one of these names.
        changes: The clients to change, each with an instruction for the user. For clients in a Compose file, the
            import can create a diff of the file instead of the instructions.
        sections: Additional sections of the configuration.
        files: The content of each file that the configuration needs, by path. No file contains secrets.
    """

    tunnels: dict[str, dict[str, Any]] = field(default_factory=dict)
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    forwards: list[ImportedLocalForward] = field(default_factory=list)
    clients: list[ImportedClient] = field(default_factory=list)
    containers: list[ImportedContainer] = field(default_factory=list)
    reserved: set[str] = field(default_factory=set)
    changes: list[tuple[ImportedClient, str]] = field(default_factory=list)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def add_note(self, text: str) -> None:
        """Add a note, with secrets replaced by `***`, unless the same note exists."""
        text = hide_secrets(text)
        if text not in self.notes:
            self.notes.append(text)

    def add_tunnel(self, keys: dict[str, Any], host: str) -> str:
        """Add a tunnel, unless a tunnel with the same keys exists. Return the name of the new or existing tunnel.

        Args:
            keys: The configuration keys.
            host: The server's host, or another string from which to derive the tunnel's name.

        Raises:
            UsageError: `keys["host"]` is not a host name, an IP address, or a reference to a variable. If this key is
                absent, the function checks the argument `host` instead.
        """
        if not is_host(str(keys.get("host", host))):
            raise UsageError(f"{keys.get('host', host)!r} is not a host name or an IP address")
        for name, existing in self.tunnels.items():
            if existing == keys:
                return name
        short = short_name(host)
        name = unique_name(short if short not in _LOCAL else str(keys["kind"]), self.tunnels)
        self.tunnels[name] = keys
        return name

    def new_backend_name(self, name: str) -> str:
        """Return an unused name for a backend.

        Args:
            name: A host name, a volume name or another string from which to derive the backend's name.
        """
        return unique_name(short_name(name) or "backend", {*self.backends, *self.reserved})

    def add_backend(self, via: str | None, target: str, listen: str) -> str:
        """Add a backend that has only a kind, a tunnel, a target and a listener. Return the backend's name.

        The port of the target determines the kind.

        Args:
            via: The name of the tunnel; None if the backend uses no tunnel.
            target: The target, as `host:port`.
            listen: The listener, in the syntax of the configuration file.

        Raises:
            UsageError: `target` is not valid.
        """
        host, port = split_target(target)
        kind = kind_of_port(port)
        short = short_name(host)
        name = self.new_backend_name(short if short not in _LOCAL else f"{kind.name}-{port}")
        keys: dict[str, Any] = {"kind": kind.name}
        if via is not None:
            keys["via"] = via
        self.backends[name] = {**keys, "targets": [target], "listen": listen}
        return name

    def replaced_names(self) -> list[str]:
        """Return the host names of the containers that the gateway replaces.

        Also return the aliases of Docker links to these containers, except aliases in `reserved`.
        """
        names = [name for each in self.containers if each.replaced for name in sorted(each.names)]
        links = [alias for each in self.containers for alias, name in each.links.items() if name in names]
        return list(dict.fromkeys([*names, *(each for each in links if each not in self.reserved)]))

    def add_example(self) -> None:
        """Add an example backend if there are only tunnels, because a configuration requires a backend."""
        used = {keys.get("via") for keys in self.tunnels.values()}
        outermost = [name for name in self.tunnels if name not in used]
        if not self.backends and outermost:
            self.backends["example"] = {"kind": "tcp", "via": outermost[-1], "targets": ["app.internal:80"]}
            self.add_note(
                f"backends.example: no source contains a service behind tunnel {outermost[-1]}; replace this example"
            )

    def note_unused_tunnels(self) -> None:
        """Add a note for each tunnel that neither a backend nor another tunnel uses."""
        used = {keys.get("via") for keys in (*self.tunnels.values(), *self.backends.values())}
        for name in self.tunnels.keys() - used:
            self.add_note(f"tunnels.{name}: no backend uses this tunnel; add `via: {name}` to the backends behind it")

    def note_variables(self) -> None:
        """Add a note that lists the environment variables to set.

        Omit `HOME`, `USER` and `SSH_AUTH_SOCK`, which a login session usually sets.
        """
        text = yaml.safe_dump({"tunnels": self.tunnels, "backends": self.backends})
        names = set(re.findall(r"(?<!\$)\$\{(\w+)\}", text)) - {"HOME", "USER", "SSH_AUTH_SOCK"}
        if names:
            shown = ", ".join(f"${{{name}}}" for name in sorted(names))
            self.add_note(
                f"the configuration uses {shown}: set the variables in the gateway's environment, or pass the .env"
                " file as another source"
            )

    def to_yaml(self) -> str:
        """Return the content of the configuration file.

        Raises:
            UsageError: The result has no backend.
        """
        if not self.backends:
            raise UsageError(
                "there is no local forward, remote database or network volume to import"
                + "".join(f"\n# {note}" for note in self.notes)
            )
        sections = {**self.sections, "tunnels": self.tunnels, "backends": self.backends}
        return yaml.safe_dump({key: value for key, value in sections.items() if value}, sort_keys=False, width=100)


def checks_login(kind: str) -> bool:
    """Return whether the health check of a backend kind logs in."""
    return has_check_key(kind, "user")


def has_check_key(kind: str, key: str) -> bool:
    """Return whether the configuration key `key` exists in the section `check` of a backend kind."""
    return any(each.name == key for each in fields(KINDS[kind].check))


def is_host(text: str) -> bool:
    """Return whether a string is a host name, an IP address without brackets, or a reference to a variable."""
    if ":" not in text:
        return bool(_HOST.fullmatch(text))
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def split_target(target: str) -> tuple[str, int]:
    """Split `host:port` or `[v6]:port` into host and port.

    Raises:
        UsageError: The target has another syntax.
    """
    match = re.fullmatch(r"\[?([^\]]*)\]?:([0-9]{1,5})", target)
    if match is None or not is_host(match[1]) or not 0 < int(match[2]) < 65536:
        raise UsageError(f"{target!r} is not host:port, as in db.internal:3306")
    return match[1], int(match[2])


def short_name(host: str) -> str:
    """Return a short name for a host. Special characters become `-`.

    The name is the first label of a host name, the complete IP address, or, for `${NAME}`, the variable's name in
    lower case. For an IPv4 loopback address such as 127.0.0.1, the name is `127`.
    """
    numeric = re.fullmatch(r"[0-9.:a-fA-F]*[.:][0-9.:a-fA-F]*", host)
    if match := re.fullmatch(r"\$\{(\w+)\}", host):
        return match[1].lower().replace("_", "-")
    label = host if numeric and not host.startswith("127.") else host.partition(".")[0]
    return re.sub(r"[^a-zA-Z0-9-]", "-", label).strip("-")[:60]
