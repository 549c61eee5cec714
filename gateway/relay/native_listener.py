"""Makes a native engine accept clients. Reports the clients that the native engine has connected to the target."""

import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from gateway._dataplane.engine import (
    COMMAND_PERMIT,
    COMMAND_RECALL,
    COMMAND_UNLISTEN,
    RECORD_JOINED,
    RECORD_RETURNED,
    RECORD_SERVED,
    RECORD_STOPPED,
)
from gateway.connection_tap import Tap
from gateway.contracts.config_types import IpNetwork
from gateway.contracts.link import Stream
from gateway.contracts.native_listener_interfaces import NativeListenerRule, ShortLivedConnectionTotals
from gateway.contracts.relay import Relay
from gateway.relay.native_engine_runner import Arguments, NativeEngineRunner

_NETWORK = struct.Struct("BB16s")
"""The format of `struct network` in `listener.h`."""


class NativeListenerEventHandler(Protocol):
    """Defines the callbacks of a `NativeListener`.

    Each method corresponds to a method of `gateway.contracts.native_listener_interfaces.AcceptedClientHandler`.
    """

    def on_joined(self, relay: Relay, tap: Tap | None) -> None:
        """Handle a client that the native engine connected to the target."""

    def on_served(self, clients: ShortLivedConnectionTotals) -> None:
        """Count clients with very short connections. The listener does not call `on_joined` for these clients."""

    def on_returned(self, client: Stream, seconds: float, *, abandoned: bool) -> None:
        """Handle a client that the native engine did not connect to the target.

        For example, the dial failed or took too long, or `NativeListenerRule.allow` does not contain the client's
        address.

        Args:
            client: The client's socket. The handler owns it.
            seconds: Seconds since the native engine accepted the client.
            abandoned: Whether the native engine has abandoned a dial. The target might have accepted this dial, or
                might still accept it.
        """

    def on_stopped(self) -> None:
        """Accept further clients without the native engine, because the listener has stopped.

        The listener does not call this method after `withdraw`.
        """

    def on_closed(self, listener: "NativeListener") -> None:
        """Handle the end of `listener`. The listener then calls no more methods of this handler."""


class NativeListener(ABC):
    """A listening socket of a native engine; implements `gateway.relay.native_engine_runner.NativeEventHandler`.

    Subclasses define how the native engine reaches the target.

    Args:
        runner: Runs the native engine.
        rule: The target, the allowed clients, and what to measure.
        sock: The listening socket. The native engine uses a duplicate of its descriptor.
        permits: Maximum number of clients to accept. `permit` increases this number.
        handler: Receives the accepted clients.

    Raises:
        OSError: The process has no file descriptors left.
    """

    def __init__(
        self,
        runner: NativeEngineRunner,
        rule: NativeListenerRule,
        sock: socket.socket,
        permits: int,
        handler: NativeListenerEventHandler,
    ) -> None:
        self._runner = runner
        self._engine = runner.engine
        self._rule = rule
        self._handler = handler
        self._permitted = permits
        self._handled = 0
        """Number of accepted clients that were passed to `handler`, with or without a connection to the target."""
        self._stopped = self._withdrawn = self._closed = False
        descriptor = os.dup(sock.fileno())
        self._histogram = runner.histograms.acquire(rule.latency)
        self._open_histogram = runner.histograms.acquire(rule.open_time)
        self._token = runner.add(self)
        self._listen(descriptor, permits)

    @abstractmethod
    def _listen(self, descriptor: int, permits: int) -> None:
        """Make the native engine accept at most `permits` clients.

        Args:
            descriptor: The listening socket. The native engine owns it from now on.
            permits: Maximum number of clients.
        """

    @abstractmethod
    def _create_relay(self, token: int, connection_token: int, tap: Tap | None) -> Relay:
        """Return the relay of a client that the native engine has connected to the target.

        Args:
            token: Identifies the client's SSH channel or socket relay in the native engine.
            connection_token: Identifies the SSH connection in the native engine; 0 if the client uses none.
            tap: Observes the relayed bytes. None if the connection has no tap.
        """

    @property
    def _networks(self) -> bytes:
        """The allowed networks, in the format that the native engine expects."""
        return pack_networks(self._rule.allow)

    def _read(self) -> tuple[int, int, int]:
        """Return the listener's counters: the first three values of `Engine.gauge`.

        They are the number of clients that use a permit, the number of periods in which most new channels were opened
        on full SSH connections, and the number of connected clients that the native engine has not reported yet.
        """
        if self._closed or self._runner.engine is not self._engine:
            return self._handled, 0, 0
        return self._engine.gauge(self._token)[:3]

    @property
    def waiting(self) -> int:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`."""
        accepted, _, unreported = self._read()
        return max(0, accepted - self._handled - unreported)

    @property
    def clients(self) -> int:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`."""
        return self._read()[0] - self._handled

    @property
    def reserved(self) -> int:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`.

        While the listener accepts clients, the value is the number of permits minus the number of clients that were
        passed to the handler. It does not depend on the native engine's counters, which can change at any time.
        """
        return self.clients if self._stopped or self._withdrawn else self._permitted - self._handled

    def permit(self, count: int) -> None:
        """Permit the listener to accept `count` more clients. Do nothing if the listener has stopped."""
        if not (self._stopped or self._withdrawn):
            self._permitted += count
            self._runner.command(COMMAND_PERMIT, self._token, count)

    def withdraw(self) -> None:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`."""
        if not (self._stopped or self._withdrawn):
            self._withdrawn = True
            self._runner.command(COMMAND_UNLISTEN, self._token)

    def recall(self) -> None:
        """See `gateway.contracts.native_listener_interfaces.NativeListenerInterface`."""
        if not self._closed:
            self._runner.command(COMMAND_RECALL, self._token)

    # The native engine's runner calls the following methods.

    def on_record(self, kind: int, arguments: Arguments, payload: bytes) -> None:
        """See `NativeEventHandler.on_record`."""
        del payload
        if kind == RECORD_JOINED:
            self._handled += 1
            token, connection_token, _, _ = arguments
            tap = self._rule.make_tap() if self._rule.make_tap is not None else None
            self._handler.on_joined(self._create_relay(token, connection_token, tap), tap)
        elif kind == RECORD_SERVED:
            self._handler.on_served(ShortLivedConnectionTotals(*arguments))
        elif kind == RECORD_RETURNED:
            self._handled += 1
            client = socket.socket(fileno=arguments[0])
            client.setblocking(False)
            self._handler.on_returned(client, arguments[1] / 1e9, abandoned=bool(arguments[2]))
        elif kind == RECORD_STOPPED:
            self._stopped = True
            if not self._withdrawn:
                self._handler.on_stopped()
        if self._stopped and not self.clients:
            self._runner.forget(self._token)
            self._runner.histograms.release(self._histogram)
            self._runner.histograms.release(self._open_histogram)
            self._closed = True
            self._handler.on_closed(self)

    def on_native_engine_failed(self) -> None:
        """See `NativeEventHandler.on_native_engine_failed`.

        The failed native engine has already reset the connections of clients that were not connected to the target.
        """
        self._stopped = self._closed = True
        if not self._withdrawn:
            self._handler.on_stopped()
        self._handler.on_closed(self)


def pack_networks(networks: Sequence[IpNetwork]) -> bytes:
    """Return IP networks in the format that `Engine.listen` expects."""
    return b"".join(
        _NETWORK.pack(each.max_prefixlen // 8, each.prefixlen, each.network_address.packed) for each in networks
    )
