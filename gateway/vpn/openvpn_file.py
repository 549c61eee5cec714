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
    """Takes lines one by one."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._left_out: list[str] = []
        self._private_files: list[str] = []
        self._layer = "tun"
        self._block: str | None = None
        self._asks_login = self._proxied = self._private = False

    def take(self, line: str) -> None:
        stripped = line.strip()
        if self._block is not None:
            self._kept.append(line)
            self._block = None if stripped.startswith(f"</{self._block}>") else self._block
            return
        words = words_of(stripped)
        if words[:2] == ["setenv", "opt"]:
            words = words[2:]  # OpenVPN takes what follows for a directive
        opening = re.fullmatch(r"<([\w-]+)>", words[0]) if len(words) == 1 else None
        if opening and opening[1] != "connection":
            self._block = opening[1]
            self._private |= self._block in _PRIVATE
            self._kept.append(line)
            return
        name = words[0].removeprefix("--") if words else ""
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
        if self._block is not None:
            raise GatewayError(f"<{self._block}> is not closed: add </{self._block}>")
        return ClientFile(
            text="\n".join(self._kept) + "\n",
            layer=self._layer,
            private=self._private,
            private_files=tuple(self._private_files),
            proxied=self._proxied,
            asks_login=self._asks_login,
            left_out=tuple(self._left_out),
        )


def words_of(line: str) -> list[str]:
    """The words of a line as OpenVPN finds them (`parse_line` in its options_parse.c).

    A quote counts only where a word begins, and where it closes, the word ends. A backslash takes the next character
    as it is, but for single quotes. A comment begins where a word would.

    Raises:
        GatewayError: A quote is not closed.
    """
    words: list[str] = []
    word, quote, inside = "", "", False
    characters = iter(line)
    for character in characters:
        if not inside:
            if character in "#;":
                break
            if character.isspace():
                continue
            inside, word, quote = True, "", character if character in "\"'" else ""
            if quote:
                continue
        if character == (quote or " ") or (not quote and character.isspace()):
            words.append(word)
            inside = False
        elif character == "\\" and quote != "'":
            word += next(characters, "")
        else:
            word += character
    if inside and quote:
        raise GatewayError(f"{quote} is not closed")
    return [*words, word] if inside else words
