"""Implements the client side of HTTP CONNECT (RFC 9110, section 9.3.6), with Basic authentication (RFC 7617)."""

import base64
import ipaddress
import re

from gateway.contracts.config_types import HostPort
from gateway.errors import FailureReason
from gateway.proxy.credentials import ProxyCredentials
from gateway.proxy.proxy_connections import PlainProxyConnection
from gateway.proxy.reply_error import ProxyReplyError

_REASONS = {
    401: FailureReason.AUTH,
    403: FailureReason.CHANNEL_PROHIBITED,
    405: FailureReason.CHANNEL_PROHIBITED,
    407: FailureReason.AUTH,
    504: FailureReason.TIMEOUT,
}
_STATUS_LINE = re.compile(r"HTTP/\S+ +(?P<status>(?P<code>[1-9][0-9]{2})(?: .*)?)")
_END_OF_HEADERS = b"\r\n\r\n"
_MAX_HEADERS = 16 * 1024
"""The maximum size of all responses together, in bytes. The headers are read one byte at a time, and a read of
available data does not yield to the event loop."""


async def connect(stream: PlainProxyConnection, to: HostPort, login: ProxyCredentials | None) -> None:
    """Request a connection to a target. If the target is a host name, the proxy resolves it.

    Args:
        stream: A new connection to the proxy.
        to: The target.
        login: The user name and password; None to send no credentials.

    Raises:
        ProxyReplyError: The proxy refuses the connection, or its response is invalid.
        OSError: The connection failed.
    """
    await stream.write(_request(to, login))
    code, status, size = 100, "", 0
    while code // 100 == 1:  # interim responses come before the final one (RFC 9110, section 15.2)
        headers = await _read_headers(stream, _MAX_HEADERS - size)
        size += len(headers)
        line = headers.split(b"\r\n", 1)[0].decode("utf-8", "replace")
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise ProxyReplyError(FailureReason.PROTOCOL, f"the proxy's response has an invalid status line: {line}")
        code, status = int(match["code"]), match["status"].strip()
    if code // 100 != 2:
        raise ProxyReplyError(_REASONS.get(code, FailureReason.CHANNEL_FAILED), status)


def _request(to: HostPort, login: ProxyCredentials | None) -> bytes:
    host = f"[{to.host}]" if _is_ipv6(to.host) else to.host
    lines = [f"CONNECT {host}:{to.port} HTTP/1.1", f"Host: {host}:{to.port}", "User-Agent: gateway"]
    if login is not None:
        token = base64.b64encode(f"{login.user}:{login.password}".encode("ascii")).decode("ascii")
        lines.append(f"Proxy-Authorization: Basic {token}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


async def _read_headers(stream: PlainProxyConnection, max_size: int) -> bytes:
    """Read the status line and the headers, but no byte after the headers.

    If the target sends data first (MySQL, SSH), the target's first bytes can directly follow the headers. These bytes
    must stay unread, because they are for the client.
    """
    headers = bytearray()
    while len(headers) < max_size:
        headers += await stream.read_exactly(1)  # reading single bytes is fast enough: a response has about 50 bytes
        if headers.endswith(_END_OF_HEADERS):
            return bytes(headers)
    raise ProxyReplyError(
        FailureReason.PROTOCOL, f"the proxy's response has headers longer than {_MAX_HEADERS} bytes"
    )
