"""Owns the socket of an accepted client until a relay takes it over, or until the connection is reset."""

from math import inf

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, Stream
from gateway.contracts.relay import Relay
from gateway.forwarding.client_connection_recorder import ConnectionRecord
from gateway.forwarding.client_reset_watcher import ClientResetWatcher
from gateway.forwarding.consumer_usage import ConnectionSlot
from gateway.metric_types import Histogram
from gateway.query_cancel_parser import CancelRequest
from gateway.relay.sockets import reset


class PendingClient:
    """A client that is not connected to a target yet. Owns the socket until `join` returns or `reset` is called.

    Args:
        sock: The accepted socket.
        waited: Seconds that the client has already waited for a target.
    """

    def __init__(self, sock: Stream, waited: float = 0.0) -> None:
        self.sock = sock
        self.waited = waited
        self._watcher: ClientResetWatcher | None = None
        self.record: ConnectionRecord | None = None
        """The client's record for the audit log and the trace; None if both are disabled."""
        self.slot: ConnectionSlot | None = None
        """The client's slot in the quota of its consumer; None until the gateway has counted the client."""
        self.request: CancelRequest | None = None
        """The client's cancel request; None if none was read."""
        self.classified = False
        """Whether the gateway has already checked the client's first bytes for a cancel request."""
        self._owned = True

    @property
    def watcher(self) -> ClientResetWatcher:
        """The watcher that cancels the client's task if the client disconnects. The first access creates it."""
        if self._watcher is None:
            self._watcher = ClientResetWatcher(self.sock)
        return self._watcher

    def enter(self, phase: str) -> None:
        """Begin a phase of the client's trace (see `gateway.contracts.tracing`). Do nothing if traces are off."""
        if self.record is not None and self.record.trace is not None:
            self.record.trace.enter(phase)

    async def join(
        self, link: Link, to: HostPort, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Connect the client to a target; see `gateway.contracts.link.Link.join`. The relay then owns the socket."""
        relay = await link.join(self.sock, to, latency, within, tap)
        self._owned = False
        return relay

    def reset(self) -> None:
        """Release the client's slot, and reset the connection. Do nothing after a successful `join`."""
        if self._owned:
            self._owned = False
            if self._watcher is not None:
                self._watcher.stop()
            reset(self.sock)
        if self.slot is not None:
            self.slot.release_unjoined()
