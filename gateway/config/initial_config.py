"""Creates and checks the initial configuration that `gateway init` writes.

In this module, a configuration is a dictionary with the structure of the YAML file.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from gateway import backends, tunnels
from gateway.config import url_parser
from gateway.config.environment_variables import PREFIX
from gateway.config.loader import ConfigSources, load
from gateway.config.parsed_tree import ParsedMapping, ParsedScalar, ParsedSequence, Tree
from gateway.config.referenced_file_checks import check_files
from gateway.errors import ConfigError, ConfigProblem


def from_urls(tunnel_urls: tuple[str, ...], backend_urls: tuple[str, ...]) -> dict[str, Any]:
    """Return a configuration with the given tunnels and backends, as nested dictionaries.

    Args:
        tunnel_urls: `NAME=URL` of each tunnel.
        backend_urls: `NAME=URL` of each backend.

    Raises:
        ConfigError: A URL is not valid, or contains a secret.
    """
    load(ConfigSources(tunnels=tunnel_urls, backends=backend_urls, environment={}), serves=bool(backend_urls))
    problems: list[ConfigProblem] = []
    config: dict[str, Any] = {}
    for section, given in (("tunnels", tunnel_urls), ("backends", backend_urls)):
        for text in given:
            name, _, url = text.partition("=")
            table = (
                url_parser.tunnel_tree(url, name, tunnels.KINDS, problems)
                if section == "tunnels"
                else url_parser.backend_tree(url, name, backends.KINDS, problems)
            )
            config.setdefault(section, {})[name] = _plain(table) if table else None
    return config


def supports_authorized_keys(config: dict[str, Any]) -> bool:
    """Return whether `gateway render authorized-keys` supports at least one tunnel of the configuration."""
    kinds = {each["kind"] for each in config.get("tunnels", {}).values()}
    return any(tunnels.KINDS[kind].render_authorized_keys for kind in kinds)


def to_yaml(config: dict[str, Any]) -> str:
    """Return a configuration as YAML."""
    return yaml.safe_dump(config, sort_keys=False, width=100, allow_unicode=True)


def problems_of(config: dict[str, Any]) -> list[ConfigProblem]:
    """Return the problems that `gateway validate` would report for a configuration.

    Blocks while it reads the files that the configuration names.
    """
    # Omit the `GATEWAY_…` variables. Otherwise, `load` would merge their settings into `config`.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with tempfile.TemporaryDirectory(prefix="gateway-init-") as folder:
        path = Path(folder) / "gateway.yaml"
        path.write_text(to_yaml(config))
        try:
            found = check_files(load(ConfigSources(path, environment=environment), serves=False))
        except ConfigError as error:
            found = error.problems
    return [replace(each, place="") for each in found]


def _plain(tree: Tree) -> Any:
    """Convert a parsed tree to dictionaries, lists and strings.

    Convert a string of digits to an integer, so that the YAML output contains no quotation marks around it.
    """
    if isinstance(tree, ParsedMapping):
        return {key: _plain(value) for key, (_, value) in tree.entries.items()}
    if isinstance(tree, ParsedSequence):
        return [_plain(each) for each in tree.items]
    return _number(tree)


def _number(scalar: ParsedScalar) -> str | int | None:
    text = scalar.text
    return int(text) if text is not None and text.isdecimal() and str(int(text)) == text else text
