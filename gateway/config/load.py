"""Loads a configuration. Flags override the environment, and the environment overrides the file."""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway import backends, tunnels
from gateway.config import urls
from gateway.config.builder import build
from gateway.config.decoder import Decoder
from gateway.config.direct_addresses import direct_addresses
from gateway.config.expansion import expand, references
from gateway.config.files import exposed_secrets
from gateway.config.model import SECTIONS, Config
from gateway.config.redaction import Redactor
from gateway.config.rules import check_rules
from gateway.config.schema import hints_by_key, is_list, is_record
from gateway.config.strict import weaknesses
from gateway.config.tree import Scalar, Sequence, Table, Tree
from gateway.config.yaml_parser import parse_yaml, read_text
from gateway.errors import ConfigError, Origin, Problem

_EXAMPLES = {"tunnel": "bastion=ssh://user@host", "backend": "orders=mysql://db:3306"}
_MAX_PROBLEMS = 200
_KUBERNETES_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$")
"""Matches variables that Kubernetes sets for Services named `gateway-tunnel-…` or `gateway-backend-…`."""


@dataclass(frozen=True)
class Sources:
    """The sources of a configuration.

    Args:
        file: A YAML file; None if there is none.
        tunnels: `NAME=URL` of each `--tunnel`.
        backends: `NAME=URL` of each `--backend`.
        settings: Values by flag, such as `{"ops-listen": "127.0.0.1:9090"}`.
        environment: The environment variables: settings such as `GATEWAY_…`, and the variables to which `${NAME}`
            refers.
    """

    file: Path | None = None
    tunnels: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def setting_names() -> dict[str, tuple[str, ...]]:
    """Return the settings that are also flags, such as `{"ops-tls-key-file": ("ops", "tls", "key_file")}`.

    The names do not include the section `gateway`.
    """
    paths = [
        (section, *key.split("."))
        for section, cls in SECTIONS.items()
        for key, hint in hints_by_key(cls)
        if not is_record(hint)
    ]
    return {"-".join(path if path[0] != "gateway" else path[1:]).replace("_", "-"): path for path in paths}


def load(sources: Sources, *, serves: bool = True) -> Config:
    """Read, merge and check a configuration. Blocks while reading files.

    Args:
        sources: The sources.
        serves: Whether the configuration must have at least one backend.

    Raises:
        ConfigError: The configuration is invalid. The error lists all problems.
    """
    problems: list[Problem] = []
    redactor = Redactor()
    place = str(sources.file) if sources.file else "configuration"
    root, text, digest = Table(place), "", None
    if sources.file is not None:
        text, digest = read_text(sources.file, problems)
        root = parse_yaml(sources.file, text, problems, sources.environment, redactor.references)
    for name, path in setting_names().items():
        variable = "GATEWAY_" + name.replace("-", "_").upper()
        if variable in sources.environment:
            value = sources.environment[variable]
            redactor.add(variable, value, *map(str.strip, value.split(",")))
            _put_setting(root, path, variable, value, problems)
        if name in sources.settings:
            _put_setting(root, path, f"--{name}", sources.settings[name], problems)
    _check_variables(sources, problems)
    for section, flag in (("tunnels", "tunnel"), ("backends", "backend")):
        _put_urls(root, section, flag, sources, problems, redactor)
    decoder = Decoder(problems)
    config = build(root, decoder)
    check_rules(config, root, problems)
    problems += exposed_secrets(config, sources.file, decoder.literal_secrets)
    if config.gateway.strict:
        problems += [each.problem for each in weaknesses(config)]
    if serves and not (problems or config.backends):
        problems.append(Problem(place, "backends", "there is nothing to serve: add a backend"))
    origin = Origin(str(sources.file) if sources.file else None, digest, _variables(sources, text), _flags(sources))
    if problems:
        raise ConfigError(_for_display(problems, redactor), origin)
    direct = direct_addresses(config) if config.docker is not None else ()
    return replace(config, origin=origin, redactor=redactor, direct=direct)


def _variables(sources: Sources, text: str) -> tuple[str, ...]:
    """Return the names of the environment variables that the configuration uses, including references in the file."""
    used = {"GATEWAY_" + name.replace("-", "_").upper() for name in setting_names()}
    urls = [variable for flag in _EXAMPLES for variable in _url_variables(sources, flag)]
    used |= {*urls, *references(text), *(name for each in urls for name in references(sources.environment[each]))}
    return tuple(sorted(used & sources.environment.keys()))


def _flags(sources: Sources) -> tuple[str, ...]:
    """Return the flags that are set, without their values."""
    given = [f"--{name}" for name in sources.settings]
    for flag, arguments in (("tunnel", sources.tunnels), ("backend", sources.backends)):
        given += [f"--{flag} {each.partition('=')[0]}" for each in arguments]
    return tuple(given)


