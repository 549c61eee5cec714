"""Forwards a port on 127.0.0.1 to a target through a link, for child processes such as OpenVPN."""

import asyncio
import logging
import socket
from types import TracebackType
from typing import Self

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link
from gateway.contracts.relay import Relay
from gateway.contracts.states import CloseReason
from gateway.errors import TargetPathError
from gateway.metric_types import Histogram
from gateway.relay.dial_retry import retry_dial
from gateway.relay.sockets import reset, tune

log = logging.getLogger(__name__)

_ACCEPT_RETRY = 0.2


class VpnLoopbackForwarder:
    """Listens on an ephemeral port of 127.0.0.1, and connects each client to a target through a link.

    Use `VpnLoopbackForwarder` with `async with`. On exit from the block, it stops listening, and resets the
    connections of its clients.

    Args:
        via: The link through which to connect to the target.
    """

    def __init__(self, via: Link) -> None:
        self._via = via
        self._target: HostPort | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._acceptor = asyncio.get_running_loop().create_task(self._accept_clients())
        self._joins: set[asyncio.Task[None]] = set()
        self._relays: set[Relay] = set()

    def set_target(self, target: HostPort) -> HostPort:
        """Set the target for new clients, and return the address to which they must connect."""
        self._target = target
        host, port = self._listener.getsockname()
        return HostPort(host, port)

    async def _accept_clients(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("cannot accept a connection from the VPN client: %s", error)
                await asyncio.sleep(_ACCEPT_RETRY)
                continue
            tune(client)
            join = loop.create_task(self._join(client))
            self._joins.add(join)
            join.add_done_callback(self._joins.discard)

    async def _join(self, client: socket.socket) -> None:
        target, relay = self._target, None
        try:
            if target is not None:
                relay = await retry_dial(lambda within: self._via.join(client, target, Histogram(), within))
        except TargetPathError as error:
            log.warning("cannot reach %s through %s: %s", target, self._via.network, error)
        finally:
            if relay is None:
                reset(client)
        if relay is not None:
            self._relays.add(relay)
            relay.ended.add_done_callback(lambda _: self._relays.discard(relay))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = {self._acceptor, *self._joins}
        for task in tasks:
            task.cancel()
        try:
            await asyncio.wait(tasks)
        finally:
            self._listener.close()
            for relay in list(self._relays):
                relay.abort(CloseReason.ABORTED)
