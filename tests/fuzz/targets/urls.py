"""Fuzz the URLs of tunnels and backends. A URL must give the same configuration as a file with the same keys."""

import json
import re
from collections.abc import Callable

from gateway import backends, tunnels
from gateway.config import Config, ConfigSources, load, url_parser
from gateway.config.parsed_tree import ParsedMapping, ParsedScalar, ParsedSequence, Tree
from gateway.config.redaction import Redactor
from gateway.errors import ConfigError, ConfigProblem
from tests.fuzz.files import as_file

LONGEST, UNIT, HEAD = 1024, 1, 1
KINDS = [*tunnels.KINDS.values(), *backends.KINDS.values()]
"""This list imports the modules of all kinds. libFuzzer does not measure the coverage of modules that are imported
later."""
WORDS = (
    "ssh://", "mysql://", "postgres://", "nfs://", "smb://", "tcp://", "socks5://", "http://", "openvpn://",
    "wireguard://", "?", "&", "via=", "listen=", "check.", "check.user=", "check.password_file=", "%23", "%00", "%2C",
    "%", "@", ":", "[fd00::1]", "identity_files=", "known_hosts=", "user=", "allow.", "volume.name=", "127.0.0.1:1",
    "$", "//", "keepalive.interval=1s",
)  # fmt: skip
_OTHER = {"GATEWAY_BACKEND_Y": "tcp://db:1"}


def describe(data: bytes) -> str:
    """Return the configuration section and the URL in `data`."""
    return repr(_read(data))


def _read(data: bytes) -> tuple[str, str]:
    return "backends" if data[:1] and data[0] & 1 else "tunnels", data[1:].decode("utf-8", "replace")


def check(data: bytes) -> None:
    """Load a URL from an environment variable and from a flag. Also load a file with the same keys.

    Raises:
        AssertionError: The URL and the file give different configurations, or an error has no position.
    """
    section, url = _read(data)
    one = section.removesuffix("s")
    variable = f"GATEWAY_{one.upper()}_X"
    by_variable = _load(ConfigSources(environment={variable: url.replace("$", "$$")} | _OTHER))
    flags = (f"x={url}",)
    by_flag = _load(
        ConfigSources(tunnels=flags, environment=_OTHER)
        if section == "tunnels"
        else ConfigSources(backends=flags, environment=_OTHER)
    )
    for problem in (*_problems(by_variable), *_problems(by_flag)):
        assert problem.message, f"an error without a message\n{problem}"
        assert problem.place.partition(" ")[0] in (variable, f"--{one}"), f"an error without a position\n{problem}"
    tree = _tree(section, url)
    if tree is None:
        assert isinstance(by_variable, ConfigError), "a URL with problems is accepted"
        return
    text = json.dumps({section: {"x": _plain(tree)}})
    if re.search(r'"[^"]{1000,}":', text):
        return  # YAML does not accept keys of this length, so no file can contain the same keys as the URL.
    redactor = Redactor()
    redactor.add(variable, *url_parser.values_in(url))
    _compare(by_variable, text, lambda message: redactor.redact(message, variable))


def _tree(section: str, url: str) -> ParsedMapping | None:
    problems: list[ConfigProblem] = []
    if section == "tunnels":
        found = url_parser.tunnel_tree(url, "here", tunnels.KINDS, problems)
    else:
        found = url_parser.backend_tree(url, "here", backends.KINDS, problems)
    return None if problems else found


def _compare(by_url: Config | ConfigError, text: str, shown: Callable[[str], str]) -> None:
    with as_file(text.encode()) as path:
        by_file = _load(ConfigSources(file=path, environment=_OTHER))
    if isinstance(by_url, ConfigError) or isinstance(by_file, ConfigError):
        messages = [
            sorted((each.key, each.message) for each in _problems(by_url)),
            sorted((each.key, shown(each.message)) for each in _problems(by_file)),
        ]
        assert messages[0] == messages[1], f"a URL and a file are refused for different reasons\n{messages}"
    else:
        assert by_url == by_file, "a URL and a file have different meanings"


def _load(sources: ConfigSources) -> Config | ConfigError:
    try:
        return load(sources)
    except ConfigError as error:
        return error


def _problems(made: Config | ConfigError) -> list[ConfigProblem]:
    return made.problems if isinstance(made, ConfigError) else []


def _plain(tree: Tree) -> object:
    if isinstance(tree, ParsedScalar):
        return None if tree.text is None else tree.text.replace("$", "$$")
    if isinstance(tree, ParsedSequence):
        return [_plain(item) for item in tree.items]
    return {name: _plain(value) for name, (_, value) in tree.entries.items()}
