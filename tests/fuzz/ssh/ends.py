"""Represents a channel: the client's socket, and the bytes that the SSH server sends to the client."""

import asyncio
import contextlib
import random
import socket
from math import inf

from gateway.contracts.config_types import HostPort
from gateway.contracts.states import CloseReason
from gateway.errors import TargetPathError
from gateway.metric_types import Histogram
from gateway.relay.sockets import reset, tune
from gateway.ssh.channel_interfaces import SshChannel
from gateway.ssh.pooled_connection import PooledConnection
from tests.fuzz.ssh.peer import Line
from tests.fuzz.ssh.seal import OracleError

_PERIOD = 1 << 20
_PATTERN = random.Random(0).randbytes(_PERIOD) * 3
_STRIDE = 77_777
_SMALL = 4096
_TARGET = HostPort("db", 3306)


def pattern(stream: int, at: int, size: int) -> bytes:
    """Return `size` bytes of the test data of a stream, from offset `at`. Different streams have different data."""
    start = (stream * _STRIDE + at) % _PERIOD
    return _PATTERN[start : start + size]


def _pair(*, unix: bool) -> tuple[socket.socket, socket.socket]:
    """Return the client's socket and the gateway's socket of a new connection with small buffers."""
    if unix:
        client, ours = socket.socketpair()
        for sock in (client, ours):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)
    else:
        with socket.socket() as listener, contextlib.ExitStack() as stack:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
            client.connect(listener.getsockname())
            ours = listener.accept()[0]
            stack.pop_all()
    client.setblocking(False)
    tune(ours)
    return client, ours


class End:
    """A channel of one SSH connection, with its client.

    Args:
        stream: Number of the test data that the SSH server sends to the client; see `pattern`. The client sends the
            test data with the number `stream + 1`.
        session: The SSH connection that opens the channel.
        unix: Whether the client uses a unix socket pair rather than TCP.
    """

    def __init__(self, stream: int, session: PooledConnection, *, unix: bool) -> None:
        self.stream = stream
        self.unix = unix
        self.client, self._ours = _pair(unix=unix)
        self.line: Line | None = None
        self.relay: SshChannel | None = None
        self.failed: BaseException | None = None
        self.joining = asyncio.ensure_future(self._join(session))
        self.fed = self.complete = 0
        """`fed` is the number of bytes that the SSH server has sent. `complete` is the value of `fed` when the server
        sent its first CHANNEL_EOF or CHANNEL_CLOSE."""
        self.got = self.sent = 0
        """`got` is the number of bytes that the client has received. `sent` is the number that it has sent."""
        self.end = ""
        """How the stream to the client ended: `clean` or `reset`. Before the end, the value is empty."""
        self.shut = self.gone = self.hard = False
        """Whether the client has half-closed (`shut`), closed (`gone`), or reset (`hard`) its connection."""
        self._checked = 0
        self._refused = False

    async def _join(self, session: PooledConnection) -> None:
        try:
            self.relay = await session.join(self._ours, _TARGET, Histogram(), inf)
        except (TargetPathError, asyncio.CancelledError) as error:
            self.failed = error
            self._ours.close()
            if isinstance(error, asyncio.CancelledError):
                raise

    @property
    def ending(self) -> CloseReason | None:
        """The reason why the relay ended; None if the relay has not ended."""
        return self.relay.ended.result() if self.relay is not None and self.relay.ended.done() else None

    def read(self, most: int) -> bool:
        """Receive on the client's socket. Return whether data, the end of the stream, or a reset arrived.

        Raises:
            OracleError: The client received bytes that the SSH server did not send.
        """
        if self.gone or self.end:
            return False
        try:
            data = self.client.recv(most)
        except BlockingIOError:
            return False
        except OSError:
            self.end = "reset"
            return True
        if not data:
            # A unix socket can report a reset as the end of the stream. TCP reports a reset only once, and a previous
            # call of `send` can have received this report.
            hidden = self.unix and self.ending not in (None, CloseReason.FINISHED)
            self.end = "reset" if hidden or self._refused else "clean"
            return True
        if data != pattern(self.stream, self.got, len(data)):
            raise OracleError(f"the client received wrong bytes at offset {self.got}")
        self.got += len(data)
        return True

    def send(self, size: int) -> None:
        """Send at most `size` bytes on the client's socket, without waiting until the socket accepts more."""
        if self.gone or self.shut:
            return
        try:
            self.sent += self.client.send(pattern(self.stream + 1, self.sent, size))
        except BlockingIOError:
            return
        except OSError:
            self._refused = True

    def half_close(self) -> None:
        if not (self.gone or self.shut):
            self.shut = True
            with contextlib.suppress(OSError):
                self.client.shutdown(socket.SHUT_WR)

    def leave(self, *, hard: bool) -> None:
        """Close the client's socket. With `hard`, reset the connection."""
        if not self.gone:
            self.gone, self.hard = True, hard and not self.unix
            if hard:
                reset(self.client)
            else:
                self.client.close()

    def check_upload(self) -> None:
        """Check that the bytes that the SSH server has received so far are the first bytes that the client sent.

        Raises:
            OracleError: The SSH server received bytes that the client did not send.
        """
        if self.line is not None and self._checked < (size := len(self.line.got)):
            new = self.line.got[self._checked :]
            if size > self.sent or new != pattern(self.stream + 1, self._checked, len(new)):
                raise OracleError(f"the peer received {size} bytes that are not the client's")
            self._checked = size

    def close(self) -> None:
        """Close the client's socket. If no relay uses the gateway's socket, close that socket, too."""
        self.joining.cancel()
        self.client.close()
        if self.relay is None:
            self._ours.close()
