"""Merges a Compose file with its override file, as Compose does (Compose specification, "Merge")."""

import re
from typing import Any

from gateway.importing.compose_value_parsers import environment, list_of, mapping, strings_of
from gateway.importing.compose_yaml_loader import RESET, ComposeOverrideValue, without_tags
from gateway.importing.docker_run_options import read_bind

_REPLACED = ("command", "entrypoint", "test")
"""Keys whose lists Compose does not join. The list in the override file replaces the list in the Compose file."""
_LISTS = ("dns", "dns_opt", "dns_search", "env_file", "label_file", "tmpfs")
"""Keys of a service that accept a string or a list. Compose converts strings to lists before it merges them."""
_NAME = re.compile(r"(?:docker-)?compose(\.override)?\.ya?ml")


def is_override(name: str) -> bool:
    """Return whether Compose reads a file with this name by default as an override file.

    Args:
        name: The name of the file, without its directory.
    """
    match = _NAME.fullmatch(name)
    return match is not None and match[1] is not None


def is_base(name: str) -> bool:
    """Return whether Compose reads a file with this name by default as the Compose file.

    Args:
        name: The name of the file, without its directory.
    """
    match = _NAME.fullmatch(name)
    return match is not None and match[1] is None


def merged(base: Any, override: Any, *path: str) -> Any:
    """Merge the values of one key in a Compose file and its override file.

    Args:
        base: The value in the Compose file; None if it is absent.
        override: The value in the override file, as read by `ComposeYamlLoader`; None if it is absent.
        path: The keys from the top level of the file to the value.

    Returns:
        The merged value. It can still contain tags, which `without_tags` removes.

    Raises:
        UsageError: A value has a wrong type.
    """
    if isinstance(override, ComposeOverrideValue):
        return override.value
    if base is None or override is RESET or override is None:
        return base if override is None else override
    key = path[-1] if path else ""
    if path[:1] == ("services",) and len(path) == 3:
        if key == "environment":
            return _environment(base, override, ".".join(path[:2]))
        if key == "volumes" and isinstance(base, list) and isinstance(override, list):
            targets = [_target(each) for each in override]
            return [each for each in base if _target(each) not in targets] + override
        if key in _LISTS:
            where = ".".join(path)
            base, override = list_of(base, where), list_of(override, where)
        if key == "build":
            base, override = ({"context": each} if isinstance(each, str) else each for each in (base, override))
    if isinstance(base, dict) or isinstance(override, dict):
        first, second = _mapping(base, path), _mapping(override, path)
        return {name: merged(first.get(name), second.get(name), *path, name) for name in first | second}
    if isinstance(base, list) and isinstance(override, list) and key not in _REPLACED:
        return base + [each for each in override if each not in base]
    return override


def _environment(base: Any, override: Any, where: str) -> dict[str, str]:
    reset = [name for name, each in override.items() if each is RESET] if isinstance(override, dict) else []
    variables = environment(base, where) | environment(without_tags(override), where)
    return {name: text for name, text in variables.items() if name not in reset}


def _mapping(value: Any, path: tuple[str, ...]) -> dict[str, Any]:
    """Return `value` as a mapping. Convert a list of names, as in `networks`, to a mapping whose values are None."""
    where = ".".join(path)
    return dict.fromkeys(strings_of(value, where)) if isinstance(value, list) else mapping(value, where)


def _target(mount: Any) -> str:
    return str(mount.get("target")) if isinstance(mount, dict) else read_bind(str(mount)).target
