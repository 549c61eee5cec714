"""Makes a native engine accept clients on a listening socket, and dial the target for each of them."""

import socket
import struct

from gateway.connection_tap import Tap
from gateway.relay.native_listener import NativeListener
from gateway.relay.native_socket_relay import NativeSocketRelay
from gateway.relay.resolver import numeric_addresses
from gateway.relay.sockets import TCP_OPTIONS

_OPTIONS = b"".join(struct.pack("=iii", *option) for option in TCP_OPTIONS)
"""`TCP_OPTIONS` in the format that `Engine.listen_and_dial` expects."""


class DirectNativeListener(NativeListener):
    """A listening socket of a native engine. For each client, the native engine dials the IP address of the target.

    `NativeListener` describes the arguments.
    """

    def _listen(self, descriptor: int, permits: int) -> None:
        ((family, *_, (host, port, *zone)),) = numeric_addresses(self._rule.to)
        scope = zone[1] if zone else 0
        self._runner.engine.listen_and_dial(
            self._token, descriptor, self._histogram, self._open_histogram, permits, self._rule.make_tap is not None,
            self._rule.min_responses, socket.inet_pton(family, host), port, scope, self._networks, _OPTIONS,
        )  # fmt: skip

    def _create_relay(self, token: int, connection_token: int, tap: Tap | None) -> NativeSocketRelay:
        del connection_token
        return NativeSocketRelay(self._runner, self._rule.latency, tap, token)
