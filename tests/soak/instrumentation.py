"""Reads and changes internals of the SSH data path; other modules of the soak do not access these internals."""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, Self

import pytest

from gateway._dataplane import is_built
from gateway._dataplane import settings as engine_settings
from gateway.relay.lingering_close import lingering_closer
from gateway.ssh import asyncio_ssh_transport, flow_control, ssh_connection
from gateway.ssh.asyncssh_relay import AsyncsshRelay
from gateway.ssh.asyncssh_relay_client_side import AsyncsshRelayClientSide
from gateway.ssh.channel_interfaces import SshChannel
from gateway.ssh.flow_control import MAX_SEND_PACKET
from gateway.ssh.pool import SshConnectionPool
from gateway.ssh.pooled_connection import PooledConnection

CIPHERS: tuple[str, ...] = ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com")
"""A cipher for the native engine, and a cipher for asyncssh's channels."""


def data_plane(cipher: str) -> Literal["auto", "asyncssh"]:
    """Return the data plane that is tested with `cipher`."""
    return "auto" if cipher == CIPHERS[0] else "asyncssh"


QUANTUM = MAX_SEND_PACKET
"""Maximum number of bytes that one client sends in a turn if several clients wait."""
MIB = 1 << 20


@dataclass
class Seen:
    """The state of one relay, read between two events.

    Args:
        relay: The relay.
        fd: The descriptor of the client's socket.
        size: Size of the relay's receive window in bytes.
        granted: Bytes of the window that the SSH server is still allowed to send.
        owed: Bytes that the client has taken, but that the relay has not granted to the SSH server again.
        held: Bytes that the relay has received, but that the client has not taken.
        up: Bytes that the relay has read from the client.
        down: Bytes that the client has taken.
        may_send: Whether the SSH server's window is open, and the client has not half-closed the stream.
        ended: Whether the backend has half-closed the stream. If so, the relay grants no more bytes.
    """

    relay: SshChannel
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
        """Return an error if the bytes of the relay do not add up to the size of the window; otherwise None."""
        account = f"size {self.size:,}, granted {self.granted:,}, owed {self.owed}, held {self.held:,}"
        if self.held > self.size:
            return f"holds more than its window: {account}"
        if self.ended:
            return None
        return None if self.size == self.granted + self.owed + self.held else f"does not add up: {account}"


def look(session: PooledConnection) -> list[Seen]:
    """Return the state of each open relay of an SSH connection, except relays that have no client."""
    return [seen for relay in session._relays.values() if (seen := _look(relay)) is not None]


def _look(relay: Any) -> Seen | None:
    if relay.ended.done():
        return None
    if not isinstance(relay, AsyncsshRelayClientSide):
        state = relay.inspect()
        if state.get("fd", -1) < 0:
            return None
        return Seen(
            relay, state["fd"], state["size"], state["granted"], state["owed"], state["held"], relay.to_backend,
            relay.from_backend, bool(state["may_send"]), bool(state["backend_eof"]),
        )  # fmt: skip
    if relay._client is None:
        return None
    if isinstance(relay, AsyncsshRelay) and relay._channel is not None:
        channel: Any = relay._channel
        held = relay.buffered + sum(len(data) for data, _ in channel._recv_buf)
        may_send = channel._send_window > 0 and not (relay._client_eof or relay._channel_unwritable)
        return Seen(
            relay, relay._client.fileno(), relay.window.size, channel._recv_window, relay.window.consumed, held,
            relay.to_backend - channel._send_buf_len, relay.from_backend, may_send, relay._backend_eof,
        )  # fmt: skip
    return None


def sessions(link: SshConnectionPool) -> list[PooledConnection]:
    """Return the SSH connections of a link."""
    return list(link._connections)


def channels(link: SshConnectionPool) -> int:
    """Return the number of channels, including channels that are being opened or closed."""
    return sum(_channels(session) for session in link._connections)


def _channels(session: PooledConnection) -> int:
    conn: Any = session._conn
    if conn.native_transport is not None:
        return int(conn.native_transport.channel_count)
    return len(_windows(session)) + _unknown(session)


