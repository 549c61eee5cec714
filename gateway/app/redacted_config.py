"""Converts a configuration to keys and values without secrets, for the status page. Does no I/O."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.app.changed_config_keys import KEY_OF_FIELD
from gateway.backends import BackendKind
from gateway.config import Config
from gateway.config.model import BackendSpec, TunnelSpec
from gateway.config.redaction import redact
from gateway.config.sections import SECTIONS
from gateway.contracts.config_types import HostPort
from gateway.contracts.secret import Secret
from gateway.ops.status_views import ConfigText
from gateway.text_sanitizer import one_line
from gateway.tunnels import TunnelKind

_OMITTED = ("name", "place", "sockets")
"""Fields of a tunnel or backend that do not come from a key of the configuration file."""
_HIDDEN = "(hidden)"
_QUERY = re.compile(r"((?:[a-z][a-z0-9+.-]*:/)?/[^?]*\?).+", re.IGNORECASE | re.DOTALL)
"""Matches a path or URL with a query, which can contain a secret. Group 1 is the part up to the question mark."""
_SINGLE = (str, int, float, Path, HostPort, Secret, BackendKind, TunnelKind)
"""Types whose values are not split into fields: each value becomes one text."""


def config_text(config: Config, backend: str | None = None) -> ConfigText:
    """Return the keys and values of a configuration.

    If a value comes from an environment variable, the result contains the reference to the variable instead.

    Args:
        config: The configuration.
        backend: The name of the backend whose keys to return. None: return all keys except those of backends.
    """
    parts: dict[str, Any]
    if backend is not None:
        parts = {f"backends.{backend}": config.backends.get(backend)}
    else:
        parts = {name: getattr(config, name) for name in SECTIONS} | {"docker": config.docker}
        parts |= {f"tunnels.{name}": spec for name, spec in config.tunnels.items()}
    references = config.redactor.references
    return {
        name: [(key, redact(one_line(text), references)) for key, text in _pairs("", part)]
        for name, part in parts.items()
        if part is not None
    }


def _pairs(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the text of each setting that `value` contains, at any depth.

    Args:
        key: The dotted key of `value` itself; empty at the top.
        value: A section, a tunnel, a backend, or a value in one of them.
    """
    if isinstance(value, _SINGLE):
        yield key, _text(value)
    else:
        for name, inner in _parts(value):
            yield from _pairs(_join(key, name), inner)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a mapping, a dataclass or a tuple of dataclasses. Hide sensitive fields.

    For another value, yield an empty key and the text of the value. For an empty value, yield nothing.
    """
    if isinstance(value, Mapping):
        yield from ((str(name), inner) for name, inner in value.items())
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if not (isinstance(value, TunnelSpec | BackendSpec) and field.name in _OMITTED):
                inner = getattr(value, field.name)
                is_hidden = inner and field.metadata.get("sensitive")
                yield KEY_OF_FIELD.get(field.name, field.name), _HIDDEN if is_hidden else inner
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        yield from ((str(number), inner) for number, inner in enumerate(value, 1))
    elif value:
        yield "", ", ".join(map(_text, value)) if isinstance(value, tuple) else str(value)


def _join(key: str, name: str) -> str:
    return ".".join(filter(None, (key, name)))


def _text(value: Any) -> str:
    if isinstance(value, Secret):
        return f"from {value.display_path}" if value.path is not None else _HIDDEN
    if isinstance(value, BackendKind | TunnelKind):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}s"
    found = _QUERY.fullmatch(str(value))
    return f"{found[1]}{_HIDDEN}" if found else str(value)
