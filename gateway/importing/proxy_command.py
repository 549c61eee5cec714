"""Converts `ProxyCommand` values (ssh_config(5)) to a jump host, a proxy, or a program."""

import re
import shlex
from dataclasses import dataclass

from gateway.importing.imported_setup import home

_JUMP = re.compile(
    r"ssh\s+(?:-\w\s+)*-W\s+\[?%h\]?:%p\s+(?:-\w\s+)*(\S+)"
    r"|ssh\s+(?:-\w\s+)*(\S+)\s+-W\s+\[?%h\]?:%p"
    r"|ssh\s+(?:-\w\s+)*(\S+)\s+(?:exec\s+)?nc\s+%h\s+%p"
)
_NETCAT = re.compile(r"(?:nc|ncat|netcat)(\s+.*)%h\s+%p")
_SHELL = re.compile(
    r"""
    '[^']*' | \\. | "(?:[^"\\$`]|\\.)*"
    | ([|&;<>()$`*?\[\]\#"'\n] | ^\s*\w+= | (?<=\s)~(?!/))
    """,
    re.DOTALL | re.VERBOSE,
)
"""Matches a quoted part of a command, or syntax that needs a shell: an operator, a variable, or a wildcard pattern.
Group 1 matches only syntax that needs a shell."""
_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)")
_BRACES = re.compile(r"(?<!\$)\{(\w+)\}")
_TOKENS = {"%": "%", "h": "{host}", "p": "{port}", "r": "{user}"}
"""Maps each token of ssh_config(5), without `%`, to the placeholder in the gateway's configuration."""
_INHERITED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ"})
"""Environment variables that the gateway always passes to the program of a tunnel."""
_CORKSCREW = re.compile(r"corkscrew\s+(\S+)\s+(\d+)\s+%h\s+%p")


@dataclass(frozen=True)
class ParsedProxyCommand:
    """The jump host or the proxy through which a `ProxyCommand` connects.

    Args:
        jump: The jump host; empty if the command uses no jump host.
        url: The URL of the proxy; empty if the command uses no proxy.
    """

    jump: str = ""
    url: str = ""


def parse_proxy_command(command: str) -> ParsedProxyCommand:
    """Return the jump host or the proxy of a `ProxyCommand`. If the command is not recognized, return neither.

    Args:
        command: The command. It can contain the tokens of ssh_config(5), such as `%h`.
    """
    if match := _JUMP.fullmatch(command.strip()):
        return ParsedProxyCommand(jump=match[1] or match[2] or match[3])
    if match := _CORKSCREW.fullmatch(command.strip()):
        return ParsedProxyCommand(url=f"http://{match[1]}:{match[2]}")
    if match := _NETCAT.fullmatch(command.strip()):
        address = re.search(r"(-x|--proxy)[ =]([\w.-]+:\d+)(?=\s)", match[1])
        scheme = re.search(r"(?:-X|--proxy-type)[ =](\S+)", match[1])
        known = {"5": "socks5", "socks5": "socks5", "connect": "http", "http": "http"}
        # The default of nc -x (OpenBSD) is SOCKS5, and the default of ncat --proxy is HTTP.
        kind = known.get(scheme[1] if scheme else "5" if address and address[1] == "-x" else "http")
        has_login = re.search(r"\s(?:-P|--proxy-auth)[ =]", match[1])
        if address and kind and not has_login:
            return ParsedProxyCommand(url=f"{kind}://{address[2]}")
    return ParsedProxyCommand()


@dataclass(frozen=True)
class ProxyCommandProgram:
    """A `ProxyCommand` that runs another program, converted to the key `proxy_command`.

    Args:
        words: The value of `proxy_command`.
        environment: The environment variables that the command uses.
        needs_shell: Whether the command contains shell syntax. If so, `words` is `sh -c` with the command.
        unknown: The tokens, such as `%C`, that have no equivalent in the configuration.
        braces: The words in braces, such as `{print}`. `words` contains them with spaces inside the braces, because
            the gateway would otherwise read them as placeholders.
    """

    words: tuple[str, ...]
    environment: tuple[str, ...]
    needs_shell: bool
    unknown: tuple[str, ...]
    braces: tuple[str, ...]


def program(command: str, alias: str) -> ProxyCommandProgram:
    """Convert a `ProxyCommand` that uses neither a jump host nor a proxy.

    Args:
        command: The command, which ssh passes to a shell.
        alias: The value of `%n`: the server's name as given on the ssh command line.
    """
    tokens = _TOKENS | {"n": alias}
    unknown: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        if match[1] not in tokens:
            unknown.append(match[0])
        return tokens.get(match[1], match[0])

    command = re.sub(r"^\s*exec\s+", "", command)
    needs_shell = any(match[1] for match in _SHELL.finditer(command))
    words = ["sh", "-c", command] if needs_shell else shlex.split(command)
    braces = tuple(f"{{{name}}}" for name in _BRACES.findall(command))
    words = [_BRACES.sub(r"{ \1 }", word) for word in words]
    # Convert each `$` to `$$`, because a single `$` in the configuration file can begin a reference to a variable.
    converted = [re.sub(r"%(.)", replacement, word.replace("$", "$$")) for word in words]
    converted = [home(word) if word.startswith("~/") and not needs_shell else word for word in converted]
    variables = dict.fromkeys(_VARIABLE.findall(command)) if needs_shell else ()
    environment = tuple(name for name in variables if name not in _INHERITED)
    return ProxyCommandProgram(tuple(converted), environment, needs_shell, tuple(unknown), braces)
