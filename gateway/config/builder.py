"""Builds a `Config` from a parsed configuration."""

from collections.abc import Mapping
from typing import Any

from gateway import backends, tunnels
from gateway.backends import BackendKind
from gateway.config import value_parsers
from gateway.config.config_decoder import INVALID, ConfigDecoder
from gateway.config.model import (
    BackendSpec,
    CommonBackendOptions,
    CommonCheckOptions,
    CommonTunnelOptions,
    Config,
    TunnelSpec,
    UnixListener,
)
from gateway.config.parsed_tree import ParsedMapping, ParsedScalar
from gateway.config.schema import known_keys
from gateway.config.sections import SECTIONS
from gateway.config.suggestions import suggest
from gateway.contracts.config_types import HostPort, unix_host_port
from gateway.docker.options import DockerOptions


def build(root: ParsedMapping, decoder: ConfigDecoder) -> Config:
    """Build a configuration from the valid parts of `root`. Add a problem to `decoder` for each invalid part."""
    decoder.check_keys(root, "", [*SECTIONS, "tunnels", "backends", "docker"])
    sections = {
        name: decoder.record(root.entries[name][1], cls, name) if name in root.entries else cls()
        for name, cls in SECTIONS.items()
    }
    tunnel_specs = {
        name: spec
        for name, table in _named(root, "tunnels", decoder)
        if (spec := _tunnel(name, table, decoder)) is not None
    }
    backend_specs = {
        name: backend
        for name, table in _named(root, "backends", decoder)
        if (backend := _backend(name, table, decoder)) is not None
    }
    docker = decoder.record(root.entries["docker"][1], DockerOptions, "docker") if "docker" in root.entries else None
    valid = {name: section for name, section in sections.items() if section is not INVALID}
    return Config(
        **valid,
        docker=None if docker is INVALID else docker,
        tunnels=tunnel_specs,
        backends=backend_specs,
        places=decoder.places,
    )


def _named(root: ParsedMapping, section: str, decoder: ConfigDecoder) -> list[tuple[str, ParsedMapping]]:
    if section not in root.entries:
        return []
    table = decoder.table(root.entries[section][1], section)
    found = []
    for name, (place, tree) in (table.entries if table else {}).items():
        try:
            value_parsers.name(name)
        except ValueError as error:
            decoder.problem(place, f"{section}.{name}", str(error))
            continue
        if isinstance(tree, ParsedScalar) and tree.broken:
            continue
        inner = decoder.table(tree, f"{section}.{name}")
        if inner is not None:
            found.append((name, ParsedMapping(place, inner.entries)))
    return found


def _kind(table: ParsedMapping, key: str, kinds: Mapping[str, Any], decoder: ConfigDecoder) -> Any:
    if "kind" not in table.entries:
        decoder.problem(table.place, f"{key}.kind", f"is missing: add one of {', '.join(sorted(kinds))}")
        return None
    tree = table.entries["kind"][1]
    name = tree.text if isinstance(tree, ParsedScalar) else None
    if isinstance(tree, ParsedScalar) and tree.broken:
        return None
    if name not in kinds:
        canonical = next((kind.name for kind in kinds.values() if name in kind.aliases), None)
        hint = f": use {canonical!r}" if canonical else suggest(name or "", kinds)
        decoder.problem(tree.place, f"{key}.kind", f"unknown kind {name!r}{hint}")
        return None
    return kinds[name or ""]


def _tunnel(name: str, table: ParsedMapping, decoder: ConfigDecoder) -> TunnelSpec | None:
    key = f"tunnels.{name}"
    kind = _kind(table, key, tunnels.KINDS, decoder)
    if kind is None:
        return None
    decoder.check_keys(table, key, known_keys(CommonTunnelOptions, kind.options))
    common = decoder.fields(table, CommonTunnelOptions, key)
    options = decoder.fields(table, kind.options, key)
    if common is INVALID or options is INVALID:
        return None
    return TunnelSpec(name, kind, common.via or (), options, table.place)


def _backend(name: str, table: ParsedMapping, decoder: ConfigDecoder) -> BackendSpec | None:
    key = f"backends.{name}"
    kind = _kind(table, key, backends.KINDS, decoder)
    if kind is None:
        return None
    decoder.check_keys(table, key, [*known_keys(CommonBackendOptions, kind.options), "check"])
    common = decoder.fields(table, CommonBackendOptions, key)
    options = decoder.fields(table, kind.options, key)
    check_table = ParsedMapping(table.place)
    if "check" in table.entries:
        check_table = decoder.table(table.entries["check"][1], f"{key}.check") or check_table
    decoder.check_keys(check_table, f"{key}.check", known_keys(CommonCheckOptions, kind.check))
    check = decoder.fields(check_table, CommonCheckOptions, f"{key}.check")
    check_options = decoder.fields(check_table, kind.check, f"{key}.check")
    if common is INVALID:
        return None
    targets = _targets(table, common, kind, key, decoder)
    if targets is None or any(part is INVALID for part in (options, check, check_options)):
        return None
    return BackendSpec(
        name=name,
        kind=kind,
        via=common.via or (),
        targets=tuple(targets),
        own_paths={target: via for target, via in targets.items() if via is not None},
        prefer=common.prefer or ("primary" if kind.has_roles(check_options) and len(targets) > 1 else "order"),
        listen=tuple(unix_host_port(each.unix) if isinstance(each, UnixListener) else each for each in common.listen),
        sockets=tuple(each for each in common.listen if isinstance(each, UnixListener)),
        hold=kind.hold if common.hold is None else common.hold,
        max_connections=common.max_connections,
        max_connections_per_consumer=common.max_connections_per_consumer,
        allow=common.allow,
        prefer_way=common.prefer_way,
        check=check,
        options=options,
        check_options=check_options,
        place=table.place,
    )


def _targets(
    table: ParsedMapping, common: CommonBackendOptions, kind: BackendKind, key: str, decoder: ConfigDecoder
) -> dict[HostPort, tuple[str, ...] | None] | None:
    """Return a dictionary from each target to its own `via`, or to None if the target uses the backend's `via`.

    If the key `targets` is empty or invalid, add a problem to `decoder`, and return None.
    """
    place = table.entries["targets"][1].place
    found: dict[HostPort, tuple[str, ...] | None] = {}
    for item in common.targets:
        text, via = (item, None) if isinstance(item, str) else (item.address, item.via)
        try:
            target = value_parsers.host_port(text, kind.default_port)
        except ValueError as error:
            decoder.problem(place, f"{key}.targets", str(error))
            return None
        if target in found:
            vias = [each if each is not None else common.via or () for each in (found[target], via)]
            both = ", ".join(dict.fromkeys((*vias[0], *vias[1])))
            remedy = f"use one target with via: [{both}]" if all(vias) and vias[0] != vias[1] else "remove one"
            decoder.problem(place, f"{key}.targets", f"{target} is given twice: {remedy}")
            return None
        found[target] = via
    if not found:
        decoder.problem(place, f"{key}.targets", "needs at least one host:port, as in [db.internal:3306]")
        return None
    return found
