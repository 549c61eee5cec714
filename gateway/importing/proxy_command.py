"""Recognizes `ProxyCommand` values that connect through a jump host or a proxy."""

import re
from dataclasses import dataclass

_JUMP = re.compile(
    r"ssh\s+(?:-\w\s+)*-W\s+\[?%h\]?:%p\s+(?:-\w\s+)*(\S+)"
    r"|ssh\s+(?:-\w\s+)*(\S+)\s+-W\s+\[?%h\]?:%p"
    r"|ssh\s+(?:-\w\s+)*(\S+)\s+(?:exec\s+)?nc\s+%h\s+%p"
)
_NETCAT = re.compile(r"(?:nc|ncat|netcat)\s+(.*)%h\s+%p")
_CORKSCREW = re.compile(r"corkscrew\s+(\S+)\s+(\d+)\s+%h\s+%p")


@dataclass(frozen=True)
class ProxyCommand:
    """The jump host or the proxy of a `ProxyCommand`.

    Args:
        jump: The jump host; empty if the command uses no jump host.
        url: The URL of the proxy; empty if the command uses no proxy.
    """

    jump: str = ""
    url: str = ""


def jump_or_proxy(command: str) -> ProxyCommand:
    """Return the jump host or the proxy of a `ProxyCommand`. Both fields are empty if the command is not recognized.

    Args:
        command: The command. It can contain the tokens of ssh_config(5), such as `%h`.
    """
    if match := _JUMP.fullmatch(command.strip()):
        return ProxyCommand(jump=match[1] or match[2] or match[3])
    if match := _CORKSCREW.fullmatch(command.strip()):
        return ProxyCommand(url=f"http://{match[1]}:{match[2]}")
    if match := _NETCAT.fullmatch(command.strip()):
        address = re.search(r"(?:-x|--proxy)[ =]([\w.-]+:\d+)(?=\s)", match[1])
        scheme = re.search(r"(?:-X|--proxy-type)[ =](\S+)", match[1])
        known = {"5": "socks5", "socks5": "socks5", "connect": "http", "http": "http"}
        kind = known.get(scheme[1] if scheme else "5")
        if address and kind and "--proxy-auth" not in match[1]:
            return ProxyCommand(url=f"{kind}://{address[1]}")
    return ProxyCommand()
