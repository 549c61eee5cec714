"""The short form of a tunnel or backend: one URL, whose query carries every key of the file."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from gateway.backends import BackendKind
from gateway.config.decode import suggest
from gateway.config.tree import Scalar, Sequence, Table, Tree
from gateway.errors import Problem
from gateway.tunnels import TunnelKind

K = TypeVar("K")

_LISTS = {
    "identity_files",
    "certificate_files",
    "known_hosts",
    "host_keys",
    "ciphers",
    "listen",
    "allow",
    "targets",
}
_SECRETS = {"password", "passphrase", "check.password"}


def tunnel_tree(text: str, place: str, kinds: Mapping[str, TunnelKind], problems: list[Problem]) -> Table | None:
    """`ssh://user@host:port?identity_files=…` as the mapping that a file would hold."""
    found = _split(text, place, kinds, lambda kind: kind.schemes, "ssh://user@host", problems)
    if found is None:
        return None
    kind, scheme, authority, query = found
    if re.match(r"[^/]*:[^/]*@", authority):
        problems.append(Problem(place, "", "a password in the URL would show in process lists: use password_file="))
        return None
    table = Table(place)
    table.put("kind", Scalar(place, kind.name))
    for key, value in (kind.read_url or _user_host_port)(scheme, authority).items():
        table.put(key, Scalar(place, value or None))
    _put_query(table, query, place, problems)
    return table


def _user_host_port(scheme: str, authority: str) -> dict[str, str]:
    del scheme
    user, at, host = authority.rpartition("@")
    name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
    found = {"user": unquote(user)} if at else {}
    found["host"] = name.strip("[]")
    return found | ({"port": port} if port else {})


def backend_tree(text: str, place: str, kinds: Mapping[str, BackendKind], problems: list[Problem]) -> Table | None:
    """`mysql://db-1:3306,db-2:3306?via=…` as the mapping that a file would hold."""
    found = _split(text, place, kinds, lambda kind: (kind.scheme,), "mysql://host:port", problems)
    if found is None:
        return None
    kind, scheme, authority, query = found
    if "@" in authority:
        problems.append(Problem(place, "", "a backend's URL names no user: use check.user="))
        return None
    authority, slash, path = authority.partition("/")
    table = Table(place)
    table.put("kind", Scalar(place, kind.name))
    table.put("targets", Sequence(place, [Scalar(place, target) for target in authority.split(",") if target]))
    if path:
        if scheme == "smb":
            table.put("share", Scalar(place, unquote(path)))
        else:
            table.put("export", Scalar(place, slash + unquote(path)))
    _put_query(table, query, place, problems)
    return table


def _split(
    text: str,
    place: str,
    kinds: Mapping[str, K],
    schemes_of: Callable[[K], tuple[str, ...]],
    example: str,
    problems: list[Problem],
) -> tuple[K, str, str, list[tuple[str, str]]] | None:
    if "://" not in text:
        problems.append(Problem(place, "", f"must be a URL such as {example}"))
        return None
    parts = urlsplit(text)
    # Most kinds have the name of their scheme: then no other needs to be imported.
    namesake = kinds.get(parts.scheme)
    if namesake is not None and parts.scheme in schemes_of(namesake):
        schemes = {parts.scheme: namesake}
    else:
        schemes = {scheme: kind for kind in kinds.values() for scheme in schemes_of(kind)}
    if parts.scheme not in schemes:
        problems.append(Problem(place, "", f"unknown scheme {parts.scheme!r}{suggest(parts.scheme, schemes)}"))
        return None
    query = parse_qsl(parts.query, keep_blank_values=True)
    return schemes[parts.scheme], parts.scheme, parts.netloc + parts.path, query


def _put_query(table: Table, query: list[tuple[str, str]], place: str, problems: list[Problem]) -> None:
    seen: set[str] = set()
    for key, text in query:
        if key in seen and key not in _LISTS:
            problems.append(Problem(place, key, "is given twice: remove one"))
        seen.add(key)
        _put(table, key.split("."), _tree(key, text, place), place)


def _tree(key: str, text: str, place: str) -> Tree:
    if key in _LISTS:
        return Sequence(place, [Scalar(place, part) for part in text.split(",") if part])
    return Scalar(place, text or None)


def _put(table: Table, path: list[str], value: Tree, place: str) -> None:
    for name in path[:-1]:
        inner = table.entries.get(name, (place, Table(place)))[1]
        if not isinstance(inner, Table):
            inner = Table(place)
        table.put(name, inner)
        table = inner
    old = table.entries.get(path[-1], (place, None))[1]
    if isinstance(old, Sequence) and isinstance(value, Sequence):
        value = Sequence(place, old.items + value.items)
    table.put(path[-1], value)


def secrets_in(table: Table, prefix: str = "") -> list[str]:
    """The keys of `table` that carry a secret itself, rather than its file."""
    found = []
    for name, (_, value) in table.entries.items():
        key = f"{prefix}{name}"
        if isinstance(value, Table):
            found += secrets_in(value, f"{key}.")
        elif key in _SECRETS:
            found.append(key)
    return found
