"""The client's side of a channel's relay: what it is sent, how it ends, and in which order.

The ends of the two directions are independent (RFC 4254, 5.3): a client that has said everything still gets its
response, and a backend that takes no more is no reason to cut off what it said before. A close of the channel ends
what the backend says, with or without an EOF before it.
"""

import asyncio
import logging
import socket
import time

from gateway.contracts import CloseReason
from gateway.measure import Histogram, Tap, waiting_since
from gateway.relay.fd_registration import FdRegistration
from gateway.relay.linger import lingering_closer
from gateway.relay.poller import HANGUP, READ, WRITE
from gateway.relay.send_buffer import SendBuffer
from gateway.relay.sockets import close_gracefully, reset, shutdown_write, was_reset
from gateway.ssh.windows import Window

log = logging.getLogger(__name__)


class ClientSide:
    """A client joined to one channel; see `gateway.contracts.Relay`. Subclasses own the channel.

    Args:
        latency: Where to count response latency.
        window: How much the peer may send ahead; closed with the relay.
        tap: Sees the bytes, until it is finished.
    """

    __slots__ = (
        "_asked",
        "_channel_done",
        "_client",
        "_client_broken",
        "_client_deaf",
        "_client_done",
        "_got_close",
        "_got_eof",
        "_held",
        "_latency",
        "_link_lost",
        "_shut",
        "_tap",
        "_upload_lost",
        "_watch",
        "ended",
        "from_backend",
        "last_active",
        "responses",
        "to_backend",
        "window",
    )  # fmt: skip

    def __init__(self, latency: Histogram, window: Window, tap: Tap | None = None) -> None:
        self.ended: asyncio.Future[CloseReason] = asyncio.get_running_loop().create_future()
        self.last_active = time.monotonic()
        self.responses = 0
        self.to_backend = self.from_backend = 0
        self.window = window
        self._latency = latency
        self._tap = tap
        self._asked = 0.0
        self._client: socket.socket | None = None
        self._watch: FdRegistration | None = None
        self._held: SendBuffer | None = None
        """What the client has not taken yet; most clients never need one."""
        self._client_done = False
        """The client has said everything."""
        self._client_deaf = False
        """The client takes nothing more."""
        self._client_broken = False
        """The client was reset: its stream has no proper end."""
        self._got_eof = False
        """The backend has said everything."""
        self._got_close = False
        """The backend has said everything, and takes nothing more."""
        self._link_lost = False
        """The SSH connection under the channel is lost."""
        self._channel_done = False
        """Nothing can be sent on the channel any more."""
        self._upload_lost = False
        """Something that the client said did not reach the backend."""
        self._shut = False
        """The client was sent the end of the backend's stream."""

    @property
    def awaiting_response(self) -> bool:
        """See `gateway.contracts.Relay`."""
        return self._asked > 0

    @property
    def waiting_since(self) -> float | None:
        """See `gateway.contracts.Relay`."""
        return waiting_since(self._tap, self._asked)

    @property
    def held(self) -> int:
        """Bytes that the client has not taken yet."""
        return len(self._held) if self._held is not None else 0

    @property
    def cut_short(self) -> bool:
        """Whether the relay has ended before the client was sent the backend's end."""
        return self.ended.done() and not self._shut

    def attach(self, client: socket.socket) -> None:
        """Take over `client` and start: the channel is open."""
        self._client = client
        self._watch = FdRegistration(client, self._on_client, READ)
        if self._link_lost and not self._got_eof:
            self._finish(CloseReason.LINK_LOST)
            return
        if self._held:
            self._drain()
        self._settle()

    def abort(self, ending: CloseReason) -> None:
        """Reset the client and close the channel now.

        Where only the link is lost and the response is complete, the client gets all of it before its reset.
        """
        if self.ended.done():
            return
        if ending is CloseReason.LINK_LOST and self._got_eof:
            self._lose_link()
            return
        self._send_close()
        self._finish(ending)

    # What a subclass does with its channel.

    def _read(self) -> None:
        """Take one turn's data from the client, and send it."""
        raise NotImplementedError

    def _may_read(self) -> bool:
        """Whether the channel takes data now."""
        raise NotImplementedError

    def _send_eof(self) -> None:
        """Tell the peer that the client has said everything."""
        raise NotImplementedError

    def _send_close(self) -> None:
        """Close the channel; nothing happens where it is closed already."""
        raise NotImplementedError

    def _leave_queue(self) -> None:
        """Leave the queue for the SSH socket."""
        raise NotImplementedError

    def _took(self, count: int, now: float) -> None:
        """Note that the client took `count` bytes, or does not want them, at the monotonic time `now`."""
        raise NotImplementedError

    # From the channel.

    def _peer_ended(self, *, close: bool) -> None:
        """The backend has said everything; with `close`, it takes nothing more either."""
        self._got_eof = True
        if close:
            self._got_close = self._channel_done = True
            self._leave_queue()
        self._settle()

    def _lose_link(self) -> None:
        """The SSH connection is lost: the client gets a reset, after the response where that is complete."""
        if self._got_close:
            return  # the connection is not needed any more
        self._link_lost = self._channel_done = True
        self._leave_queue()
        if self._client is None:
            if not self._held:  # perhaps it never gets one
                self.window.close()
            return
        if self._got_eof and not self._client_deaf:
            self._settle()
        else:
            self._finish(CloseReason.LINK_LOST)

    # From the client.

    def resume_sending(self) -> None:
        """Send one turn's data: the SSH connection takes some again."""
        if not self.ended.done():
            self._read()
            self._update()

    def _on_client(self, event: int) -> None:
        watch = self._watch
        if watch is None:
            return
        try:
            if event == watch.mask == READ:
                self._read()  # the usual case; whatever changes what to wait for says so itself
            else:
                self._turn(event, watch)
        except Exception:
            log.exception("a relay failed; its client is reset")
            self.abort(CloseReason.ABORTED)

    def _turn(self, event: int, watch: FdRegistration) -> None:
        mask = watch.mask
        if not mask & (READ | WRITE):
            if watch.is_failure(event):
                self._client_failed()
            return
        if event & (WRITE | HANGUP) and self._held:
            self._drain()
        if event & ~WRITE and mask & READ and not self.ended.done():
            self._read()
        self._update()

    def _client_ended(self) -> None:
        """The client has said everything: let the peer know."""
        if self._client_broken:
            self._client_reset()
            return
        self._client_done = True
        self._send_eof()
        if self._client_deaf:
            self._send_close()
            self._finish(CloseReason.CLIENT_RESET)
        else:
            self._settle()

    def _client_reset(self) -> None:
        """The client's stream broke off."""
        self._client_deaf = self._client_broken = True
        self.abort(CloseReason.CLIENT_RESET)

    def _client_failed(self, error: OSError | None = None) -> None:
        """Give the client nothing more.

        One that ended its stream before may have closed in good order: what it sent is still delivered. One that was
        reset is let go, after what can be sent at once: SSH cannot pass a reset on (RFC 4254, 5.3).

        Args:
            error: What the socket failed with, where that was seen: the kernel reports an error only once.
        """
        client = self._client
        if client is None or self.ended.done():
            return
        self._client_deaf = True
        self._client_broken |= was_reset(client, error)
        if self._held:
            held, self._held = self._held, None
            self._took(len(held), time.monotonic())
        if self._client_done or self._channel_done:
            self._send_close()
            self._finish(CloseReason.CLIENT_RESET)
        elif self._client_broken:
            sent = -1
            while sent != self.to_backend and not self.ended.done():
                sent = self.to_backend
                self._read()
            self.abort(CloseReason.CLIENT_RESET)
        else:
            self._update()

    def _drain(self) -> None:
        client, held = self._client, self._held
        if client is None or held is None:
            return
        try:
            sent = held.send_to(client)
        except OSError as error:
            self._client_failed(error)
            return
        self.last_active = now = time.monotonic()
        self._took(sent, now)
        self.from_backend += sent
        if not held:
            self._settle()

    def _hold(self, data: bytes | memoryview) -> None:
        """Keep what the client does not take now; one that takes nothing more needs none of it."""
        if self.ended.done() or self._client_deaf:
            return
        if self._held is None:
            self._held = SendBuffer()
        self._held.append(data)

    # Ends, in whatever order they come.

    def _settle(self) -> None:
        """Pass the backend's end on once the client has everything, and let go of what ended both ways."""
        if self._client is None or self.ended.done():
            return
        if self._held:
            self._update()
            return
        if self._got_eof and not self._shut:
            self._shut = True
            shutdown_write(self._client)
        if self._link_lost:
            self._finish(CloseReason.LINK_LOST)
        elif self._got_close:
            self._finish(CloseReason.FINISHED)
        elif self._got_eof and self._client_done:
            self._send_close()
            self._finish(CloseReason.FINISHED)
        else:
            self._update()

    def _finish(self, ending: CloseReason) -> None:
        """Let the client go: with everything that the backend said, or with a reset."""
        if self.ended.done():
            return
        self._leave_queue()
        client = self._client
        if client is not None:
            if self._watch is not None:
                self._watch.close()
            if not self._shut or ending not in (CloseReason.FINISHED, CloseReason.LINK_LOST):
                reset(client)
            elif self._client_done and not (self._link_lost or self._upload_lost):
                close_gracefully(client)
            else:
                lingering_closer().close_later(client, reset_after=self._link_lost or self._upload_lost)
        self._held = None
        self.window.close()
        self.ended.set_result(ending)

    def _update(self) -> None:
        if self._watch is None or self.ended.done():
            return
        reading = not (self._client_done or self._channel_done) and self._may_read()
        self._watch.set_events(
            (READ if reading else 0) | (WRITE if self._held else 0), shut=self._shut or self._client_deaf
        )
