"""Decides whether the ops server accepts a request, based on its Host header, token and client certificate."""

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from gateway.errors import GatewayError, TunnelError
from gateway.relay.resolver import is_address
from gateway.secret_files import read_private_key

_MIN_TOKEN_LENGTH = 16
_BEARER = "bearer "


class AccessRole(IntEnum):
    """What an HTTP client may read. Each role includes the permissions of all roles with a lower value."""

    PROBES = 0
    METRICS = 1
    EVERYTHING = 2


@dataclass(frozen=True)
class BearerTokens:
    """The bearer tokens (RFC 6750) that the ops server accepts. `AccessRole.PROBES` needs no token.

    Args:
        everything: The token that grants `AccessRole.EVERYTHING`; None if there is no such token.
        metrics: The token that grants `AccessRole.METRICS`; None if there is no such token.
    """

    everything: str | None = field(default=None, repr=False)
    metrics: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class AccessRules:
    """The rules of one listener of the ops server.

    Args:
        hosts: Accepted Host headers in addition to IP addresses and localhost, as `normalize_hosts` returns them.
        authenticate: Whether a client needs a token or a client certificate to get more than `AccessRole.PROBES`.
    """

    hosts: frozenset[str]
    authenticate: bool


def normalize_hosts(names: Iterable[str]) -> frozenset[str]:
    """Return host names in lower case and without a trailing dot."""
    return frozenset(name.lower().rstrip(".") for name in names)


def is_accepted_host(rules: AccessRules, headers: list[str]) -> bool:
    """Return whether the Host headers of a request are accepted. The check prevents DNS rebinding.

    Browsers always send one Host header. A request without a Host header is accepted, because it does not come from a
    browser (RFC 9112, section 3.2).

    Args:
        rules: The rules of the listener.
        headers: The values of all Host headers.
    """
    if not headers:
        return True
    if len(headers) > 1:
        return False
    host = _without_port(headers[0].strip()).lower().rstrip(".")
    return host == "localhost" or host in rules.hosts or is_address(host)


def granted_role(
    rules: AccessRules, tokens: BearerTokens, authorization: str | None, *, certified: bool
) -> AccessRole:
    """Return the role that the certificate or token of a client grants.

    If the listener does not require authentication, return `AccessRole.EVERYTHING`.

    Args:
        rules: The rules of the listener.
        tokens: The accepted tokens.
        authorization: The Authorization header of the request; None if the request has none.
        certified: Whether the client has a verified TLS certificate.
    """
    if certified or not rules.authenticate:
        return AccessRole.EVERYTHING
    header = authorization or ""
    bearer = header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else ""
    granted = AccessRole.PROBES
    for token, role in ((tokens.metrics, AccessRole.METRICS), (tokens.everything, AccessRole.EVERYTHING)):
        if token is not None and hmac.compare_digest(token.encode(), bearer.encode(errors="surrogateescape")):
            granted = role
    return granted


def read_token(path: Path | None, key: str) -> str | None:
    """Read and return the token in a file; return None if `path` is None.

    Refuse a file to which users other than its owner have access, unless a container runtime has mounted the file
    (see `gateway.secret_files.check_owner_only`). If the file does not belong to the user of this process, the
    file's group may also have access.

    Args:
        path: The file.
        key: The configuration key of the file, for error messages.

    Raises:
        GatewayError: The file cannot be read, is readable by other users, or does not contain a valid token.
    """
    if path is None:
        return None
    try:
        token = read_private_key(path, "token").decode("ascii", "replace").strip()
    except TunnelError as error:
        raise GatewayError(f"{key}: {error}") from error
    if len(token) < _MIN_TOKEN_LENGTH or not all("!" <= each <= "~" for each in token):
        raise GatewayError(
            f"{key}: {path}: must contain one token of at least {_MIN_TOKEN_LENGTH} visible ASCII characters:"
            " create one with `openssl rand -hex 32`"
        )
    return token


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
