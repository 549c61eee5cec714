"""Holds the counters and the state of a relay between a client and an asyncssh channel. Does no I/O."""

import asyncio
import socket
import time

from gateway.connection_tap import Tap, waiting_since
from gateway.contracts.states import CloseReason
from gateway.metric_types import Histogram
from gateway.relay.fd_registration import FdRegistration
from gateway.relay.send_buffer import SendBuffer
from gateway.ssh.flow_control import INITIAL_BUDGET, ReceiveWindow


class AsyncsshRelayState:
    """The counters and the state of an `AsyncsshRelay`; base class of `AsyncsshRelayClientSide`.

    Args:
        latency: The histogram for response latency.
        tap: Observes the relayed bytes until `tap.finished` is true; None if the relay has no tap.
    """

    def __init__(self, latency: Histogram, tap: Tap | None = None) -> None:
        self.ended: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()
        self.last_active = time.monotonic()
        self.responses = 0
        self.to_backend = self.from_backend = 0
        self.window = ReceiveWindow(INITIAL_BUDGET)
        """The receive window of the channel. When the relay ends, it calls the `close` method of the window."""
        self._latency = latency
        self._tap = tap
        self._request_time = 0.0
        self._client: socket.socket | None = None
        self._watch: FdRegistration | None = None
        self._send_buffer: SendBuffer | None = None
        """Data that the client's socket has not accepted yet. None until the relay needs a buffer.

        Most relays never need a buffer.
        """
        self._client_eof = False
        """Whether the client has ended its stream."""
        self._client_unwritable = False
        """Whether sending to the client has failed, so that the relay sends no more data to the client."""
        self._client_was_reset = False
        """Whether the client's connection was reset, so that the client's stream ended without EOF."""
        self._backend_eof = False
        """Whether the backend has ended its stream, by CHANNEL_EOF or CHANNEL_CLOSE."""
        self._channel_closed = False
        """Whether the peer has sent CHANNEL_CLOSE."""
        self._link_lost = False
        """Whether the SSH connection is lost."""
        self._channel_unwritable = False
        """Whether the peer has closed the channel or the SSH connection is lost, so that nothing can be sent."""
        self._client_data_lost = False
        """Whether some of the client's data did not reach the backend."""
        self._eof_delivered = False
        """Whether the relay has forwarded the end of the backend's stream to the client."""

    @property
    def awaiting_response(self) -> bool:
        """See `gateway.contracts.relay.Relay`."""
        return self._request_time > 0

    @property
    def waiting_since(self) -> float | None:
        """See `gateway.contracts.relay.Relay`."""
        return waiting_since(self._tap, self._request_time)

    @property
    def buffered(self) -> int:
        """See `gateway.ssh.channel_interfaces.SshChannel`."""
        return len(self._send_buffer) if self._send_buffer is not None else 0

    @property
    def cut_short(self) -> bool:
        """See `gateway.ssh.channel_interfaces.SshChannel`."""
        return self.ended.done() and not self._eof_delivered
