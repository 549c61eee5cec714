"""Implements the client side of SOCKS5 (RFC 1928), with user name and password (RFC 1929)."""

import ipaddress

from gateway.contracts.config_types import HostPort
from gateway.errors import FailureReason
from gateway.proxy.credentials import ProxyCredentials
from gateway.proxy.proxy_connections import PlainProxyConnection
from gateway.proxy.reply_error import ProxyReplyError

_VERSION = 5
_LOGIN_VERSION = 1
_CONNECT = 1
_NO_LOGIN, _USER_AND_PASSWORD, _NO_ACCEPTABLE_METHOD = 0x00, 0x02, 0xFF
_IPV4, _NAME, _IPV6 = 1, 3, 4
_MAX_NAME = 255
_REPLIES = {
    1: (FailureReason.CHANNEL_FAILED, "general SOCKS server failure"),
    2: (FailureReason.CHANNEL_PROHIBITED, "connection not allowed by ruleset"),
    3: (FailureReason.REFUSED, "network unreachable"),
    4: (FailureReason.REFUSED, "host unreachable"),
    5: (FailureReason.REFUSED, "connection refused"),
    6: (FailureReason.TIMEOUT, "TTL expired"),
    7: (FailureReason.CHANNEL_FAILED, "command not supported"),
    8: (FailureReason.CHANNEL_FAILED, "address type not supported"),
}
"""The reason and the message for each reply code that reports a failure (RFC 1928, section 6)."""


async def log_in(stream: PlainProxyConnection, login: ProxyCredentials | None) -> None:
    """Negotiate the authentication method, and log in if the proxy requests it (RFC 1928, section 3; RFC 1929).

    Args:
        stream: A new connection to the proxy.
        login: The user name and password; None to offer only the method without authentication.

    Raises:
        ProxyReplyError: The proxy rejects the login, or its reply is invalid.
        OSError: The connection failed.
    """
    methods = bytes([_NO_LOGIN] if login is None else [_NO_LOGIN, _USER_AND_PASSWORD])
    await stream.write(bytes([_VERSION, len(methods)]) + methods)
    version, method = await stream.read_exactly(2)
    _check_version(version)
    if method == _NO_ACCEPTABLE_METHOD:
        raise ProxyReplyError(FailureReason.AUTH, "the proxy accepts none of the offered authentication methods")
    if method not in methods:
        raise ProxyReplyError(
            FailureReason.AUTH,
            f"the proxy selected an authentication method that the gateway did not offer: {method}",
        )
    if method == _NO_LOGIN or login is None:
        return
    user, password = login.user.encode("ascii"), login.password.encode("ascii")
    await stream.write(bytes([_LOGIN_VERSION, len(user)]) + user + bytes([len(password)]) + password)
    version, status = await stream.read_exactly(2)
    if version != _LOGIN_VERSION:
        raise ProxyReplyError(FailureReason.AUTH, f"the proxy's reply to the login has the invalid version {version}")
    if status != 0:
        raise ProxyReplyError(FailureReason.AUTH, "wrong user name or password")


async def connect(stream: PlainProxyConnection, to: HostPort) -> None:
    """Request a connection to a target (RFC 1928, sections 4 to 6). The proxy resolves host names.

    Args:
        stream: A connection to the proxy, after `log_in`.
        to: The target.

    Raises:
        ProxyReplyError: The proxy refuses the connection, or its reply is invalid.
        UnicodeError: The host name cannot be encoded.
        OSError: The connection failed.
    """
    request = bytes([_VERSION, _CONNECT, 0]) + _encoded(to.host) + to.port.to_bytes(2, "big")
    await stream.write(request)
    version, reply, reserved = await stream.read_exactly(3)
    _check_version(version)
    if reply != 0:
        reason, message = _REPLIES.get(
            reply, (FailureReason.PROTOCOL, f"the proxy sent the unknown reply code {reply}")
        )
        raise ProxyReplyError(reason, message)
    if reserved != 0:
        raise ProxyReplyError(FailureReason.PROTOCOL, f"the reserved byte of the proxy's reply is {reserved}, not 0")
    await _skip_address(stream)


def _encoded(host: str) -> bytes:
    """Encode a host: the address type, then the IP address or the length-prefixed name (RFC 1928, section 5)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        if len(name) > _MAX_NAME:
            raise UnicodeError("the name is too long") from None
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed


async def _skip_address(stream: PlainProxyConnection) -> None:
    """Read and discard the address and the port from which the proxy connects."""
    (kind,) = await stream.read_exactly(1)
    if kind == _NAME:
        (size,) = await stream.read_exactly(1)
    elif kind in (_IPV4, _IPV6):
        size = 4 if kind == _IPV4 else 16
    else:
        raise ProxyReplyError(FailureReason.PROTOCOL, f"the proxy's reply has the unknown address type {kind}")
    await stream.read_exactly(size + 2)


def _check_version(version: int) -> None:
    if version != _VERSION:
        raise ProxyReplyError(
            FailureReason.PROTOCOL, f"the proxy's reply has SOCKS version {version}, not {_VERSION}"
        )
