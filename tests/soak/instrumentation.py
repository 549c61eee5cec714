"""Reads and changes private state of the gateway's SSH code, for the soak test (`tests/soak/soak.py`)."""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, Self

import pytest

from gateway._dataplane import is_built
from gateway._dataplane import settings as engine_settings
from gateway.relay.lingering_close import lingering_closer
from gateway.ssh import asyncssh_transport, flow_control, ssh_connection
from gateway.ssh.asyncssh_relay import AsyncsshRelay
from gateway.ssh.asyncssh_relay_client_side import AsyncsshRelayClientSide
from gateway.ssh.channel_interfaces import SshChannel
from gateway.ssh.flow_control import MAX_SEND_PACKET
from gateway.ssh.pool import SshConnectionPool
from gateway.ssh.pooled_connection import PooledConnection

CIPHERS: tuple[str, ...] = ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com")
"""The ciphers of the test. The test uses the first cipher with the native engine, and the second with asyncssh."""


def data_plane(cipher: str) -> Literal["auto", "asyncssh"]:
    """Return the value of the tunnel's option `data_plane` for tests with `cipher`."""
    return "auto" if cipher == CIPHERS[0] else "asyncssh"


QUANTUM = MAX_SEND_PACKET
"""Maximum number of bytes that the gateway sends for one client before the next waiting client can send."""
MIB = 1 << 20


@dataclass
class Seen:
    """The state of one relay and its SSH channel.

    Args:
        relay: The relay.
        fd: The file descriptor of the client's socket.
        size: The size of the channel's receive window in bytes.
        granted: Number of bytes that the SSH server is still allowed to send.
        owed: Number of bytes that the relay has delivered to the client since the last window adjust.
        held: Number of bytes that the relay has received from the SSH server, and not yet delivered to the client.
        up: Number of bytes from the client that the relay has passed to the SSH connection.
        down: Number of bytes that the relay has delivered to the client.
        may_send: Whether the SSH server's window has space, and the relay can still send data of the client.
        ended: Whether the backend has half-closed its connection. After that, the relay sends no window adjusts.
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
        """Return an error message if `size` and the other byte counts contradict each other; otherwise None."""
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
    return list(link._connections)


def channels(link: SshConnectionPool) -> int:
    """Return the number of a link's channels, including channels that are being opened or closed."""
    return sum(_channels(session) for session in link._connections)


def _channels(session: PooledConnection) -> int:
    conn: Any = session._conn
    if conn.native_transport is not None:
        return int(conn.native_transport.channel_count)
    return len(_windows(session)) + _unknown(session)


def _unknown(session: PooledConnection) -> int:
    """Return the number of channels that are being opened. The function `_windows` does not find these channels."""
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
    """Start the native engine of the running event loop.

    The native engine keeps some file descriptors open until the event loop closes. A test that counts file
    descriptors must therefore call this function before the first count.
    """
    if is_built():
        from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

        native_engines().runner()


def engine_growth() -> int:
    """Return the number of bytes by which the native engines of this event loop have enlarged receive windows."""
    if not is_built():
        return 0
    from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - the native engine is optional

    return native_engines().grown_bytes


class Budgets:
    """Reduces the budgets for receive windows (see `gateway.ssh.flow_control`), so that the test uses them up.

    Args:
        first: The budget for the initial windows of all channels, in bytes.
        process: The budget for the growth of all windows, in bytes.
        least: The minimum size of a window in bytes.
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
        """Return the maximum number of bytes that the gateway can buffer if it has `count` channels."""
        return self._first + self._process + count * flow_control.MIN_WINDOW

    @property
    def taken(self) -> int:
        """Return the number of bytes that all windows have taken from the budgets.

        Each window takes its size minus `MIN_WINDOW`.
        """
        return self._first - flow_control.INITIAL_BUDGET.available + engine_growth()

    def unaccounted(self, link: SshConnectionPool) -> int:
        """Return the number of bytes in `taken` that belong to no window of an open channel.

        While channels are being opened, return 0 instead of a positive number, because the sizes of their windows
        are unknown. A result other than 0 is computed again, up to ten times, because the thread of the native engine
        can change a window during the computation.
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
    """Counts the SSH key exchanges of the gateway, and makes key exchanges frequent.

    Args:
        every: The number of bytes after which the gateway starts a new key exchange.
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
        self._patch.setattr(asyncssh_transport, "REKEY_BYTES", self._every)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def lingering() -> int:
    """Return the number of client sockets that stay open until the client closes (lingering close)."""
    return len(lingering_closer())


def tasks() -> int:
    return len(asyncio.all_tasks())
