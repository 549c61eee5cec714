"""Opens the connections of probes, with TLS if configured. Limits the number of bytes that a probe reads."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from gateway.backend_support import tls_options
from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.certificate_validity import der_validity
from gateway.contracts.certificate import ValidityPeriod
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.errors import FailureReason, UnusableTargetError

_CHUNK = 16 * 1024
"""Maximum number of bytes in a line, and in the result of `read_some`."""
_NO_TLS = "the server does not respond to the TLS handshake: check that it uses TLS on this port"
_CLOSE_TIMEOUT = 0.5
"""Seconds to wait for the server's close_notify alert when a TLS connection is closed (RFC 8446, section 6.1)."""


class ProbeConnection:
    """A probe's connection to a server. All methods raise `OSError` if the connection fails.

    Args:
        reader: The stream from the server.
        writer: The stream to the server.
        limit: Maximum number of bytes to read.
        certificate: Validity period of the server's certificate; None without TLS.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limit: int,
        certificate: ValidityPeriod | None,
    ) -> None:
        self.certificate = certificate
        self._reader = reader
        self._writer = writer
        self._limit = limit
        self._left = limit

    async def send(self, data: bytes) -> None:
        """Send data to the server."""
        self._writer.write(data)
        await self._writer.drain()

    async def read_some(self) -> bytes:
        """Return the next bytes; empty at the end of the stream.

        Raises:
            UnusableTargetError: The server has sent more bytes than the limit allows.
        """
        return self._count(await self._reader.read(_CHUNK))

    async def read_exactly(self, count: int) -> bytes:
        """Return the next `count` bytes.

        Raises:
            UnusableTargetError: The server has sent more bytes than the limit allows, or has closed the connection
                too early.
        """
        if count > self._left:
            raise self._too_much()
        try:
            return self._count(await self._reader.readexactly(count))
        except asyncio.IncompleteReadError as error:
            raise _closed() from error

    async def read_line(self) -> bytes:
        r"""Return the next line without its end (`\r\n`).

        Raises:
            UnusableTargetError: The line is too long, or the server closes the connection before the end of the line.
        """
        try:
            return self._count(await self._reader.readuntil(b"\r\n"))[:-2]
        except asyncio.LimitOverrunError as error:
            raise UnusableTargetError(
                FailureReason.PROTOCOL, f"the server sent a line of more than {_CHUNK >> 10} KiB"
            ) from error
        except asyncio.IncompleteReadError as error:
            raise _closed() from error

    def _count(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise self._too_much()
        return data

    def _too_much(self) -> UnusableTargetError:
        return UnusableTargetError(
            FailureReason.PROTOCOL, f"the server sent more than {self._limit >> 10} KiB during one check"
        )


class ProbeDialer:
    """Opens the connections of one backend's probes.

    Args:
        options: The TLS settings.
        limit: Maximum number of bytes that one probe reads.
        key: The configuration key of the TLS settings, for messages.
    """

    def __init__(self, options: HealthCheckTlsOptions, limit: int, key: str = "check.tls") -> None:
        self._options = options
        self._limit = limit
        self._key = key
        self._file_thread = ThreadPoolExecutor(1, thread_name_prefix="check-files")
        """Executor with one thread, which reads the CA file. If the file system hangs, only this thread blocks."""

    @contextlib.asynccontextmanager
    async def open(
        self, link: SocketConnector, target: HostPort, phases: PhaseTimer
    ) -> AsyncIterator[ProbeConnection]:
        """Open a connection. At the end of the `with` block, close it.

        Args:
            link: The link through which to connect to the target.
            target: The target.
            phases: Receives the duration of each phase of the connection attempt, including `tls`.

        Raises:
            TargetPathError: The target cannot be reached, or the TLS handshake fails.
        """
        context = None
        if self._options.mode != "off":
            loop = asyncio.get_running_loop()
            context = await loop.run_in_executor(self._file_thread, tls_options.context, self._options, self._key)
        sock = await link.socket(target, phases)
        try:
            if context is None:
                reader, writer = await asyncio.open_connection(sock=sock, limit=_CHUNK)
            else:
                name = self._options.server_name or target.host
                hint, phases.timeout_hint = phases.timeout_hint, _NO_TLS
                with phases("tls"):
                    reader, writer = await asyncio.open_connection(
                        sock=sock, limit=_CHUNK, ssl=context, server_hostname=name
                    )
                phases.timeout_hint = hint
        except ssl.SSLError as error:
            sock.close()
            raise UnusableTargetError(FailureReason.TLS, tls_options.describe_tls_error(error, self._key)) from error
        except BaseException:
            sock.close()
            raise
        try:
            yield ProbeConnection(reader, writer, self._limit, _certificate(writer))
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await writer.wait_closed()
        except ssl.SSLError as error:
            raise UnusableTargetError(FailureReason.TLS, tls_options.describe_tls_error(error, self._key)) from error
        finally:
            writer.transport.abort()


def _certificate(writer: asyncio.StreamWriter) -> ValidityPeriod | None:
    tls_object = writer.get_extra_info("ssl_object")
    return der_validity(tls_object.getpeercert(binary_form=True) or b"") if tls_object is not None else None


def _closed() -> UnusableTargetError:
    return UnusableTargetError(FailureReason.RESET, "the server closed the connection")
