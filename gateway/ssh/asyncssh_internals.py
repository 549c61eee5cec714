"""Accesses private attributes of asyncssh's channels, and checks that the installed asyncssh is supported."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import asyncssh
from asyncssh.constants import MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.packet import UInt32

SUPPORTED_VERSIONS = ("2.24.",)
"""Releases of asyncssh whose internals `ClientConnection` supports. With other releases, the gateway uses asyncssh's
own connection and transport classes."""


def is_supported() -> bool:
    """Return whether `ClientConnection` supports the installed asyncssh."""
    return asyncssh.__version__.startswith(SUPPORTED_VERSIONS)


def has_strict_kex(conn: asyncssh.SSHClientConnection) -> bool:
    """Return whether strict key exchange was negotiated (OpenSSH's PROTOCOL, section 1.10)."""
    return bool(getattr(conn, "_strict_kex", False))  # asyncssh has no public API for it


class UnreadData(NamedTuple):
    """Data that an asyncssh channel has received, but not passed to its session yet.

    Args:
        data: The received pieces, in order.
        eof: Whether the data is complete, because the peer has sent EOF or closed the channel.
        closed: Whether the peer has closed the channel. If not, the SSH connection was lost.
    """

    data: list[Any]
    eof: bool
    closed: bool


def take_unread_data(channel: Any) -> UnreadData:
    """Remove and return the undelivered data of a closed or lost channel. If `channel` is None, return no data."""
    if channel is None:
        return UnreadData([], eof=False, closed=False)
    data, channel._recv_buf = [piece for piece, _ in channel._recv_buf], []  # noqa: SLF001 - asyncssh has no public API for it
    state = channel._recv_state  # noqa: SLF001 - asyncssh has no public API for it
    closed = state in ("close_pending", "closed")
    return UnreadData(data, closed or state == "eof_pending", closed)


def disable_auto_adjust(conn: asyncssh.SSHClientConnection) -> None:
    """Stop new channels of `conn` from sending window adjusts. The caller must call `send_window_adjust` instead.

    asyncssh grants a full window for each packet that a session reads, regardless of the data that asyncssh still
    buffers. If a session read slowly, the peer could therefore send without limit.

    This function also makes new channels call their session's `resume_writing` whenever the peer increases the send
    window. By default, asyncssh calls `resume_writing` only when its send buffer drains.
    """
    for name in ("create_tcp_channel", "create_unix_channel"):
        setattr(conn, name, partial(_create_without_auto_adjust, getattr(conn, name)))


def _create_without_auto_adjust(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    channel = make(*args, **kwargs)

    def deliver(data: bytes, datatype: Any) -> None:
        session = channel._session  # noqa: SLF001 - asyncssh has no public API for it
        if session is not None:
            session.data_received(data, datatype)

    flush = channel._flush_send_buf  # noqa: SLF001 - asyncssh has no public API for it

    def flush_and_resume() -> None:
        flush()
        session = channel._session  # noqa: SLF001 - asyncssh has no public API for it
        if session is not None and channel._send_window:  # noqa: SLF001 - asyncssh has no public API for it
            session.resume_writing()

    channel._deliver_data = deliver  # noqa: SLF001 - asyncssh has no public API for it
    channel._flush_send_buf = flush_and_resume  # noqa: SLF001 - asyncssh has no public API for it
    return channel


def send_window(channel: Any) -> int:
    """Return how many bytes an asyncssh channel may send now."""
    return int(channel._send_window)  # noqa: SLF001 - asyncssh has no public API for it


def send_window_adjust(channel: Any, count: int) -> None:
    """Allow the peer to send `count` more bytes on an asyncssh channel."""
    channel._recv_window += count  # noqa: SLF001 - asyncssh has no public API for it
    channel.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(count))
