"""`ssh -L …` and ssh_config files (ssh(1), ssh_config(5)) as tunnels and backends."""

import fnmatch
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import UsageError
from gateway.importing.found import Found

_WITH_VALUE = "BbcDEeFIiJLlmOoPpRSWw"
"""Options of ssh that take a value (its synopsis)."""
_KNOWN_HOSTS = "~/.ssh/known_hosts"
_USER = "${USER}"
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - what the command asked for


@dataclass
class Wish:
    """What one ssh command, or one host of a file, asks for.

    Args:
        host: The server.
        settings: Keywords of ssh_config in lower case, each with its values in order.
    """

    host: str = ""
    settings: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, value: str) -> None:
        """One more value."""
        self.settings.setdefault(key.lower(), []).append(value)

    def first(self, key: str, otherwise: str = "") -> str:
        """The first value, which is the one that counts for ssh."""
        return self.settings.get(key, [otherwise])[0]


def command(text: str, found: Found) -> None:
    """Add what an ssh command forwards.

    Raises:
        UsageError: It is no such command.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"the command cannot be read: {error}") from None
    while words and re.match(r"\w+=|sudo$|autossh$|-M$|exec$", words[0]):
        words = words[2:] if words[0] == "-M" else words[1:]
    if words and words[0].rpartition("/")[2] in ("ssh", "autossh"):
        words = words[1:]
    wish = Wish()
    while words:
        word = words.pop(0)
        if word.startswith("-") and len(word) > 1:
            words = _option(word, words, wish, found)
        elif not wish.host:
            wish.host = word
        else:
            break  # a command to run over there
    if not wish.host:
        raise UsageError("the command names no server")
    _fulfil(wish, found)


def _option(word: str, words: list[str], wish: Wish, found: Found) -> list[str]:
    """Take one option, or several in one word; gives the words that are left."""
    letter, rest = word[1], word[2:]
    if letter not in _WITH_VALUE:
        if letter == "g":
            wish.add("gatewayports", "yes")
        return _option(f"-{rest}", words, wish, found) if rest else words
    if not rest and not words:
        raise UsageError(f"-{letter} needs a value")
    value, words = (rest, words) if rest else (words[0], words[1:])
    match letter:
        case "o":
            key, _, setting = value.replace("=", " ", 1).partition(" ")
            wish.add(key, setting.strip())
        case "L":
            wish.add("localforward", value)
        case "i" | "p" | "l" | "J":
            wish.add({"i": "identityfile", "p": "port", "l": "user", "J": "proxyjump"}[letter], value)
        case "R" | "D" | "W":
            found.note(f"-{letter} {value}: only forwards by -L are taken over")
        case "F":
            found.note(f"-F {value}: import that file with `gateway import ssh-config {value}`")
    return words


def config(text: str, found: Found) -> None:
    """Add every host of an ssh_config file that forwards something.

    Raises:
        UsageError: A line cannot be read.
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
            found.note(f"line {number}: {key} {value}: not looked at")
            if key.lower() == "match":
                blocks.append(([], []))
        else:
            blocks[-1][1].append((key, value))
    for patterns, _ in blocks[1:]:
        for name in patterns:
            wish = _wish(name, blocks)
            if not re.search(r"[*?!]", name) and "localforward" in wish.settings:
                _fulfil(wish, found, lambda jump: _wish(jump, blocks))


def _wish(name: str, blocks: list[tuple[list[str], list[tuple[str, str]]]]) -> Wish:
    """What a file says of one host: of each keyword the first value, of forwards all (ssh_config(5))."""
    wish = Wish(name)
    for patterns, lines in blocks:
        refused = any(fnmatch.fnmatchcase(name, each[1:]) for each in patterns if each.startswith("!"))
        if not refused and any(fnmatch.fnmatchcase(name, each) for each in patterns):
            for key, value in lines:
                wish.add(key, value)
    return wish


def _fulfil(wish: Wish, found: Found, look_up: Any = None) -> None:
    via = None
    for jump in filter(None, wish.first("proxyjump").split(",")):
        if jump != "none":
            via = found.tunnel(_server(look_up(jump) if look_up else Wish(jump), via, found, wish))
    name = found.tunnel(_server(wish, via, found, wish))
    forwards = wish.settings.get("localforward", [])
    if not forwards:
        raise UsageError(f"{wish.host}: forwards nothing by -L")
    everywhere = wish.first("gatewayports").lower() in ("yes", "true")
    for forward in forwards:
        listen, target = _forward(forward, everywhere=everywhere)
        found.backend(name, target, listen)
    for key in ("remoteforward", "dynamicforward", "proxycommand"):
        if key in wish.settings:
            found.note(f"{wish.host}: {key} is not taken over")
    if wish.first("stricthostkeychecking").lower() in ("no", "off", "accept-new"):
        found.note(f"tunnels.{name}: host keys are always checked: put the server's into known_hosts (ssh-keyscan)")


def _server(wish: Wish, via: str | None, found: Found, asked: Wish) -> dict[str, Any]:
    """The keys of a tunnel to the server of a wish."""
    address = wish.host.removeprefix("ssh://")
    user, at, host = address.rpartition("@")
    port = wish.first("port")
    if match := re.fullmatch(r"(.+):(\d+)", host.strip("[]")) if wish is not asked else None:
        host, port = match[1], match[2]
    user = user if at else wish.first("user")
    if not user:
        user = _USER
        found.note("no user is named: ${USER} of the environment is used")
    keys: dict[str, Any] = {"kind": "ssh"}
    if via is not None:
        keys["via"] = via
    keys["host"] = wish.first("hostname", host).replace("%h", host)
    if port and port != "22":
        keys["port"] = _number(port)
    keys["user"] = user
    identities = wish.settings.get("identityfile") or asked.settings.get("identityfile")
    if identities:
        keys["identity_files"] = list(dict.fromkeys(_home(each) for each in identities))
    else:
        keys["agent"] = "${SSH_AUTH_SOCK}"
        found.note("no key is named (-i): the agent's are used; a service needs one of its own")
    keys["known_hosts"] = [_home(each) for each in wish.first("userknownhostsfile", _KNOWN_HOSTS).split()]
    return keys


def _home(path: str) -> str:
    return re.sub(r"^(~|%d)(?=/|$)", "${HOME}", path)


def _forward(text: str, *, everywhere: bool) -> tuple[str, str]:
    """`[bind:]port:host:hostport`, or with blanks as in a file: the listener and the target."""
    parts = re.findall(r"\[[^\]]*\]|/[^:\s]+|[^:\s]+", text)
    parts = [part.strip("[]") if not part.startswith("/") else part for part in parts]
    if len(parts) == 2 and parts[0].startswith("/"):
        raise UsageError(f"-L {text}: unix sockets on the far side are not taken over")
    if parts and parts[0].startswith("/") and len(parts) == 3:
        return parts[0], _joined(parts[1], parts[2])
    if len(parts) == 3:
        return _joined(_EVERYWHERE if everywhere else "127.0.0.1", parts[0]), _joined(parts[1], parts[2])
    if len(parts) == 4:
        bind = _EVERYWHERE if parts[0] == "*" else parts[0]
        return _joined("127.0.0.1" if bind == "localhost" else bind, parts[1]), _joined(parts[2], parts[3])
    raise UsageError(f"-L {text}: needs [address:]port:host:port")


def _joined(host: str, port: str) -> str:
    return f"[{host}]:{_number(port)}" if ":" in host else f"{host}:{_number(port)}"


def _number(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UsageError(f"{text!r} is no port")
    return int(text)