def _unknown(session: PooledConnection) -> int:
    """Return the number of channels that are being opened, and that asyncssh therefore hides."""
    return session._opener.opening_count


def _windows(session: PooledConnection) -> dict[int, int]:
    """Return the sizes of the windows of all open channels, including channels without a client."""
    relays: list[Any] = list(session._relays.values())
    channels: list[Any] = list(session._conn._channels.values())
    for channel in channels:
        relay = getattr(channel, "_session", None)
        if relay is not None:
            relays.append(relay)
    return {id(relay): _window_size(relay) for relay in relays}


def _window_size(relay: Any) -> int:
    grown = {} if isinstance(relay, AsyncsshRelayClientSide) else relay.inspect()
    return int(grown.get("size", relay.window.size))


def start_engine() -> None:
    """Start the native engine of the running event loop; its descriptors stay open until the loop closes."""
    if is_built():
        from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

        native_engines().runner()


def engine_growth() -> int:
    """Return the number of bytes by which the native engine of the running event loop has grown windows."""
    if not is_built():
        return 0
    from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

    return native_engines().grown_bytes


class Budgets:
    """Reduces the window budgets of this process, so that a run uses them up.

    Args:
        first: Budget for the initial windows of channels, in bytes.
        process: Budget for the growth of windows, in bytes.
        least: Size of the smallest window in bytes.
    """

    def __init__(self, first: int = 16 * MIB, process: int = 16 * MIB, least: int = 64 << 10) -> None:
        self._first, self._process, self._least = first, process, least
        self._before = (0, 0, 0)

    def __enter__(self) -> Self:
        self._before = (
            flow_control.INITIAL_BUDGET.available,
            flow_control.MIN_WINDOW,
            engine_settings.growth_bytes,
        )
        engine_settings.growth_bytes = self._process
        flow_control.INITIAL_BUDGET.available, flow_control.MIN_WINDOW = self._first, self._least
        return self

    def __exit__(self, *_: object) -> None:
        (
            flow_control.INITIAL_BUDGET.available,
            flow_control.MIN_WINDOW,
            engine_settings.growth_bytes,
        ) = self._before

    def bound(self, count: int) -> int:
        """Return the maximum number of bytes that the process can buffer for slow clients of `count` channels."""
        return self._first + self._process + count * flow_control.MIN_WINDOW

    @property
    def taken(self) -> int:
        """Return how many bytes of the budgets are in use. Each window uses its size minus `MIN_WINDOW`."""
        return self._first - flow_control.INITIAL_BUDGET.available + engine_growth()

    def unaccounted(self, link: SshConnectionPool) -> int:
        """Return `taken` minus the bytes that the windows of all channels use; 0 while channels are being opened.

        The thread of the native engine can change windows while this method reads their sizes. If the difference is
        not 0, the method therefore reads the sizes again.
        """
        for _ in range(10):
            found = self._unaccounted(link)
            if not found:
                break
        return found

    def _unaccounted(self, link: SshConnectionPool) -> int:
        accounted = sum(
            max(0, size - flow_control.MIN_WINDOW) for each in link._connections for size in _windows(each).values()
        )
        opening = sum(map(_unknown, link._connections))
        return 0 if opening and self.taken >= accounted else self.taken - accounted


class Exchanges:
    """Counts the SSH key exchanges of this process, and makes them frequent.

    Args:
        every: Bytes that the gateway sends with one key.
    """

    def __init__(self, every: int) -> None:
        self.count = 0
        self._every = every
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        original = ssh_connection.SshConnection.send_newkeys

        def counted(conn: ssh_connection.SshConnection, k: bytes, h: bytes) -> None:
            self.count += 1
            original(conn, k, h)

        self._patch.setattr(ssh_connection.SshConnection, "send_newkeys", counted)
        self._patch.setattr(asyncio_ssh_transport, "REKEY_BYTES", self._every)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def lingering() -> int:
    """Return the number of client sockets that stay open until the client closes (lingering close)."""
    return len(lingering_closer())


def tasks() -> int:
    """Return the number of asyncio tasks."""
    return len(asyncio.all_tasks())
