"""Who may ask the ops server what: hosts, tokens and client certificates."""

import hmac
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from gateway.errors import GatewayError, TunnelError
from gateway.secret_files import read_private_key

_SHORTEST = 16
"""Characters of a token."""
_BEARER = "bearer "


class Role(IntEnum):
    """What a request may see; each includes those before it."""

    PROBES = 0
    METRICS = 1
    EVERYTHING = 2


@dataclass(frozen=True)
class Tokens:
    """The tokens of RFC 6750 that are accepted, and what each opens.

    Args:
        everything: Opens every path.
        metrics: Opens `/metrics` only.
    """

    everything: str | None = field(default=None, repr=False)
    metrics: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Rules:
    """What a listener asks of its clients.

    Args:
        hosts: Host headers that are answered beside addresses and localhost, in lower case.
        authenticate: Whether more than probes needs a token or a client certificate.
    """

    hosts: frozenset[str]
    authenticate: bool


def hosts_of(names: Iterable[str]) -> frozenset[str]:
    """Names as `Rules.hosts` has them."""
    return frozenset(name.lower().rstrip(".") for name in names)


def knows_host(rules: Rules, headers: list[str]) -> bool:
    """Whether a request with these Host headers is answered; one without any is not a browser's (RFC 9112, 3.2)."""
    if not headers:
        return True
    if len(headers) > 1:
        return False
    host = _without_port(headers[0].strip()).lower().rstrip(".")
    return host == "localhost" or host in rules.hosts or _is_address(host)


def role(rules: Rules, tokens: Tokens, authorization: str | None, *, certified: bool) -> Role:
    """What a client may see.

    Args:
        rules: Of the listener.
        tokens: Those that are accepted now.
        authorization: Its Authorization header.
        certified: Whether it has shown a certificate that TLS has verified.
    """
    if certified or not rules.authenticate:
        return Role.EVERYTHING
    given = authorization or ""
    bearer = given[len(_BEARER) :].strip() if given.lower().startswith(_BEARER) else ""
    found = Role.PROBES
    for token, opens in ((tokens.metrics, Role.METRICS), (tokens.everything, Role.EVERYTHING)):
        if token is not None and hmac.compare_digest(token.encode(), bearer.encode(errors="surrogateescape")):
            found = opens
    return found


def read_token(path: Path | None, key: str) -> str | None:
    """The token in a file, which only its owner (and, of another owner, its group) may read.

    Raises:
        GatewayError: The file cannot be read, others can read it too, or it holds no usable token.
    """
    if path is None:
        return None
    try:
        token = read_private_key(path, "token").decode("ascii", "replace").strip()
    except TunnelError as error:
        raise GatewayError(f"{key}: {error}") from error
    if len(token) < _SHORTEST or not all("!" <= each <= "~" for each in token):
        raise GatewayError(
            f"{key}: {path}: must hold one token of {_SHORTEST} or more visible ASCII characters:"
            " make one with `openssl rand -hex 32`"
        )
    return token


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
