"""Parses URLs that define a tunnel or backend. The query of a URL contains keys such as `via`."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from gateway.backends import BackendKind
from gateway.config.model import CommonBackendOptions, CommonCheckOptions, CommonTunnelOptions
from gateway.config.parsed_tree import ParsedMapping, ParsedScalar, ParsedSequence, Tree
from gateway.config.schema import hints_by_key, is_list, is_secret
from gateway.config.suggestions import suggest
from gateway.errors import ConfigProblem
from gateway.tunnels import TunnelKind

K = TypeVar("K")


def values_in(text: str) -> Iterator[str]:
    """Yield each value in the query of a URL. If a value contains commas, also yield the parts between the commas."""
    for part in text.partition("?")[2].split("&"):
        value = part.partition("=")[2]
        yield from (value, *value.split(","))


def tunnel_tree(
    text: str, place: str, kinds: Mapping[str, TunnelKind], problems: list[ConfigProblem]
) -> ParsedMapping | None:
    """Convert a URL such as `ssh://user@host:port?identity_files=…` to the mapping of a tunnel in a YAML file.

    Args:
        text: The URL.
        place: The environment variable or flag that contains the URL.
        kinds: The kinds of tunnels by name.
        problems: The list to which problems are added.

    Returns:
        The mapping. If the URL is not valid, the function adds a problem and returns None.
    """
    found = _split(text, place, kinds, lambda kind: kind.schemes, "ssh://user@host", problems)
    if found is None:
        return None
    kind, scheme, authority, query = found
    if ":" in authority.rpartition("@")[0]:
        problems.append(
            ConfigProblem(
                place,
                "",
                "the URL contains a password: replace it with the parameter password_file, as in ?password_file=FILE",
            )
        )
        return None
    table = ParsedMapping(place)
    table.put("kind", ParsedScalar(place, kind.name))
    try:
        keys = (kind.read_url or _user_host_port)(scheme, authority)
    except ValueError as error:
        problems.append(ConfigProblem(place, "", str(error)))
        return None
    for key, value in keys.items():
        table.put(key, ParsedScalar(place, value or None))
    _put_query(table, query, _keys_of_tunnel(kind), place, problems)
    return table


def _user_host_port(scheme: str, authority: str) -> dict[str, str]:
    del scheme
    user, at, host = authority.rpartition("@")
    name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
    if ":" in name and not (name.startswith("[") and name.endswith("]")):
        raise ValueError(f"{host!r} is not host:port: write an IPv6 address in brackets, as in [fd00::1]:22")
    found = {"user": unquote(user)} if at else {}
    found["host"] = unquote(name.strip("[]"))
    return found | ({"port": port} if port else {})


def backend_tree(
    text: str, place: str, kinds: Mapping[str, BackendKind], problems: list[ConfigProblem]
) -> ParsedMapping | None:
    """Convert a URL such as `mysql://db-1:3306,db-2:3306?via=…` to the mapping of a backend in a YAML file.

    Args:
        text: The URL.
        place: The environment variable or flag that contains the URL.
        kinds: The kinds of backends by name.
        problems: The list to which problems are added.

    Returns:
        The mapping. If the URL is not valid, the function adds a problem and returns None.
    """
    found = _split(text, place, kinds, lambda kind: kind.schemes, "mysql://host:port", problems)
    if found is None:
        return None
    kind, scheme, authority, query = found
    if "@" in authority:
        problems.append(
            ConfigProblem(place, "", "the URL of a backend cannot contain a user: use the parameter check.user")
        )
        return None
    authority, slash, path = authority.partition("/")
    table = ParsedMapping(place)
    table.put("kind", ParsedScalar(place, kind.name))
    table.put(
        "targets", ParsedSequence(place, [ParsedScalar(place, target) for target in authority.split(",") if target])
    )
    try:
        keys = kind.read_url(scheme, slash + unquote(path))
    except ValueError as error:
        problems.append(ConfigProblem(place, "", str(error)))
        return None
    for key, value in keys.items():
        _put(table, key.split("."), ParsedScalar(place, value), place)
    _put_query(table, query, _keys_of_backend(kind), place, problems)
    return table


def _keys_of_tunnel(kind: TunnelKind) -> dict[str, Any]:
    return dict((*hints_by_key(CommonTunnelOptions), *hints_by_key(kind.options)))


def _keys_of_backend(kind: BackendKind) -> dict[str, Any]:
    keys = (*hints_by_key(CommonBackendOptions), *hints_by_key(kind.options))
    return dict((*keys, *hints_by_key(CommonCheckOptions, "check."), *hints_by_key(kind.check, "check.")))


def _split(
    text: str,
    place: str,
    kinds: Mapping[str, K],
    schemes_of: Callable[[K], tuple[str, ...]],
    example: str,
    problems: list[ConfigProblem],
) -> tuple[K, str, str, str] | None:
    if "://" not in text:
        problems.append(ConfigProblem(place, "", f"must be a URL such as {example}"))
        return None
    try:
        parts = urlsplit(text)
    except ValueError as error:
        message = f"is not a URL ({error}): use brackets only for an IPv6 address, as in [fd00::1]:3306"
        problems.append(ConfigProblem(place, "", message))
        return None
    if "#" in text:
        problems.append(ConfigProblem(place, "", "the text after # would be ignored: write %23 instead of #"))
        return None
    # Usually, the scheme is the name of a kind. Collect the schemes of all kinds only if necessary, because importing
    # the modules of all kinds is slow.
    namesake = kinds.get(parts.scheme)
    if namesake is not None and parts.scheme in schemes_of(namesake):
        schemes = {parts.scheme: namesake}
    else:
        schemes = {scheme: kind for kind in kinds.values() for scheme in schemes_of(kind)}
    if parts.scheme not in schemes:
        problems.append(ConfigProblem(place, "", f"unknown scheme {parts.scheme!r}{suggest(parts.scheme, schemes)}"))
        return None
    return schemes[parts.scheme], parts.scheme, parts.netloc + parts.path, parts.query


def _put_query(
    table: ParsedMapping, query: str, keys: Mapping[str, Any], place: str, problems: list[ConfigProblem]
) -> None:
    seen: set[str] = set()
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        key = unquote(name)
        if key.partition(".")[0] == "kind":
            problems.append(ConfigProblem(place, key, "is set by the scheme of the URL: remove it"))
            continue
        listed = key in keys and is_list(keys[key])
        if key in seen and not listed:
            problems.append(ConfigProblem(place, key, "is given twice: remove one"))
        for other in sorted(seen):
            if key.startswith(f"{other}.") or other.startswith(f"{key}."):
                # One of the two values would replace the other.
                message = f"cannot be combined with {other}: remove one, or use only keys such as allow.networks"
                problems.append(ConfigProblem(place, key, message))
        seen.add(key)
        # Do not decode a plus sign as a space. In a URL (RFC 3986), a plus sign is not a space, and fingerprints
        # contain plus signs.
        tree: Tree = ParsedScalar(place, unquote(text) or None)
        if listed:
            tree = ParsedSequence(place, [ParsedScalar(place, unquote(each)) for each in text.split(",") if each])
        _put(table, key.split("."), tree, place)


def _put(table: ParsedMapping, path: list[str], value: Tree, place: str) -> None:
    for name in path[:-1]:
        inner = table.entries.get(name, (place, ParsedMapping(place)))[1]
        if not isinstance(inner, ParsedMapping):
            inner = ParsedMapping(place)
        table.put(name, inner)
        table = inner
    old = table.entries.get(path[-1], (place, None))[1]
    if isinstance(old, ParsedSequence) and isinstance(value, ParsedSequence):
        value = ParsedSequence(place, old.items + value.items)
    table.put(path[-1], value)


def secrets_in(table: ParsedMapping, kinds: Mapping[str, TunnelKind] | Mapping[str, BackendKind]) -> list[str]:
    """Return the key of each value that is a secret: `check.password`, for example, but not `check.password_file`.

    Args:
        table: A mapping from `tunnel_tree` or `backend_tree`.
        kinds: The kinds of tunnels or backends by name.
    """
    kind = kinds[str(table.entries["kind"][1].text)]  # type: ignore[union-attr]
    keys = _keys_of_backend(kind) if isinstance(kind, BackendKind) else _keys_of_tunnel(kind)
    return [key for key in _dotted(table) if key in keys and is_secret(keys[key])]


def _dotted(table: ParsedMapping, above: str = "") -> Iterator[str]:
    for name, (_, value) in table.entries.items():
        yield above + name
        if isinstance(value, ParsedMapping):
            yield from _dotted(value, f"{above}{name}.")
