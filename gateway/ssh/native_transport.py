"""Implements asyncssh's transport for an SSH connection that the native engine handles after the login."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

import asyncssh

from gateway._dataplane.engine import (
    COMMAND_ACCEPTED,
    COMMAND_CLOSE,
    COMMAND_RECALL,
    COMMAND_ROUND_TRIP,
    RECORD_LOST,
    RECORD_PACKET,
    RECORD_REKEY_DUE,
    RECORD_VIOLATION,
)
from gateway.contracts.native_listener_interfaces import NativeListenerRule
from gateway.relay.native_engine_runner import Arguments, NativeEngineRunner
from gateway.ssh.native_channel_opener import NativeChannelOpener
from gateway.ssh.native_engine_cipher import CipherKey, with_tag
from gateway.ssh.pooled_connection import PooledConnection
from gateway.ssh.ssh_connection import SshConnection
from gateway.ssh.ssh_native_listener import SshNativeListener, SshNativeListenerEventHandler

log = logging.getLogger(__name__)
_ACCEPT_BYTES = 64 * 1024
"""The transport reports processed bytes to the native engine when at least this number of bytes is unreported. While
more than 256 KiB are unreported, the native engine does not read from the connection."""


class NativeTransport(asyncio.Transport):
    """A transport for asyncssh that passes packets between asyncssh and the native engine.

    Args:
        conn: The asyncssh connection.
        runner: Runs the native engine.
        names: The local address (`sockname`) and the remote address (`peername`), which `get_extra_info` returns.
        tunnel: See `hand_over`.
    """

    def __init__(
        self, conn: SshConnection, runner: NativeEngineRunner, names: dict[str, Any], tunnel: object
    ) -> None:
        super().__init__()
        self.token = runner.add(self, group=tunnel)
        self.runner = runner
        self._conn = conn
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._last_received = 0.0
        self._unaccepted = 0
        """Number of bytes passed to asyncssh, but not yet reported to the native engine as processed."""

    # asyncssh calls the methods below.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `sockname` or `peername`; see `asyncio.BaseTransport.get_extra_info`."""
        return self._names.get(name, default)

    def is_closing(self) -> bool:
        """Return whether the connection is closed."""
        return self._closed

    def write(self, data: Any) -> None:
        """Pass an unencrypted packet of asyncssh to the native engine, which encrypts and sends it."""
        if not self._closed:
            self.runner.engine.send(self.token, data)

    def abort(self) -> None:
        """See `SshConnectionTransport.abort`."""
        self._close(None)

    close = abort

    # `SshConnection` calls the methods below.

    def on_sending_changed(self) -> None:
        """Do nothing: the native engine itself pauses channel data during a key exchange."""

    def on_packet_processed(self) -> None:
        """If asyncssh has processed many bytes, report the count to the native engine in the next loop iteration."""
        if self._unaccepted >= _ACCEPT_BYTES:
            self._loop.call_soon(self._accept)

    def set_key(self, key: CipherKey, *, sealing: bool) -> None:
        """Pass the new key of one direction to the native engine.

        Args:
            key: The key.
            sealing: Whether the key is for sending.
        """
        if not self._closed:
            self.runner.engine.key(self.token, sealing, *key)

    @property
    def received_bytes(self) -> int:
        """Number of bytes received since the last key exchange."""
        return 0 if self._closed else self.runner.engine.gauge(self.token)[1]

    @property
    def channel_count(self) -> int:
        """Number of channels on this connection, including those that are opening or closing."""
        return 0 if self._closed else self.runner.engine.gauge(self.token)[2]

    # The pool calls the methods below.

    def last_heard(self, within: float) -> float:
        """See `AsyncsshTransport.last_heard`."""
        if not self._closed:
            self._last_received = self.runner.engine.gauge(self.token)[3]
        if self._conn.may_send_data:
            return self._last_received
        return min(self._last_received, self._conn.kex_started + within)

    def set_round_trip(self, seconds: float) -> None:
        """Pass the measured round-trip time to the native engine, which uses it to enlarge receive windows."""
        if not self._closed:
            self.runner.command(COMMAND_ROUND_TRIP, self.token, int(seconds * 1e9))

    def make_opener(self) -> NativeChannelOpener:
        """Return an object that opens channels on this connection."""
        return NativeChannelOpener(self._conn, self.runner, self.token)

    def make_listener(
        self,
        rule: NativeListenerRule,
        connections: Mapping[int, PooledConnection],
        max_packet: int,
        sock: socket.socket,
        permits: int,
        handler: SshNativeListenerEventHandler,
    ) -> SshNativeListener:
        """Return a listener that accepts clients in this connection's native engine."""
        return SshNativeListener(self.runner, rule, connections, max_packet, sock, permits, handler)

    def recall_clients(self) -> None:
        """Make the listeners call `on_returned` for each client whose channel on this connection is not open yet.

        See `gateway.contracts.native_listener_interfaces.NativeListenerInterface.recall`.
        """
        if not self._closed:
            self.runner.command(COMMAND_RECALL, self.token)

    def inspect(self) -> dict[str, int]:
        """Return the internal state of the connection, for tests; empty if the connection is closed."""
        return {} if self._closed else self.runner.engine.inspect(self.token) or {}

    # `NativeEngineRunner` calls the next two methods.

    def on_record(self, kind: int, arguments: Arguments, payload: bytes) -> None:
        """See `NativeEventHandler.on_record`."""
        if kind == RECORD_LOST:
            self.runner.forget(self.token)
            if not self._closed:
                self._closed = True
                error = arguments[0]
                self._conn.connection_lost(OSError(error, os.strerror(error)) if error else None)
        elif self._closed or self._conn.transport_closed:
            return
        elif kind == RECORD_PACKET:
            self._receive(arguments[0], payload)
        elif kind == RECORD_VIOLATION:
            text = payload.decode()
            self._conn.disconnect_on_error(asyncssh.MACError(text) if arguments[0] else asyncssh.ProtocolError(text))
        elif kind == RECORD_REKEY_DUE:
            self._conn.rekey()

    def on_native_engine_failed(self) -> None:
        """See `NativeEventHandler.on_native_engine_failed`."""
        if not self._closed:
            self._closed = True
            self._conn.connection_lost(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))

    def _receive(self, number: int, packet: bytes) -> None:
        conn = self._conn
        self._unaccepted += len(packet)
        if conn.between_packets:
            conn.set_receive_number(number)
        try:
            conn.data_received(with_tag(packet))
        except Exception as error:
            log.exception("asyncssh failed to process a packet: closing the SSH connection")
            self._close(error)
        if self._unaccepted >= _ACCEPT_BYTES:
            self._accept()

    def _accept(self) -> None:
        if not self._closed and self._unaccepted and self._conn.between_packets:
            count, self._unaccepted = self._unaccepted, 0
            self.runner.command(COMMAND_ACCEPTED, self.token, count)

    def _close(self, error: Exception | None) -> None:
        if self._closed:
            return
        self.last_heard(0)
        self._closed = True
        self.runner.command(COMMAND_CLOSE, self.token)
        self._conn.connection_lost(error)
