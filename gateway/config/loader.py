"""Loads a configuration from its sources. Flags override the environment, and the environment overrides the file."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway import backends, tunnels
from gateway.config import url_parser
from gateway.config.builder import build
from gateway.config.config_decoder import ConfigDecoder
from gateway.config.consistency_validation import check_rules
from gateway.config.deprecated_keys import replace_deprecated
from gateway.config.dialed_addresses import direct_addresses, servers_behind_several
from gateway.config.environment_variables import PREFIX, setting_names, unknown_variables, url_variables, variable_of
from gateway.config.model import Config
from gateway.config.parsed_tree import ParsedMapping, ParsedScalar, ParsedSequence, Tree
from gateway.config.redaction import Redactor
from gateway.config.referenced_file_checks import exposed_fleet_token, exposed_secrets
from gateway.config.schema import hints_by_key, is_list
from gateway.config.sections import SECTIONS
from gateway.config.strict_mode import strict_mode_violations
from gateway.config.variable_expansion import expand, references
from gateway.config.yaml_parser import UNSET, parse_yaml, read_text
from gateway.errors import ConfigError, ConfigOrigin, ConfigProblem

_EXAMPLES = {"tunnel": "bastion=ssh://user@host", "backend": "orders=mysql://db:3306"}
_MAX_PROBLEMS = 200
_NOTHING_TO_SERVE = "there is nothing to serve: add a backend"
_NO_SOURCE = (
    "there is no configuration: add -c FILE (gateway init writes one), set GATEWAY_CONFIG, or configure a backend"
    " with --backend NAME=URL or GATEWAY_BACKEND_NAME"
)


@dataclass(frozen=True)
class ConfigSources:
    """The sources of a configuration: a file, flags and environment variables.

    Args:
        file: A YAML file; None if the configuration has no file.
        tunnels: `NAME=URL` of each `--tunnel`.
        backends: `NAME=URL` of each `--backend`.
        settings: The value of each flag that sets a key, such as `{"ops-listen": "127.0.0.1:9090"}`.
        environment: The environment variables: settings such as `GATEWAY_…`, and the variables to which `${NAME}`
            refers.
        unset: The error message if the file refers to a variable that is not set. `{name}` in the message is replaced
            by the name of the variable.
    """

    file: Path | None = None
    tunnels: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    unset: str = UNSET


def load(sources: ConfigSources, *, serves: bool = True) -> Config:
    """Read, merge and check a configuration. Blocks while it reads files.

    Args:
        sources: The sources.
        serves: Whether the configuration must have at least one backend.

    Raises:
        ConfigError: The configuration is invalid. The error lists the problems, at most `_MAX_PROBLEMS`.
    """
    problems: list[ConfigProblem] = []
    redactor = Redactor()
    place = str(sources.file) if sources.file else "configuration"
    root, text, digest = ParsedMapping(place), "", None
    if sources.file is not None:
        text, digest = read_text(sources.file, problems)
        root = parse_yaml(sources.file, text, problems, sources.environment, redactor.references, sources.unset)
    for name, path in setting_names().items():
        variable = variable_of(name)
        # An empty variable counts as not set: Compose passes one for `${NAME:-}`.
        if value := sources.environment.get(variable, ""):
            redactor.add(variable, value, *map(str.strip, value.split(",")))
            _put_setting(root, path, variable, value, problems)
        if name in sources.settings:
            _put_setting(root, path, f"--{name}", sources.settings[name], problems)
    problems += unknown_variables(sources.environment, _mentioned_variables(sources, text))
    for section, flag in (("tunnels", "tunnel"), ("backends", "backend")):
        _put_urls(root, section, flag, sources, problems, redactor)
    decoder = ConfigDecoder(problems)
    config = replace_deprecated(build(root, decoder), problems)
    check_rules(config, root, problems)
    problems += exposed_secrets(config, sources.file, decoder.literal_secrets)
    if config.gateway.strict:
        problems += [each.problem for each in strict_mode_violations(config)] + exposed_fleet_token(config)
    if serves and not (problems or config.backends):
        problems.append(
            ConfigProblem(place, "backends", _NOTHING_TO_SERVE) if sources.file else ConfigProblem("", "", _NO_SOURCE)
        )
    origin = ConfigOrigin(
        str(sources.file) if sources.file else None, digest, _variables(sources, text), _flags(sources)
    )
    if problems:
        raise ConfigError(_for_display(problems, redactor), origin)
    direct = direct_addresses(config) if config.docker is not None else ()
    servers = servers_behind_several(config)
    return replace(config, origin=origin, redactor=redactor, direct=direct, servers=servers)


def _variables(sources: ConfigSources, text: str) -> tuple[str, ...]:
    """Return the names of the environment variables that the configuration uses.

    These variables set a key, contain the URL of a tunnel or backend, or occur as `${NAME}` in the file or in a URL.
    """
    used = {variable_of(name) for name in setting_names()}
    urls = [variable for flag in _EXAMPLES for variable in url_variables(sources.environment, flag)]
    used |= {*urls, *references(text), *(name for each in urls for name in references(sources.environment[each]))}
    return tuple(sorted(used & sources.environment.keys()))


def _mentioned_variables(sources: ConfigSources, text: str) -> set[str]:
    """Return the `GATEWAY_…` variables whose names occur in the file or in a URL.

    The name can occur in a reference, such as `${GATEWAY_NAME}`, or in a list of variables to pass to a program.
    """
    urls = (sources.environment[each] for flag in _EXAMPLES for each in url_variables(sources.environment, flag))
    arguments = (*sources.tunnels, *sources.backends)
    return {name for each in (text, *urls, *arguments) for name in re.findall(rf"\b{PREFIX}\w+", each)}


def _flags(sources: ConfigSources) -> tuple[str, ...]:
    """Return the flags that are set, without their values."""
    given = [f"--{name}" for name in sources.settings]
    for flag, arguments in (("tunnel", sources.tunnels), ("backend", sources.backends)):
        given += [f"--{flag} {each.partition('=')[0]}" for each in arguments]
    return tuple(given)


def _for_display(problems: list[ConfigProblem], redactor: Redactor) -> list[ConfigProblem]:
    """Redact and sort the problems, and return the first `_MAX_PROBLEMS`.

    If there are more problems, append an entry that states how many.
    """
    ordered = sorted(problems, key=_order)
    rest = len(ordered) - _MAX_PROBLEMS
    shown = [replace(each, message=redactor.redact(each.message, each.place)) for each in ordered[:_MAX_PROBLEMS]]
    return [*shown, ConfigProblem(shown[-1].place, "", f"and {rest} more problems")] if rest > 0 else shown


def _put_setting(
    root: ParsedMapping, path: tuple[str, ...], place: str, text: str, problems: list[ConfigProblem]
) -> None:
    """Set the key at `path` to the value of a flag or variable. For a list, split the value at commas."""
    value: ParsedScalar | ParsedSequence = ParsedScalar(place, text)
    if text and is_list(dict(hints_by_key(SECTIONS[path[0]]))[".".join(path[1:])]):
        value = ParsedSequence(place, [ParsedScalar(place, each.strip()) for each in text.split(",") if each.strip()])
    if len(path) == 2:
        _put(root, path[0], path[1], value, problems)
        return
    held = root.entries[path[0]][1] if path[0] in root.entries else None
    inner = held.entries[path[1]][1] if isinstance(held, ParsedMapping) and path[1] in held.entries else None
    if not isinstance(inner, ParsedMapping):
        inner = ParsedMapping(place)
        _put(root, path[0], path[1], inner, problems)
    inner.put(path[2], value)


def _put_urls(
    root: ParsedMapping,
    section: str,
    flag: str,
    sources: ConfigSources,
    problems: list[ConfigProblem],
    redactor: Redactor,
) -> None:
    prefix = f"{PREFIX}{flag.upper()}_"
    for variable in url_variables(sources.environment, flag):
        name = variable.removeprefix(prefix).lower().replace("_", "-")
        try:
            expanded = _expand_url(sources.environment[variable], sources.environment, redactor.references)
        except KeyError as error:
            problems.append(
                ConfigProblem(variable, "", f"the environment variable {error.args[0]} is not set: set it")
            )
            continue
        redactor.add(variable, *url_parser.values_in(expanded))
        _put_url(root, section, name, expanded, variable, problems)
    kinds = tunnels.KINDS if section == "tunnels" else backends.KINDS
    given: set[str] = set()
    for argument in sources.tunnels if section == "tunnels" else sources.backends:
        name, equals, text = argument.partition("=")
        place = f"--{flag} {name}"
        if not equals or "://" in name:
            problems.append(ConfigProblem(f"--{flag}", "", f"must be NAME=URL, as in --{flag} {_EXAMPLES[flag]}"))
            continue
        if name in given:
            problems.append(ConfigProblem(place, "", "is given twice: remove one"))
        given.add(name)
        table = _put_url(root, section, name, text, place, problems)
        problems.extend(
            ConfigProblem(place, key, f"is visible in process lists: use {key}_file or the environment")
            for key in (url_parser.secrets_in(table, kinds) if table else [])
        )


def _expand_url(text: str, environment: Mapping[str, str], used: dict[str, str]) -> str:
    """Expand the references in a URL. In the query, encode the characters that would end a value.

    Raises:
        KeyError: A variable without a default is not set.
    """
    before, mark, query = text.partition("?")
    encoded = expand(query, environment, used, lambda value: value.replace("&", "%26").replace("#", "%23"))
    return expand(before, environment, used) + mark + encoded


def _put_url(
    root: ParsedMapping, section: str, name: str, text: str, place: str, problems: list[ConfigProblem]
) -> ParsedMapping | None:
    if section == "tunnels":
        table = url_parser.tunnel_tree(text, place, tunnels.KINDS, problems)
    else:
        table = url_parser.backend_tree(text, place, backends.KINDS, problems)
    if table is not None:
        _put(root, section, name, table, problems)
    return table


def _put(root: ParsedMapping, section: str, key: str, value: Tree, problems: list[ConfigProblem]) -> None:
    if section not in root.entries or (
        isinstance(held := root.entries[section][1], ParsedScalar) and held.text is None
    ):
        root.put(section, ParsedMapping(value.place))
    inner = root.entries[section][1]
    if isinstance(inner, ParsedMapping):
        inner.put(key, value)
    else:
        problems.append(ConfigProblem(inner.place, section, "must be a mapping: write KEY: VALUE on indented lines"))


def _order(problem: ConfigProblem) -> tuple[str, int, int]:
    match = re.fullmatch(r"(.*?):(\d+):(\d+)", problem.place)
    return (match[1], int(match[2]), int(match[3])) if match else (problem.place, 0, 0)
