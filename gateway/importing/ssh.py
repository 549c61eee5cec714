"""Converts `ssh -L` commands and ssh_config files (ssh(1), ssh_config(5)) to tunnels and backends."""

import fnmatch
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import UsageError
from gateway.importing.result import ImportResult

_WITH_VALUE = "BbcDEeFIiJLlmOoPpRSWw"
"""Options of ssh that take a value (ssh(1), "SYNOPSIS")."""
_KNOWN_HOSTS = "~/.ssh/known_hosts"
_USER = "${USER}"
_ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - the command requests it


@dataclass
class HostConfig:
    """The settings of one ssh command, or of one host in a file.

    Args:
        destination: The server, as `[user@]host` or an `ssh://` URL.
        keywords: The ssh_config keywords in lower case, each with its values in order.
    """

    destination: str = ""
    keywords: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, value: str) -> None:
        """Append a value to a keyword."""
        self.keywords.setdefault(key.lower(), []).append(value)

    def first(self, key: str, otherwise: str = "") -> str:
        """Return the first value of a keyword, which is the one that ssh uses."""
        return self.keywords.get(key, [otherwise])[0]


def import_command(text: str, result: ImportResult) -> None:
    """Convert an ssh command with local forwards.

    Args:
        text: The command line.
        result: Gets the tunnels and backends.

    Raises:
        UsageError: The command cannot be parsed, or forwards nothing.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"the command cannot be parsed: {error}") from None
    while words and re.match(r"\w+=|sudo$|autossh$|-M$|exec$", words[0]):
        words = words[2:] if words[0] == "-M" else words[1:]
    if words and words[0].rpartition("/")[2] in ("ssh", "autossh"):
        words = words[1:]
    config = HostConfig()
    while words:
        word = words.pop(0)
        if word.startswith("-") and len(word) > 1:
            words = _option(word, words, config, result)
        elif not config.destination:
            config.destination = word
        else:
            break  # the rest is a command for the server
    if not config.destination:
        raise UsageError("the command names no server")
    _add_host(config, result)


def _option(word: str, words: list[str], config: HostConfig, result: ImportResult) -> list[str]:
    """Parse one option, or several in one word; return the remaining words."""
    letter, rest = word[1], word[2:]
    if letter not in _WITH_VALUE:
        if letter == "g":
            config.add("gatewayports", "yes")
        return _option(f"-{rest}", words, config, result) if rest else words
    if not rest and not words:
        raise UsageError(f"-{letter} needs a value")
    value, words = (rest, words) if rest else (words[0], words[1:])
    match letter:
        case "o":
            key, _, setting = value.replace("=", " ", 1).partition(" ")
            config.add(key, setting.strip())
        case "L":
            config.add("localforward", value)
        case "i" | "p" | "l" | "J":
            config.add({"i": "identityfile", "p": "port", "l": "user", "J": "proxyjump"}[letter], value)
        case "R" | "D" | "W":
            result.add_note(f"-{letter} {value}: not imported; only -L is supported")
        case "F":
            result.add_note(f"-F {value}: not imported; run `gateway import ssh-config {value}` for this file")
    return words


def import_config(text: str, result: ImportResult) -> None:
    """Convert the hosts with a LocalForward of an ssh_config file.

    Args:
        text: The content of the file.
        result: Gets the tunnels and backends.

    Raises:
        UsageError: A line cannot be parsed.
    """
    blocks: list[tuple[list[str], list[tuple[str, str]]]] = [(["*"], [])]
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, _, value = re.sub(r"\s*=\s*|\s+", " ", stripped, count=1).partition(" ")
        if not value:
            raise UsageError(f"line {number}: {key} has no value")
        value = value.strip().strip('"')
        if key.lower() == "host":
            blocks.append((value.split(), []))
        elif key.lower() in ("match", "include"):
            result.add_note(f"line {number}: {key} {value}: not imported")
            if key.lower() == "match":
                blocks.append(([], []))
        else:
            blocks[-1][1].append((key, value))
    for patterns, _ in blocks[1:]:
        for name in patterns:
            config = _host_config(name, blocks)
            if not re.search(r"[*?!]", name) and "localforward" in config.keywords:
                _add_host(config, result, lambda jump: _host_config(jump, blocks))


def _host_config(name: str, blocks: list[tuple[list[str], list[tuple[str, str]]]]) -> HostConfig:
    """Collect the settings for one host from all matching blocks of a file (ssh_config(5))."""
    config = HostConfig(name)
    for patterns, lines in blocks:
        refused = any(fnmatch.fnmatchcase(name, each[1:]) for each in patterns if each.startswith("!"))
        if not refused and any(fnmatch.fnmatchcase(name, each) for each in patterns):
            for key, value in lines:
                config.add(key, value)
    return config


def _add_host(config: HostConfig, result: ImportResult, look_up: Any = None) -> None:
    via = None
    for jump in filter(None, config.first("proxyjump").split(",")):
        if jump != "none":
            via = result.add_tunnel(_server(look_up(jump) if look_up else HostConfig(jump), via, result, config))
    name = result.add_tunnel(_server(config, via, result, config))
    forwards = config.keywords.get("localforward", [])
    if not forwards:
        raise UsageError(f"{config.destination}: there is no local forward (-L, LocalForward)")
    any_address = config.first("gatewayports").lower() in ("yes", "true")
    for forward in forwards:
        listen, target = _forward(forward, any_address=any_address)
        result.add_backend(name, target, listen)
    for key in ("remoteforward", "dynamicforward", "proxycommand"):
        if key in config.keywords:
            result.add_note(f"{config.destination}: {key} is not imported")
    if config.first("stricthostkeychecking").lower() in ("no", "off", "accept-new"):
        result.add_note(
            f"tunnels.{name}: host keys are always checked: add the server's key to known_hosts (ssh-keyscan)"
        )


def _server(config: HostConfig, via: str | None, result: ImportResult, command: HostConfig) -> dict[str, Any]:
    """Return the keys of a tunnel to a server.

    Args:
        config: The settings for the server.
        via: The tunnel through which the server is reached.
        result: Gets notes.
        command: The settings of the whole command; `config` itself unless the server is a jump host.
    """
    address = config.destination.removeprefix("ssh://")
    user, at, host = address.rpartition("@")
    port = config.first("port")
    if match := re.fullmatch(r"(.+):(\d+)", host.strip("[]")) if config is not command else None:
        host, port = match[1], match[2]
    user = user if at else config.first("user")
    if not user:
        user = _USER
        result.add_note("the command names no user: the configuration uses ${USER} from the environment")
    keys: dict[str, Any] = {"kind": "ssh"}
    if via is not None:
        keys["via"] = via
    keys["host"] = config.first("hostname", host).replace("%h", host)
    if port and port != "22":
        keys["port"] = _number(port)
    keys["user"] = user
    identities = config.keywords.get("identityfile") or command.keywords.get("identityfile")
    if identities:
        keys["identity_files"] = list(dict.fromkeys(_home(each) for each in identities))
    else:
        keys["agent"] = "${SSH_AUTH_SOCK}"
        result.add_note("no key is named (-i): the configuration uses the SSH agent; a service needs its own key")
    keys["known_hosts"] = [_home(each) for each in config.first("userknownhostsfile", _KNOWN_HOSTS).split()]
    return keys


def _home(path: str) -> str:
    return re.sub(r"^(~|%d)(?=/|$)", "${HOME}", path)


def _forward(text: str, *, any_address: bool) -> tuple[str, str]:
    """Parse a local forward, such as `[bind:]port:host:hostport`, or with a space as in a file.

    Args:
        text: The forward.
        any_address: Whether to listen on all addresses if the forward names none.

    Returns:
        The listener and the target.
    """
    parts = re.findall(r"\[[^\]]*\]|/[^:\s]+|[^:\s]+", text)
    parts = [part.strip("[]") if not part.startswith("/") else part for part in parts]
    if len(parts) == 2 and parts[0].startswith("/"):
        raise UsageError(f"-L {text}: unix sockets on the server are not supported")
    if parts and parts[0].startswith("/") and len(parts) == 3:
        return parts[0], _joined(parts[1], parts[2])
    if len(parts) == 3:
        return _joined(_ANY_ADDRESS if any_address else "127.0.0.1", parts[0]), _joined(parts[1], parts[2])
    if len(parts) == 4:
        bind = _ANY_ADDRESS if parts[0] == "*" else parts[0]
        return _joined("127.0.0.1" if bind == "localhost" else bind, parts[1]), _joined(parts[2], parts[3])
    raise UsageError(f"-L {text}: needs [address:]port:host:port")


def _joined(host: str, port: str) -> str:
    return f"[{host}]:{_number(port)}" if ":" in host else f"{host}:{_number(port)}"


def _number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UsageError(f"{text!r} is not a port number")
    return int(text)
