"""An OpenVPN client's configuration file: what of it stays, what the gateway says instead. Pure."""

import re
from dataclasses import dataclass

from gateway.errors import GatewayError

_OURS = {
    # The process and its output.
    "daemon", "inetd", "log", "log-append", "syslog", "writepid", "status", "status-version", "verb", "mute", "echo",
    "suppress-timestamps", "machine-readable-output", "errors-to-stderr", "nice", "chroot", "user", "group", "cd",
    "management", "management-client", "management-hold", "management-query-passwords", "management-query-remote",
    "management-up-down", "management-signal", "management-forget-disconnect", "management-log-cache",
    # The device, addresses, routes and names.
    "dev", "dev-type", "dev-node", "ifconfig-noexec", "ifconfig-nowarn", "route-noexec", "route-up", "route-pre-down",
    "up", "down", "up-delay", "up-restart", "down-pre", "ipchange", "script-security", "dns-updown", "persist-tun",
    # How attempts follow each other.
    "connect-retry", "connect-retry-max", "connect-timeout", "server-poll-timeout", "resolv-retry", "auth-retry",
    "auth-nocache", "single-session", "ping-exit",
}  # fmt: skip
"""Directives that the gateway gives itself, or that would take from it what it has to do."""
_TOLD = {"up", "down", "route-up", "ipchange", "dns-updown"}
"""Those of ours whose loss somebody may notice."""
_PRIVATE = {"key", "secret", "pkcs12", "tls-crypt", "tls-crypt-v2", "tls-auth", "auth-user-pass", "askpass"}
"""What holds a private key or a password, in a block or in a file."""
_REFUSED = {
    "plugin": "loads code into the client",
    "providers": "loads code into the client",
    "engine": "loads code into the client",
    "pkcs11-providers": "loads code into the client",
    "config": "reads a further file, which is not looked at; put its lines here",
    "tls-verify": "decides by a script; use verify-x509-name or remote-cert-tls",
    "auth-user-pass-verify": "belongs to a server",
    "client-connect": "belongs to a server",
    "server": "belongs to a server",
    "mode": "belongs to a server",
}


_SPACE = " \t\n\v\f\r"
"""What OpenVPN takes for a space: isspace(3) in the C locale."""
_PIECE = 255
"""Bytes of a block's line that OpenVPN reads at once; it looks for the block's end in each such piece."""


@dataclass(frozen=True)
class ClientFile:
    """A file as it is given to OpenVPN.

    Args:
        text: Without what is ours.
        layer: `tun` or `tap`.
        private: Whether keys or passwords stand in it.
        private_files: Files with such, as they are named.
        proxied: Whether it goes through a proxy of its own.
        asks_login: Whether it wants a user and a password that no file of its own holds.
        left_out: The directives that were taken out and do something, in their order.
    """

    text: str
    layer: str
    private: bool
    private_files: tuple[str, ...]
    proxied: bool
    asks_login: bool
    left_out: tuple[str, ...]


def read(text: str) -> ClientFile:
    """Read a client's file.

    Raises:
        GatewayError: It holds what cannot be.
    """
    reader = _Reader()
    for number, line in enumerate(text.removeprefix("\ufeff").removesuffix("\n").split("\n"), 1):
        try:
            reader.take(line)
        except GatewayError as error:
            raise GatewayError(f"line {number}: {error}") from None
    return reader.file()


class _Reader:
    """Takes lines one by one, and sees blocks and directives where OpenVPN does (`read_config_file` there)."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._left_out: list[str] = []
        self._private_files: list[str] = []
        self._layer = "tun"
        self._block: str | None = None
        self._connection = self._asks_login = self._proxied = self._private = False

    def take(self, line: str) -> None:
        if "\0" in line:
            raise GatewayError("holds a null character, which ends the line for OpenVPN: remove it")
        if "</" in line and len(line.encode()) >= _PIECE:
            raise GatewayError(f"has {_PIECE} bytes or more, and OpenVPN may find the end of a block in it: break it")
        if self._in_block(line.strip(_SPACE)):
            self._kept.append(line)
        else:
            self._take_words(line)

    def _in_block(self, stripped: str) -> bool:
        """Whether the line belongs to a block, perhaps as its end."""
        if self._connection and stripped.startswith("</connection>"):
            if self._block is not None:
                raise GatewayError(f"<{self._block}> is not closed: add </{self._block}>")
            self._connection = False
            return True
        if self._block is None:
            return False
        if stripped.startswith(f"</{self._block}>"):
            self._block = None
        return True

    def _take_words(self, line: str) -> None:
        words = words_of(line)
        name = _without_dashes(words)
        if len(words) == 1 and re.fullmatch("<.*>", name):
            self._kept.append(line)
            if name == "<connection>" and not self._connection:
                self._connection = True  # its lines are directives
            else:
                self._block = name[1:-1]
                self._private |= self._block in _PRIVATE
            return
        if name == "setenv" and words[1:2] == ["opt"]:
            words = words[2:]  # OpenVPN takes what follows for a directive
            name = _without_dashes(words)
        if name in _REFUSED:
            raise GatewayError(f"{name} {_REFUSED[name]}: remove it")
        self._note(name, words[1:])
        if name in _OURS:
            self._left_out += [name] if name in _TOLD else []
        self._kept.append("" if name in _OURS else line)  # so that OpenVPN's line numbers are the file's

    def _note(self, name: str, values: list[str]) -> None:
        if name in ("dev", "dev-type"):
            self._layer = "tap" if values and values[0].startswith("tap") else "tun"
        self._proxied |= name in ("http-proxy", "socks-proxy")
        self._asks_login |= name == "auth-user-pass" and not values
        if name in _PRIVATE and values and values[0] != "[inline]":
            self._private_files.append(values[0])

    def file(self) -> ClientFile:
        if self._block is not None or self._connection:
            name = self._block or "connection"
            raise GatewayError(f"<{name}> is not closed: add </{name}>")
        return ClientFile(
            text="\n".join(self._kept) + "\n",
            layer=self._layer,
            private=self._private,
            private_files=tuple(self._private_files),
            proxied=self._proxied,
            asks_login=self._asks_login,
            left_out=tuple(self._left_out),
        )


def _without_dashes(words: list[str]) -> str:
    """The first word, as a command line's option or not."""
    return re.sub("^--(?=.)", "", words[0]) if words else ""


def words_of(line: str) -> list[str]:
    """The words of a line as OpenVPN finds them (`parse_line` in its options_parse.c).

    A quote counts only where a word begins, and where it closes, the word ends. A backslash takes the next character
    as it is, but for single quotes; a space begins no word all the same. A comment begins where a word would.

    Raises:
        GatewayError: A quote is not closed.
    """
    words: list[str] = []
    word, quote, inside = "", "", False
    characters = iter(line)
    for character in characters:
        escaped = character == "\\" and quote != "'"
        taken = next(characters, "") if escaped else character
        if not inside:
            if taken in ("#", ";"):
                break
            if taken in _SPACE:
                continue
            inside, word = True, ""
            quote = taken if not escaped and taken in "\"'" else ""
            word = "" if quote else taken
        elif not escaped and (taken == quote or (not quote and taken in _SPACE)):
            words.append(word)
            inside, quote = False, ""
        else:
            word += taken
    if inside and quote:
        raise GatewayError(f"{quote} is not closed")
    return [*words, word] if inside else words
