"""Makes a C engine (data plane) accept clients on a listening socket, and dial the target for each of them."""

import socket
import struct

from gateway.connection_tap import Tap
from gateway.relay.engine_listener import EngineListener
from gateway.relay.engine_socket_relay import EngineSocketRelay
from gateway.relay.resolver import numeric_addresses
from gateway.relay.sockets import TCP_OPTIONS

_OPTIONS = b"".join(struct.pack("=iii", *option) for option in TCP_OPTIONS)
"""`TCP_OPTIONS` as `Engine.listen_and_dial` expects them."""


class DialingListener(EngineListener):
    """A listening socket of a C engine. For each client, the engine dials the target. See `EngineListener`.

    The host of the rule's target must be an IP address.
    """

    def _listen(self, descriptor: int, permits: int) -> None:
        ((family, *_, (host, port, *zone)),) = numeric_addresses(self._rule.to)
        scope = zone[1] if zone else 0
        self._runner.engine.listen_and_dial(
            self._token, descriptor, self._histogram, permits, self._rule.make_tap is not None,
            socket.inet_pton(family, host), port, scope, self._networks, _OPTIONS,
        )  # fmt: skip

    def _create_relay(self, token: int, wire: int, tap: Tap | None) -> EngineSocketRelay:
        del wire
        return EngineSocketRelay(self._runner, self._rule.latency, tap, token)