def _url_variables(sources: Sources, flag: str) -> list[str]:
    """Return the variables that contain the URL of a tunnel or backend."""
    prefix = f"GATEWAY_{flag.upper()}_"
    return [
        variable
        for variable in sources.environment
        if variable.startswith(prefix) and variable != prefix and not _KUBERNETES_SERVICE.search(variable)
    ]


def _for_display(problems: list[Problem], redactor: Redactor) -> list[Problem]:
    """Return at most `_MAX_PROBLEMS` redacted problems, in the order of the file."""
    ordered = sorted(problems, key=_order)
    rest = len(ordered) - _MAX_PROBLEMS
    shown = [replace(each, message=redactor.redact(each.message, each.place)) for each in ordered[:_MAX_PROBLEMS]]
    return [*shown, Problem(shown[-1].place, "", f"and {rest} more problems")] if rest > 0 else shown


def _put_setting(root: Table, path: tuple[str, ...], place: str, text: str, problems: list[Problem]) -> None:
    """Add the value of a flag or variable to the tree. Commas in the value separate the items of a list."""
    value: Scalar | Sequence = Scalar(place, text or None)
    if is_list(dict(hints_by_key(SECTIONS[path[0]]))[".".join(path[1:])]):
        value = Sequence(place, [Scalar(place, each.strip()) for each in text.split(",") if each.strip()])
    if len(path) == 2:
        _put(root, path[0], path[1], value, problems)
        return
    held = root.entries[path[0]][1] if path[0] in root.entries else None
    inner = held.entries[path[1]][1] if isinstance(held, Table) and path[1] in held.entries else None
    if not isinstance(inner, Table):
        inner = Table(place)
        _put(root, path[0], path[1], inner, problems)
    inner.put(path[2], value)


def _check_variables(sources: Sources, problems: list[Problem]) -> None:
    """Add a problem for each variable that looks like a misspelled setting. Ignore variables of other programs."""
    known = ["GATEWAY_" + name.replace("-", "_").upper() for name in setting_names()]
    for variable in sources.environment:
        if variable.startswith("GATEWAY_") and variable not in known:
            close = difflib.get_close_matches(variable, known, n=1, cutoff=0.88)
            if close:
                problems.append(Problem(variable, "", f"unknown variable; did you mean {close[0]}?"))


def _put_urls(
    root: Table, section: str, flag: str, sources: Sources, problems: list[Problem], redactor: Redactor
) -> None:
    prefix = f"GATEWAY_{flag.upper()}_"
    for variable in _url_variables(sources, flag):
        name = variable.removeprefix(prefix).lower().replace("_", "-")
        try:
            expanded = expand(sources.environment[variable], sources.environment, redactor.references)
        except KeyError as error:
            problems.append(Problem(variable, "", f"the environment variable {error.args[0]} is not set: set it"))
            continue
        redactor.add(variable, *urls.values_in(expanded))
        _put_url(root, section, name, expanded, variable, problems)
    kinds = tunnels.KINDS if section == "tunnels" else backends.KINDS
    given: set[str] = set()
    for argument in sources.tunnels if section == "tunnels" else sources.backends:
        name, equals, text = argument.partition("=")
        place = f"--{flag} {name}"
        if not equals or "://" in name:
            problems.append(Problem(f"--{flag}", "", f"must be NAME=URL, as in --{flag} {_EXAMPLES[flag]}"))
            continue
        if name in given:
            problems.append(Problem(place, "", "is given twice: remove one"))
        given.add(name)
        table = _put_url(root, section, name, text, place, problems)
        problems.extend(
            Problem(place, key, f"is visible in process lists: use {key}_file or the environment")
            for key in (urls.secrets_in(table, kinds) if table else [])
        )


def _put_url(root: Table, section: str, name: str, text: str, place: str, problems: list[Problem]) -> Table | None:
    if section == "tunnels":
        table = urls.tunnel_tree(text, place, tunnels.KINDS, problems)
    else:
        table = urls.backend_tree(text, place, backends.KINDS, problems)
    if table is not None:
        _put(root, section, name, table, problems)
    return table


def _put(root: Table, section: str, key: str, value: Tree, problems: list[Problem]) -> None:
    if section not in root.entries or (isinstance(held := root.entries[section][1], Scalar) and held.text is None):
        root.put(section, Table(value.place))
    inner = root.entries[section][1]
    if isinstance(inner, Table):
        inner.put(key, value)
    else:
        problems.append(Problem(inner.place, section, "must be a mapping of keys and values"))


def _order(problem: Problem) -> tuple[str, int, int]:
    match = re.fullmatch(r"(.*?):(\d+):(\d+)", problem.place)
    return (match[1], int(match[2]), int(match[3])) if match else (problem.place, 0, 0)
