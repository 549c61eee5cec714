"""Checks each `via` of a configuration: unknown tunnels, empty lists, duplicates and loops. Does no I/O."""

from collections.abc import Iterator
from typing import NamedTuple

from gateway.config.parsed_tree import ParsedMapping, ParsedScalar, ParsedSequence, Tree, tables
from gateway.config.suggestions import suggest
from gateway.errors import ConfigProblem


class _ViaEntry(NamedTuple):
    """An entry of a `via` list: the name of a tunnel, and the file, line and column of the entry."""

    tunnel: str
    place: str


def via_problems(root: ParsedMapping) -> Iterator[ConfigProblem]:
    """Yield a problem for each invalid `via`, including those in tunnels and backends that have other problems."""
    known = [name for name, _ in tables(root, "tunnels")]
    for section in ("tunnels", "backends"):
        for name, table in tables(root, section):
            for key, tree in _vias(table, f"{section}.{name}"):
                yield from _of_via(key, tree, known)
    yield from _loops({name: list(_written(table)) for name, table in tables(root, "tunnels")})


def _vias(table: ParsedMapping, key: str) -> Iterator[tuple[str, Tree]]:
    """Yield the key and the value of each `via` in a tunnel or backend, including each `via` of a target."""
    if "via" in table.entries:
        yield f"{key}.via", table.entries["via"][1]
    targets = table.entries.get("targets", ("", None))[1]
    for at, item in enumerate(targets.items if isinstance(targets, ParsedSequence) else [targets]):
        if isinstance(item, ParsedMapping) and "via" in item.entries:
            yield f"{key}.targets[{at}].via", item.entries["via"][1]


def _items(tree: Tree) -> Iterator[_ViaEntry]:
    for each in tree.items if isinstance(tree, ParsedSequence) else [tree]:
        if isinstance(each, ParsedScalar) and each.text:  # skip empty values, because `config_decoder` reports them
            yield _ViaEntry(each.text, each.place)


def _written(tunnel: ParsedMapping) -> Iterator[_ViaEntry]:
    if "via" in tunnel.entries:
        yield from _items(tunnel.entries["via"][1])


def _of_via(key: str, tree: Tree, known: list[str]) -> Iterator[ConfigProblem]:
    if isinstance(tree, ParsedSequence) and not tree.items:
        yield ConfigProblem(tree.place, key, "is an empty list: name a tunnel, or remove the key to connect directly")
    seen: set[str] = set()
    for tunnel, place in _items(tree):
        if tunnel not in known:
            yield ConfigProblem(
                place, key, f"there is no tunnel {tunnel!r}{suggest(tunnel, known) or ': add it to tunnels'}"
            )
        elif tunnel in seen:
            yield ConfigProblem(place, key, f"{tunnel} is given twice: remove one")
        seen.add(tunnel)


def _loops(entries: dict[str, list[_ViaEntry]]) -> Iterator[ConfigProblem]:
    """Yield a problem for each loop of tunnels. In a loop, each tunnel would wait until the next one is open."""
    finished: set[str] = set()
    reported: set[str] = set()
    for first, outer in entries.items():
        path: list[tuple[str, Iterator[_ViaEntry]]] = [(first, iter(outer))]
        while path:
            names = [name for name, _ in path]
            entry = next(path[-1][1], None)
            if entry is None:
                finished.add(path.pop()[0])
            elif entry.tunnel in names:
                loop = names[names.index(entry.tunnel) :]
                if not reported & set(loop):
                    yield _loop([*loop, entry.tunnel], entries)
                reported |= set(loop)
            elif entry.tunnel in entries and entry.tunnel not in finished:
                path.append((entry.tunnel, iter(entries[entry.tunnel])))


def _loop(loop: list[str], entries: dict[str, list[_ViaEntry]]) -> ConfigProblem:
    """Return a problem for a loop of tunnels, located at the `via` entry of the first tunnel."""
    place = next(entry.place for entry in entries[loop[0]] if entry.tunnel == loop[1])
    return ConfigProblem(place, f"tunnels.{loop[0]}.via", f"forms a loop: {' → '.join(loop)}: change one via")
