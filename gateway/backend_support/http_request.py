"""Sends the HTTP request of a probe, and reads the response (RFC 9110, RFC 9112)."""

import base64
import http.client
from typing import NamedTuple

from gateway.backend_support.http_response_end import BufferedResponseSocket, ResponseEndDetector
from gateway.backend_support.probe_connection import ProbeConnection
from gateway.errors import FailureReason, UnusableTargetError

MAX_RESPONSE = 64 * 1024
"""Maximum size of a response in bytes, including the header."""


class HttpResponse(NamedTuple):
    """The response to an HTTP request.

    Args:
        status: The status code.
        headers: The header fields.
        body: The decoded body.
    """

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def basic_login(user: str, password: str) -> str:
    """Return the value of an Authorization header for HTTP Basic authentication (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def get(stream: ProbeConnection, path: str, host: str, authorization: str | None = None) -> HttpResponse:
    """Send a GET request, and read the response.

    If the header declares a length or the chunked transfer coding, stop reading at the end of the body. Do not wait
    until the server closes the connection, because a tunnel can delay the end of the stream.

    Args:
        stream: A connection on which nothing was sent.
        path: The path and the query.
        host: The value of the Host header.
        authorization: The value of the Authorization header; None to send none.

    Raises:
        UnusableTargetError: The response is not valid HTTP, or too long.
        OSError: The connection failed.
    """
    fields = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: gateway-check",
        "Accept: */*",
        "Connection: close",
    ]
    if authorization is not None:
        fields.append(f"Authorization: {authorization}")
    await stream.send("\r\n".join([*fields, "", ""]).encode())
    received = bytearray()
    end = ResponseEndDetector()
    while piece := await stream.read_some():
        received += piece
        if end.is_reached(received):
            break
    return _parse(bytes(received))


def _parse(data: bytes) -> HttpResponse:
    try:
        response = http.client.HTTPResponse(BufferedResponseSocket(data))  # type: ignore[arg-type] # needs only `makefile`
        response.begin()
        return HttpResponse(response.status, response.headers, response.read())
    except (http.client.HTTPException, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UnusableTargetError(FailureReason.PROTOCOL, f"not a valid HTTP response ({what})") from error
