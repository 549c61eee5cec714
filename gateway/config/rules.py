"""The rules between parts of a configuration: references, loops, clashing listeners."""

import contextlib
import dataclasses
import ipaddress
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config import values
from gateway.config.decode import suggest
from gateway.config.model import Config
from gateway.config.tree import Scalar, Sequence, Table
from gateway.contracts import Duration, Endpoint
from gateway.errors import Problem

_MAX_PORT = 65535


def check_rules(config: Config, root: Table, problems: list[Problem]) -> None:
    """Add every broken rule to `problems`.

    References and listeners are read from the tree, so that they are checked in a part that is broken elsewhere.
    """
    vias = _vias(root, "tunnels")
    for section in ("tunnels", "backends"):
        for name, via in _vias(root, section).items():
            if via is not None and via not in vias:
                message = f"there is no tunnel {via!r}{suggest(via, vias)}"
                problems.append(Problem(_place(root, section, name, "via"), f"{section}.{name}.via", message))
    _check_loops(vias, root, problems)
    _check_listeners(config, root, problems)
    _check_numbers(config, root, problems)


def _check_loops(vias: dict[str, str | None], root: Table, problems: list[Problem]) -> None:
    told: set[str] = set()
    for name in vias:
        chain = [name]
        while (via := vias[chain[-1]]) in vias and via not in chain:
            chain.append(str(via))
        if via in chain and not told & set(chain):
            told |= set(chain)
            loop = [*chain[chain.index(str(via)) :], str(via)]
            place = _place(root, "tunnels", loop[0], "via")
            problems.append(Problem(place, f"tunnels.{loop[0]}.via", f"goes in a circle: {' → '.join(loop)}"))


def _check_listeners(config: Config, root: Table, problems: list[Problem]) -> None:
    taken: list[tuple[str, Endpoint | Path]] = [
        ("ops.listen", config.ops.listen),
        ("ops.admin_socket", config.ops.admin_socket),
    ]
    for name, table in _tables(root, "backends"):
        key = f"backends.{name}.listen"
        for place, listener in _listeners(table):
            other = next((other for other, address in taken if _clash(listener, address)), None)
            if other is not None:
                problems.append(Problem(place, key, f"{listener} is taken by {other}: choose another address"))
            taken.append((key, listener))


def _listeners(table: Table) -> Iterator[tuple[str, Endpoint | Path]]:
    tree = table.entries.get("listen", ("", Scalar("", None)))[1]
    for item in tree.items if isinstance(tree, Sequence) else [tree]:
        if isinstance(item, Scalar) and item.text:
            with contextlib.suppress(ValueError):  # told already, where the value was read
                yield item.place, values.listener(item.text)


def _check_numbers(config: Config, root: Table, problems: list[Problem]) -> None:
    for name, spec in config.backends.items():
        check = spec.check
        rules = {
            "max_connections": (spec.max_connections >= 1, "must be at least 1"),
            "check.rise": (check.rise >= 1, "must be at least 1"),
            "check.fall": (check.fall >= 1, "must be at least 1"),
            "check.timeout": (check.timeout > 0, "must be more than 0"),
            "check.interval": (check.interval > 0, "must be more than 0"),
            "check.fast_interval": (check.fast_interval > 0, "must be more than 0"),
            "check.down_interval": (check.down_interval > 0, "must be more than 0"),
            "prefer": (
                spec.kind.has_roles or spec.prefer in ("any", "order"),
                f"{spec.prefer} needs roles, which {spec.kind.name} does not have: use any or order",
            ),
        }
        for key, (kept, message) in rules.items():
            if not kept:
                place = _place(root, "backends", name, *key.split("."))
                problems.append(Problem(place, f"backends.{name}.{key}", message))
    for name, tunnel in config.tunnels.items():
        for key, message in _bad_numbers(tunnel.options, ""):
            place = _place(root, "tunnels", name, *key.split("."))
            problems.append(Problem(place, f"tunnels.{name}.{key}", message))
        connections = getattr(tunnel.options, "connections", None)
        if connections is not None and not 1 <= connections.min <= connections.max:
            place = _place(root, "tunnels", name, "connections")
            problems.append(Problem(place, f"tunnels.{name}.connections", "needs 1 <= min <= max"))


def _bad_numbers(options: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Deadlines and counts of nothing, and ports that are none."""
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value, key = getattr(options, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _bad_numbers(value, f"{key}.")
        elif field.name == "port" and not 0 < value <= _MAX_PORT:
            yield key, f"must be from 1 to {_MAX_PORT}"
        elif (hints[field.name] is Duration or field.name == "count") and value <= 0:
            yield key, "must be more than 0"


def _clash(one: Endpoint | Path, other: Endpoint | Path) -> bool:
    if isinstance(one, Path) or isinstance(other, Path):
        return one == other
    if one.port != other.port:
        return False
    hosts = {_address(one.host), _address(other.host)}
    if len(hosts) == 1:
        return True
    # The v6 wildcard socket is bound v6-only, so it clashes only with v6 addresses.
    versions = {host.version for host in hosts}
    return len(versions) == 1 and any(host.is_unspecified for host in hosts)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.partition("%")[0])


def _tables(root: Table, section: str) -> list[tuple[str, Table]]:
    held = root.entries[section][1] if section in root.entries else root
    entries = held.entries if isinstance(held, Table) and held is not root else {}
    return [(name, tree) for name, (_, tree) in entries.items() if isinstance(tree, Table)]


def _vias(root: Table, section: str) -> dict[str, str | None]:
    """What each tunnel or backend says it goes through."""
    found: dict[str, str | None] = {}
    for name, table in _tables(root, section):
        tree = table.entries.get("via", ("", None))[1]
        found[name] = tree.text if isinstance(tree, Scalar) else None
    return found


def _place(root: Table, *path: str) -> str:
    """Where the value at `path` was written, or the innermost part of it that was."""
    place, table = root.place, root
    for name in path:
        if name not in table.entries:
            return place
        place, found = table.entries[name]
        if not isinstance(found, Table):
            return found.place
        table = found
    return place
