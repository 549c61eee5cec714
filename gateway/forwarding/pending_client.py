"""A client between accept and its relay: the only owner of the client's socket in that time."""

from math import inf

from gateway.cancel_protocol import CancelRequest
from gateway.contracts.link import Link, Relay, Stream
from gateway.contracts.values import Endpoint
from gateway.forwarding.connection_audit import ConnectionRecord
from gateway.forwarding.disconnect_watcher import DisconnectWatcher
from gateway.forwarding.usage import ConnectionSlot
from gateway.measure import Histogram, Tap
from gateway.relay.sockets import reset


class PendingClient:
    """A client that no relay carries yet. Owns its socket until `join` returns, or until `reset`.

    Args:
        sock: The accepted socket.
    """

    def __init__(self, sock: Stream) -> None:
        self.sock = sock
        self.watcher = DisconnectWatcher(sock)
        self.record: ConnectionRecord | None = None
        """Its record for the audit log; None if the audit log is disabled, or the client's end was recorded."""
        self.slot: ConnectionSlot | None = None
        """The slot of its consumer; None if consumers are not counted."""
        self.request: CancelRequest | None = None
        """Its cancel request, if it was read."""
        self.classified = False
        """Whether its first bytes need not be read again."""
        self._owned = True

    async def join(
        self, link: Link, to: Endpoint, latency: Histogram, within: float = inf, tap: Tap | None = None
    ) -> Relay:
        """Join the client to a target; see `gateway.contracts.link.Link.join`. The relay then owns the socket."""
        relay = await link.join(self.sock, to, latency, within, tap)
        self._owned = False
        return relay

    def reset(self) -> None:
        """Release what the client holds, and reset its connection. Do nothing if a relay owns the socket."""
        if self._owned:
            self._owned = False
            self.watcher.stop()
            reset(self.sock)
        if self.slot is not None:
            self.slot.release_unjoined()
