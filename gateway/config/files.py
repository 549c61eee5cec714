"""The files that a configuration names: there, readable, private."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config.model import Config
from gateway.contracts import Secret
from gateway.errors import GatewayError, Problem


def check_files(config: Config) -> list[Problem]:
    """What is wrong with the files; a running service tells the same, tunnel by tunnel, and keeps the rest up."""
    problems = []
    for section, specs in (("tunnels", config.tunnels), ("backends", config.backends)):
        for name, spec in specs.items():
            parts = (spec.options, getattr(spec, "check_options", None))
            for key, path in (found for part in parts for found in _paths(part, "")):
                trouble = _trouble(path)
                if trouble:
                    problems.append(Problem(spec.place, f"{section}.{name}{key}", trouble))
            try:
                verify = getattr(spec.kind, "verify", None)
                if verify is not None:
                    verify(spec.options)
            except GatewayError as error:
                problems.append(Problem(spec.place, f"{section}.{name}", str(error)))
    return problems


def _paths(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, Secret) and value.path is not None:
        yield f"{key}_file", value.path
    elif isinstance(value, tuple):
        for item in value:
            yield from _paths(item, key)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _paths(getattr(value, field.name), f"{key}.{field.name}")


def _trouble(path: Path) -> str | None:
    try:
        if path.is_socket():
            return None
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None
