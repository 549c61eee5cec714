"""Lists the configuration keys that differ between two configurations, without their values. Does no I/O."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from gateway.config import Config

_NAMED = ("tunnels", "backends")
KEY_OF_FIELD = {"options": "", "check_options": "check"}
"""The configuration key of each field of `TunnelSpec` and `BackendSpec` whose name differs from its key. If the key
is empty, the configuration file has no section for the field. The keys in the field are then keys of the tunnel or
backend itself."""
_WHOLE = ("kind",)
"""Fields to compare as a whole, because each of them is a single value in the configuration file."""


def changed_config_keys(old: Config, new: Config) -> dict[str, list[str]]:
    """Return the configuration keys whose values differ between `old` and `new`.

    Returns:
        Three lists of dotted keys: `added` and `removed` contain tunnels and backends, such as `tunnels.office`;
        `changed` contains all other keys that differ.
    """
    found: dict[str, list[str]] = {"added": [], "removed": [], "changed": []}
    for section in _NAMED:
        before, after = getattr(old, section), getattr(new, section)
        found["added"] += [f"{section}.{name}" for name in sorted(after.keys() - before.keys())]
        found["removed"] += [f"{section}.{name}" for name in sorted(before.keys() - after.keys())]
        for name in sorted(before.keys() & after.keys()):
            found["changed"] += _changed(f"{section}.{name}", before[name], after[name])
    for field in dataclasses.fields(Config):
        if field.compare and field.name not in _NAMED:
            found["changed"] += _changed(field.name, getattr(old, field.name), getattr(new, field.name))
    found["changed"] = list(dict.fromkeys(found["changed"]))
    return found


def _changed(key: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if type(old) is not type(new):
        yield key
    elif isinstance(old, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _changed(f"{key}.{name}", old.get(name), new.get(name))
    elif dataclasses.is_dataclass(old):
        for field in dataclasses.fields(old):
            if field.compare:
                part, before, after = (
                    KEY_OF_FIELD.get(field.name, field.name),
                    getattr(old, field.name),
                    getattr(new, field.name),
                )
                inner = f"{key}.{part}" if part else key
                if field.name in _WHOLE:
                    yield from [inner] if before != after else []
                else:
                    yield from _changed(inner, before, after)
    else:
        yield key
