"""Fetches the certificates of PostgreSQL servers, because libpq does not return them."""

import asyncio
import contextlib
import ssl
import struct
import time

from gateway.certificate_validity import der_validity
from gateway.contracts.certificate import ValidityPeriod
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.errors import TargetPathError

_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_ACCEPTED = b"S"
_TIMEOUT = 1.0
"""Time limit for fetching a certificate and closing the connection, in seconds. The limit is short, because the fetch
delays the check."""
_INTERVAL = 600.0
"""Minimum seconds between two attempts to fetch the certificate of one server."""
_INTERVAL_BEFORE_EXPIRY = 60.0
"""Minimum seconds between two attempts to fetch a certificate that expires soon."""


class PostgresCertificateFetcher:
    """Fetches the certificates of one backend's servers, and caches the validity periods of the certificates.

    Each fetch uses a separate connection. The fetcher closes the connection after the TLS handshake, so that the
    server does not count or log a session (PostgreSQL manual, chapter "Frontend/Backend Protocol", "SSL Session
    Encryption"). The fetcher does not verify the certificates.
    """

    def __init__(self) -> None:
        self._cache: dict[HostPort, tuple[float, ValidityPeriod | None]] = {}
        """Maps each server to the time of the last fetch attempt, in seconds since the epoch, and to the validity
        period of the certificate."""

    async def validity(self, link: SocketConnector, target: HostPort) -> ValidityPeriod | None:
        """Return the validity period of a server's certificate.

        Args:
            link: The link through which to connect to the server.
            target: The server.

        Returns:
            The validity period, possibly from the cache; None if the server has no certificate, or if no attempt to
            fetch the certificate has succeeded.
        """
        now = time.time()
        fetched_at, validity = self._cache.get(target, (0.0, None))
        expires_soon = validity is not None and validity.expires_soon(now)
        if abs(now - fetched_at) < (_INTERVAL_BEFORE_EXPIRY if expires_soon else _INTERVAL):
            return validity
        try:
            # Ignore errors, because the check does not need the certificate.
            with contextlib.suppress(TargetPathError, OSError, TimeoutError):
                validity = await _fetch(link, target)
        finally:
            # Also after a cancellation: otherwise, the fetch could delay each check until its timeout.
            self._cache[target] = (now, validity)
        return validity


async def _fetch(link: SocketConnector, target: HostPort) -> ValidityPeriod | None:
    """Perform a TLS handshake, and return the validity period of the certificate; None if the server refuses TLS.

    Raises:
        TargetPathError: The connection cannot be opened.
        OSError: The connection failed.
        TimeoutError: The server has not sent its certificate within `_TIMEOUT`.
    """
    loop = asyncio.get_running_loop()
    # Do not verify the server, because this function sends no secret to it.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    deadline = loop.time() + _TIMEOUT
    async with asyncio.timeout_at(deadline):
        sock = await link.socket(target)
        try:
            await loop.sock_sendall(sock, _SSL_REQUEST)
            if await loop.sock_recv(sock, 1) != _ACCEPTED:
                sock.close()
                return None
            _, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=target.host)
        except BaseException:
            sock.close()
            raise
    try:
        validity = der_validity(writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b"")
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout_at(deadline):
                await writer.wait_closed()
    finally:
        writer.transport.abort()
    return validity
