"""Checks that the files to which a configuration refers are readable, and that files with secrets are private."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.config.config_decoder import at_key
from gateway.config.model import Config
from gateway.config.sections import SECTIONS
from gateway.contracts.secret import Secret
from gateway.errors import ConfigProblem, GatewayError
from gateway.fleet.member_addresses import exposed_token
from gateway.fleet.member_list_file import read_members
from gateway.secret_files import ExposedSecretError, check_not_exposed, unreadable


def files_of(options: Any) -> set[Path]:
    """Return the paths of all files to which the options of a tunnel or backend refer."""
    return {path for _, path, _ in _paths(options, "")}


def named_files(config: Config) -> set[Path]:
    """Return the paths of the files to which `ops`, `docker.tls`, the tunnels and the backends refer."""
    parts = [config.ops, config.docker.tls if config.docker else None]
    parts += [spec.options for spec in config.tunnels.values()]
    parts += [part for spec in config.backends.values() for part in (spec.options, spec.check_options)]
    return set().union(*map(files_of, parts))


def check_files(config: Config) -> list[ConfigProblem]:
    """Return a problem for each file that the configuration names and this process cannot read or write.

    Blocks while it reads the files. A problem does not make the configuration invalid. A running service reports the
    problem as an error of one tunnel or backend, and continues to run the other tunnels and backends.
    """
    problems = [
        ConfigProblem(_place(config, where, where), where, message)
        for where, path, shown in (*_paths(config.docker, "docker"), *_paths(config.fleet, "fleet"))
        if (message := _unreadable(path, shown))
    ]
    if isinstance(config.audit.log, Path) and (message := _unwritable(config.audit.log)):
        problems.append(ConfigProblem(_place(config, "audit.log", "audit"), "audit.log", message))
    for section, specs in (("tunnels", config.tunnels), ("backends", config.backends)):
        for name, spec in specs.items():
            key = f"{section}.{name}"
            parts = {key: spec.options, f"{key}.check": getattr(spec, "check_options", None)}
            found = [
                ConfigProblem(_place(config, where, spec.place), where, message)
                for prefix, part in parts.items()
                for where, path, shown in _paths(part, prefix)
                if (message := _unreadable(path, shown))
            ]
            if not found:
                try:
                    spec.kind.verify(*[part for part in parts.values() if part is not None])
                except GatewayError as error:
                    found.append(at_key(config.places, spec.place, key, str(error)))
            problems += found
    return [replace(each, message=config.redactor.redact(each.message, each.place)) for each in problems]


def exposed_fleet_token(config: Config) -> list[ConfigProblem]:
    """Return a problem if the gateway would send the fleet token without encryption to a server in `fleet.file`.

    Blocks while it reads the file. Ignores a file that cannot be read.
    """
    path = config.fleet.file
    if path is None or config.fleet.token_file is None or not path.is_file():
        return []
    try:
        message = exposed_token(read_members(path)[0])
    except (OSError, GatewayError):  # ignore errors of `fleet.file`: `FleetPoller` reports them later
        return []
    return [ConfigProblem(place_of(config, "fleet.file"), "fleet.file", f"{path}: {message}")] if message else []


def exposed_secrets(config: Config, file: Path | None, literals: list[tuple[str, str]]) -> list[ConfigProblem]:
    """Return a problem for each file that contains a secret and is readable by every user.

    Args:
        config: The configuration.
        file: The configuration file; None if there is none.
        literals: The secrets that are literals, not references such as `${NAME}`. Each item contains the secret's
            place (such as file, line and column) and its dotted key.
    """
    problems = []
    for where, secret in all_secrets(config):
        message = _exposed(secret.path)
        if message:
            problems.append(ConfigProblem(place_of(config, f"{where}_file"), f"{where}_file", message))
    in_file = [(place, key) for place, key in literals if file and place.startswith(f"{file}:")]
    message = _exposed(file) if in_file else None
    if message:
        place, key = in_file[0]
        name = key.rpartition(".")[2]
        problems.append(ConfigProblem(place, key, f"the secret is in this file, and {message} (or use {name}_file)"))
    return problems


def all_secrets(config: Config) -> Iterator[tuple[str, Secret]]:
    """Yield the secrets of a configuration with their dotted keys."""
    for section in SECTIONS:
        yield from _secrets(getattr(config, section), section)
    yield from _secrets(config.docker, "docker")
    for name, tunnel in config.tunnels.items():
        yield from _secrets(tunnel.options, f"tunnels.{name}")
    for name, backend in config.backends.items():
        yield from _secrets(backend.options, f"backends.{name}")
        yield from _secrets(backend.check_options, f"backends.{name}.check")


def _secrets(value: Any, key: str) -> Iterator[tuple[str, Secret]]:
    if isinstance(value, Secret):
        yield key, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _secrets(getattr(value, field.name), f"{key}.{field.name}")


def _exposed(path: Path | None) -> str | None:
    try:
        if path is not None:
            check_not_exposed(path)
    except ExposedSecretError as error:
        return error.strerror
    except OSError:  # ignore a missing file: the code that uses the file reports it
        return None
    return None


def _place(config: Config, key: str, otherwise: str) -> str:
    return config.places.get(key) or config.places.get(f"{key}[0]") or otherwise


def place_of(config: Config, key: str) -> str:
    """Return the file, line and column of a dotted key. If the key is absent, return those of its nearest parent."""
    while key:
        if key in config.places:
            return config.places[key]
        section, _, name = key.partition(".")
        if section == "tunnels" and name in config.tunnels:
            return config.tunnels[name].place
        if section == "backends" and name in config.backends:
            return config.backends[name].place
        key = key.rpartition(".")[0]
    return "configuration"


def _paths(value: Any, key: str) -> Iterator[tuple[str, Path, str]]:
    """Yield the key of each file, its path, and the path to show in messages.

    If the path of a secret contains references such as `${NAME}`, messages show the references, not the values.
    """
    if isinstance(value, Path):
        yield key, value, str(value)
    elif isinstance(value, Secret) and value.path is not None:
        yield f"{key}_file", value.path, value.display_path
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _paths(item, f"{key}[{number}]" if len(value) > 1 else key)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _paths(getattr(value, field.name), f"{key}.{field.name}")


def _unwritable(path: Path) -> str | None:
    if path.is_dir():
        return f"{path}: is a folder: set the path of a file"
    if not path.exists() and not path.parent.is_dir():
        return f"{path.parent}: no such folder: create it"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return f"{path}: the current user has no write permission"
    return None


def _unreadable(path: Path, shown: str) -> str | None:
    try:
        if path.is_socket():
            return None
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return f"{shown}: {unreadable(path, error, shown)}"
    return None
