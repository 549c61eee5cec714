"""Parses Compose files: merges override files, resolves `extends`, and interpolates variables."""

import re
from typing import Any

import yaml

from gateway.errors import UsageError
from gateway.importing.compose_interpolation import interpolated
from gateway.importing.compose_merge import merged
from gateway.importing.compose_value_parsers import mapping, string_of
from gateway.importing.compose_yaml_loader import ComposeOverrideValue, ComposeYamlLoader, without_tags
from gateway.importing.env_file import EnvFiles
from gateway.importing.import_result import ImportResult
from gateway.input_size_limits import TooManyValuesError, load_yaml

_SECTIONS = frozenset({"services", "volumes", "networks", "secrets", "configs", "include", "name", "version"})
_RESOLVED = "pass the output of `docker compose config` instead"


def read_compose(
    text: str, source: str, files: EnvFiles, result: ImportResult, folder: str, override: tuple[str, str]
) -> dict[str, Any]:
    """Parse a Compose file: merge the override file, replace variables, and add the keys that services inherit.

    Args:
        text: The content of the file.
        source: The prefix of notes about the file, such as `compose.yaml: `; can be empty.
        files: The env files that were passed as sources.
        result: The imported configuration, to which the function adds notes.
        folder: The directory of the file.
        override: The name and the content of the override file; empty if there is none.

    Raises:
        UsageError: The file or the override file is not a valid Compose file.
    """
    document: dict[str, Any] = without_tags(_interpolate(_load(text, source), files, folder))
    if _has_format_1(document):
        document = {"services": document}
        result.add_note(
            f"{source}the file has Compose file format 1, which Docker Compose no longer reads; put the services"
            " below `services:`"
        )
    if override[1]:
        second = _interpolate(_load(override[1], f"{override[0]}: "), files, folder)
        document = without_tags(merged(document, second))
        result.add_note(f"{override[0]}: merged into the Compose file in the same directory, as Compose does")
    if document.get("include"):
        result.add_note(f"{source}include: not read: {_RESOLVED}")
    services = mapping(document.get("services"), f"{source}services")
    if services:
        document["services"] = {name: _extended(name, services, source, result) for name in services}
    return document


def _load(text: str, source: str) -> dict[str, Any]:
    """Parse a Compose file, and return its top-level mapping.

    Args:
        text: The content of the file.
        source: The prefix of errors about the file, such as `compose.yaml: `; can be empty.

    Raises:
        UsageError: The file is not valid YAML, or is not a mapping.
    """
    try:
        document = load_yaml(text, ComposeYamlLoader)
    except yaml.MarkedYAMLError as error:
        # Do not show the parser's whole message: it quotes lines of the file, and the lines can contain secrets.
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = re.sub(r"(['\"])(?!<)[^'\"]{2,}\1", "'…'", error.problem or error.context or "")
        raise UsageError(f"{source}{line}not valid YAML: {problem}") from None
    except TooManyValuesError as error:
        raise UsageError(f"{source or 'the Compose file: '}{error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{source}not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{source}not a Compose file: write keys such as `services:` at the top level")
    return mapping(document, source)


def _has_format_1(document: dict[str, Any]) -> bool:
    """Return whether the top-level keys of a document are services, as in Compose file format 1 (before 2016)."""
    services = [each for each in document.values() if isinstance(each, dict) and {"image", "build"} & each.keys()]
    return bool(services) and not _SECTIONS & document.keys()


def _extended(
    name: str, services: dict[str, Any], source: str, result: ImportResult, inner: tuple[str, ...] = ()
) -> Any:
    """Return a service with the keys that it inherits (Compose specification, "extends").

    Args:
        name: The name of the service.
        services: The services of the file.
        source: The prefix of notes about the file, such as `compose.yaml: `; can be empty.
        result: The imported configuration, to which the function adds a note if the service inherits keys from
            another file.
        inner: The names of the services that directly or indirectly extend this service, to detect cycles.
    """
    service = services[name]
    extends = service.get("extends") if isinstance(service, dict) else None
    if not extends:
        return service
    where = f"{source}services.{name}.extends"
    if isinstance(extends, dict):
        base, file = (string_of(extends.get(key), f"{where}.{key}") for key in ("service", "file"))
    else:
        base, file = string_of(extends, where), ""
    if file or base not in services or base in (*inner, name):
        result.add_note(f"{source}services.{name}: extends {file or base}: not read: {_RESOLVED}")
        return service
    inherited = mapping(_extended(base, services, source, result, (*inner, name)), f"{source}services.{base}")
    inherited.pop("extends", None)
    return merged(inherited, service, "services", name)


def _interpolate(value: Any, files: EnvFiles, folder: str) -> Any:
    """Replace the variables in all strings of a Compose document, as Compose does.

    Keep `${NAME}` if the variable has no value and no default.
    """
    if isinstance(value, dict):
        return {key: _interpolate(each, files, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_interpolate(each, files, folder) for each in value]
    if isinstance(value, ComposeOverrideValue):
        return ComposeOverrideValue(_interpolate(value.value, files, folder))
    if not isinstance(value, str):
        return value
    return interpolated(value, lambda name: files.value(name, folder))
