"""Accesses private attributes of asyncssh, and checks that the installed version of asyncssh is supported."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import asyncssh
from asyncssh.constants import MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.packet import UInt32

SUPPORTED_VERSIONS = ("2.24.",)
"""Prefixes of the asyncssh versions whose internals `SshConnection` supports. With another version, the gateway uses
asyncssh's own connection and transport classes."""


def is_supported() -> bool:
    """Return whether `SshConnection` supports the installed version of asyncssh."""
    return asyncssh.__version__.startswith(SUPPORTED_VERSIONS)


def has_strict_kex(conn: asyncssh.SSHClientConnection) -> bool:
    """Return whether strict key exchange was negotiated (OpenSSH's PROTOCOL, section 1.10)."""
    return bool(getattr(conn, "_strict_kex", False))  # asyncssh has no public equivalent of this attribute


class UnreadChannelData(NamedTuple):
    """Data that an asyncssh channel has received, but has not passed to its session.

    Args:
        data: The received pieces, in order.
        eof: Whether the peer has sent EOF or closed the channel, so that no more data follows.
        closed: Whether the peer has closed the channel; False if the SSH connection was lost instead.
    """

    data: list[Any]
    eof: bool
    closed: bool


def take_unread_data(channel: Any) -> UnreadChannelData:
    """Remove and return the data that a channel has received, but has not passed to its session.

    Call this function after the peer has closed the channel, or after the SSH connection is lost.

    Args:
        channel: The asyncssh channel. If it is None, the result contains no data.
    """
    if channel is None:
        return UnreadChannelData([], eof=False, closed=False)
    data, channel._recv_buf = [piece for piece, _ in channel._recv_buf], []  # noqa: SLF001 - asyncssh has no public equivalent
    state = channel._recv_state  # noqa: SLF001 - asyncssh has no public equivalent
    closed = state in ("close_pending", "closed")
    return UnreadChannelData(data, closed or state == "eof_pending", closed)


def disable_auto_adjust(conn: asyncssh.SSHClientConnection) -> None:
    """Let the session of each new channel of `conn` control the channel's receive window.

    The session must call `send_window_adjust` itself. By default, asyncssh refills the window when it passes a packet
    to the session, even if other received data is still buffered. The peer could then send without limit.

    New channels also call the session's `resume_writing` each time the peer increases the send window. By default,
    asyncssh does so only when its own send buffer drains.
    """
    for name in ("create_tcp_channel", "create_unix_channel"):
        setattr(conn, name, partial(_create_without_auto_adjust, getattr(conn, name)))


def _create_without_auto_adjust(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    channel = make(*args, **kwargs)

    def deliver(data: bytes, datatype: Any) -> None:
        session = channel._session  # noqa: SLF001 - asyncssh has no public equivalent
        if session is not None:
            session.data_received(data, datatype)

    flush = channel._flush_send_buf  # noqa: SLF001 - asyncssh has no public equivalent

    def flush_and_resume() -> None:
        flush()
        session = channel._session  # noqa: SLF001 - asyncssh has no public equivalent
        if session is not None and channel._send_window:  # noqa: SLF001 - asyncssh has no public equivalent
            session.resume_writing()

    channel._deliver_data = deliver  # noqa: SLF001 - asyncssh has no public equivalent
    channel._flush_send_buf = flush_and_resume  # noqa: SLF001 - asyncssh has no public equivalent
    return channel


def send_window(channel: Any) -> int:
    """Return how many bytes the peer accepts on an asyncssh channel now."""
    return int(channel._send_window)  # noqa: SLF001 - asyncssh has no public equivalent


def send_window_adjust(channel: Any, count: int) -> None:
    """Allow the peer to send `count` more bytes on an asyncssh channel."""
    channel._recv_window += count  # noqa: SLF001 - asyncssh has no public equivalent
    channel.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(count))
