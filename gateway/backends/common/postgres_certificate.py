"""The certificate that a PostgreSQL server shows, which libpq keeps to itself."""

import asyncio
import contextlib
import ssl
import struct
import time

from gateway.certificates import der_validity
from gateway.contracts import Endpoint, Link, Validity
from gateway.errors import ReachError

_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_WILLING = b"S"
_WITHIN = 1.0
"""Seconds; a check waits for it."""
_EVERY = 600.0
_SOON = 60.0
"""Seconds between two looks, and where the certificate is to be renewed."""


class ServerCertificates:
    """The certificates of one backend's servers; each is asked for once in a while, on a connection of its own.

    PostgreSQL manual, "SSL Session Encryption" in the chapter "Frontend/Backend Protocol". The connection ends before
    a session begins, which the server neither counts nor logs. Whether a certificate can be trusted is not judged.
    """

    def __init__(self) -> None:
        self._seen: dict[Endpoint, tuple[float, Validity | None]] = {}
        """When it was asked for, in seconds since the epoch, and from when to when it is valid."""

    async def validity(self, link: Link, target: Endpoint) -> Validity | None:
        """From when to when the certificate of `target` is valid; None: it shows none.

        Args:
            link: How the server is reached.
            target: The server.
        """
        now = time.time()
        asked, validity = self._seen.get(target, (0.0, None))
        if abs(now - asked) < (_SOON if validity is not None and validity.expires_soon(now) else _EVERY):
            return validity
        with contextlib.suppress(ReachError, OSError, TimeoutError):  # the check itself tells what is wrong
            async with asyncio.timeout(_WITHIN):
                validity = await _shown(link, target)
        self._seen[target] = (now, validity)
        return validity


async def _shown(link: Link, target: Endpoint) -> Validity | None:
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without authorities: nothing is verified
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = await link.socket(target)
    try:
        await loop.sock_sendall(sock, _SSL_REQUEST)
        if await loop.sock_recv(sock, 1) != _WILLING:
            sock.close()
            return None
        _, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=target.host)
    except BaseException:
        sock.close()
        raise
    try:
        validity = der_validity(writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b"")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    except BaseException:
        writer.transport.abort()
        raise
    return validity
