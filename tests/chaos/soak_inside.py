"""What the soak looks at inside the SSH data path: of its files, the only one that knows the path's fields."""

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import pytest

from gateway.relay.linger import lingering_closer
from gateway.ssh import doors, windows
from gateway.ssh.channel import StockRelay
from gateway.ssh.outbox import PACKET
from gateway.ssh.plane import PlaneRelay
from gateway.ssh.pool import SshLink
from gateway.ssh.session import ChannelRelay, Session

CIPHERS: tuple[str, ...] = ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com")
"""One for the project's own plane, and one for asyncssh's channels."""
QUANTUM = PACKET
"""The most that one client sends before another's turn, where several wait."""
MIB = 1 << 20


@dataclass
class Seen:
    """One relay at one moment, between two events.

    Args:
        relay: Itself.
        fd: Its client's descriptor.
        size: What its window accounts for.
        granted: What the peer may still send.
        owed: What the client took and the peer has not been granted again.
        held: What arrived and the client has not taken.
        up: Bytes taken from the client.
        down: Bytes that the client took.
        may_send: Whether the peer takes more, and the client has not ended.
        ended: Whether the backend has ended, so that nothing more is granted.
    """

    relay: ChannelRelay
    fd: int
    size: int
    granted: int
    owed: int
    held: int
    up: int
    down: int
    may_send: bool
    ended: bool

    def unbalanced(self) -> str | None:
        """What is wrong with its account."""
        account = f"size {self.size:,}, granted {self.granted:,}, owed {self.owed}, held {self.held:,}"
        if self.held > self.size:
            return f"holds more than its window: {account}"
        if self.ended:
            return None
        return None if self.size == self.granted + self.owed + self.held else f"does not add up: {account}"


def look(session: Session) -> list[Seen]:
    """The relays of a connection that have a client and have not ended."""
    return [seen for relay in session._relays.values() if (seen := _look(relay)) is not None]


def _look(relay: Any) -> Seen | None:
    if relay.ended.done() or relay._client is None:
        return None
    if isinstance(relay, PlaneRelay):
        window = relay.window
        may_send = relay._peer_window > 0 and not (relay._client_done or relay._sent_close or relay._channel_done)
        return Seen(
            relay, relay._client.fileno(), window.size, window.granted, window.owed, relay.held,
            relay.to_backend, relay.from_backend, may_send, relay._got_eof,
        )  # fmt: skip
    if isinstance(relay, StockRelay) and relay._channel is not None:
        channel: Any = relay._channel
        held = relay.held + sum(len(data) for data, _ in channel._recv_buf)
        may_send = channel._send_window > 0 and not (relay._client_done or relay._channel_done)
        return Seen(
            relay, relay._client.fileno(), relay.window.size, channel._recv_window, relay.window.owed, held,
            relay.to_backend - channel._send_buf_len, relay.from_backend, may_send, relay._got_eof,
        )  # fmt: skip
    return None


def sessions(link: SshLink) -> list[Session]:
    """Its connections."""
    return list(link._sessions)


def channels(link: SshLink) -> int:
    """How many channels there are, with those that are being opened and closed."""
    return sum(len(_windows(session)) + _unknown(session) for session in link._sessions)


def _unknown(session: Session) -> int:
    """How many channels are being opened whose windows cannot be seen: those of asyncssh's."""
    return 0 if session.data_plane() == "native" else session._channels.opening


def _windows(session: Session) -> dict[int, windows.Window]:
    """All windows that are not closed, also of channels whose client is gone."""
    relays: list[Any] = list(session._relays.values())
    channels: list[Any] = list(session._conn._channels.values())
    for channel in channels:
        relay = channel if isinstance(channel, PlaneRelay) else getattr(channel, "_session", None)
        if relay is not None:
            relays.append(relay)
    return {id(relay): relay.window for relay in relays}


class Budgets:
    """Those of this process, made small, so that a run reaches them.

    Args:
        first: Bytes for first windows.
        process: Bytes for windows that grow.
        least: Bytes of the least window.
    """

    def __init__(self, first: int = 16 * MIB, process: int = 16 * MIB, least: int = 64 << 10) -> None:
        self._first, self._process, self._least = first, process, least
        self._before = (0, 0, 0)

    def __enter__(self) -> Self:
        self._before = windows.FIRST.left, windows.PROCESS.left, windows.LEAST
        windows.FIRST.left, windows.PROCESS.left, windows.LEAST = self._first, self._process, self._least
        return self

    def __exit__(self, *_: object) -> None:
        windows.FIRST.left, windows.PROCESS.left, windows.LEAST = self._before

    def bound(self, count: int) -> int:
        """What slow clients of `count` channels can make the process hold; see `gateway.ssh.windows`."""
        return self._first + self._process + count * windows.LEAST

    @property
    def taken(self) -> int:
        """What windows have taken beyond `LEAST` each."""
        return self._first + self._process - windows.FIRST.left - windows.PROCESS.left

    def unaccounted(self, link: SshLink) -> int:
        """What is taken, and belongs to no channel; 0 where it may belong to those that are being opened."""
        accounted = sum(
            max(0, window.size - windows.LEAST) for each in link._sessions for window in _windows(each).values()
        )
        opening = sum(map(_unknown, link._sessions))
        return 0 if opening and self.taken >= accounted else self.taken - accounted


class Exchanges:
    """Counts the key exchanges of this process from now on, and makes them come often.

    Args:
        every: Bytes that we send with one key.
    """

    def __init__(self, every: int) -> None:
        self.count = 0
        self._every = every
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        original = doors.PlaneConnection.send_newkeys

        def counted(conn: doors.PlaneConnection, k: bytes, h: bytes) -> None:
            self.count += 1
            original(conn, k, h)

        self._patch.setattr(doors.PlaneConnection, "send_newkeys", counted)
        self._patch.setattr(doors, "REKEY_BYTES", self._every)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def lingering() -> int:
    """How many sockets of clients wait for the client's end."""
    return len(lingering_closer())


def tasks() -> int:
    """How many there are."""
    return len(asyncio.all_tasks())
