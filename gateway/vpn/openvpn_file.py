"""An OpenVPN client's configuration file: what of it stays, what the gateway says instead. Pure."""

import re
import shlex
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
        proxied: Whether it goes through a proxy of its own.
        asks_login: Whether it wants a user and a password that no file of its own holds.
        left_out: The directives that were taken out and do something, in their order.
    """

    text: str
    layer: str
    proxied: bool
    asks_login: bool
    left_out: tuple[str, ...]


def read(text: str) -> ClientFile:
    """Read a client's file.

    Raises:
        GatewayError: It holds what cannot be.
    """
    kept: list[str] = []
    left_out: list[str] = []
    layer, block = "tun", None
    asks_login = proxied = False
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        stripped = line.strip()
        if block is not None:
            kept.append(line)
            block = None if stripped.startswith(f"</{block}>") else block
            continue
        opening = re.fullmatch(r"<([\w-]+)>", stripped)
        if opening and opening[1] != "connection":
            block = opening[1]
            kept.append(line)
            continue
        try:
            words = _words(stripped)
        except GatewayError as error:
            raise GatewayError(f"line {number}: {error}") from None
        name = words[0].removeprefix("--") if words else ""
        if name in _REFUSED:
            raise GatewayError(f"line {number}: {name} {_REFUSED[name]}: remove it")
        if name in ("dev", "dev-type"):
            layer = "tap" if len(words) > 1 and words[1].startswith("tap") else "tun"
        proxied |= name in ("http-proxy", "socks-proxy")
        if name == "auth-user-pass" and len(words) == 1:
            asks_login = True
        if name in _OURS:
            left_out += [name] if name in ("up", "down", "route-up", "ipchange", "dns-updown") else []
            kept.append("")  # so that OpenVPN's line numbers are the file's
        else:
            kept.append(line)
    if block is not None:
        raise GatewayError(f"<{block}> is not closed: add </{block}>")
    return ClientFile("\n".join(kept) + "\n", layer, proxied, asks_login, tuple(left_out))


def _words(line: str) -> list[str]:
    """The words of a line as OpenVPN parses them: quotes and backslashes, and comments by # or ;."""
    if line.startswith(("#", ";")):
        return []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = "#;"
    try:
        return list(lexer)
    except ValueError as error:
        raise GatewayError(f"{line.split(maxsplit=1)[0]}: {error}") from None
