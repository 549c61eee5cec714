"""The files that a configuration names: there, readable, private."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config.model import Config
from gateway.contracts import Secret
from gateway.errors import GatewayError, Problem


def files_of(options: Any) -> set[Path]:
    """Every file that a tunnel's or backend's options name."""
    return {path for _, path in _paths(options, "")}


def check_files(config: Config) -> list[Problem]:
    """What is wrong with the files; a running service tells the same, tunnel by tunnel, and keeps the rest up."""
    problems = [
        Problem(_place(config, where, where), where, trouble)
        for where, path in _paths(config.docker.tls if config.docker else None, "docker.tls")
        if (trouble := _trouble(path))
    ]
    if isinstance(config.audit.log, Path) and (trouble := _unwritable(config.audit.log)):
        problems.append(Problem(_place(config, "audit.log", "audit"), "audit.log", trouble))
    for section, specs in (("tunnels", config.tunnels), ("backends", config.backends)):
        for name, spec in specs.items():
            key = f"{section}.{name}"
            parts = {key: spec.options, f"{key}.check": getattr(spec, "check_options", None)}
            found = [
                Problem(_place(config, where, spec.place), where, trouble)
                for prefix, part in parts.items()
                for where, path in _paths(part, prefix)
                if (trouble := _trouble(path))
            ]
            if not found:
                try:
                    spec.kind.verify(*[part for part in parts.values() if part is not None])
                except GatewayError as error:
                    found.append(Problem(spec.place, key, str(error)))
            problems += found
    return problems


def _place(config: Config, key: str, otherwise: str) -> str:
    return config.places.get(key) or config.places.get(f"{key}[0]") or otherwise


def _paths(value: Any, key: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield key, value
    elif isinstance(value, Secret) and value.path is not None:
        yield f"{key}_file", value.path
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _paths(item, f"{key}[{number}]" if len(value) > 1 else key)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _paths(getattr(value, field.name), f"{key}.{field.name}")


def _unwritable(path: Path) -> str | None:
    if path.is_dir():
        return f"{path}: is a folder"
    if not path.exists() and not path.parent.is_dir():
        return f"{path.parent}: there is no such folder: make it"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return f"{path}: cannot be written by this user"
    return None


def _trouble(path: Path) -> str | None:
    try:
        if path.is_socket():
            return None
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return None
