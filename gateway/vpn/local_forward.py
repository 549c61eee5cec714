"""A door on loopback that leads through another link: for a child that cannot take sockets."""

import asyncio
import contextlib
import logging
import socket
from types import TracebackType
from typing import Self

from gateway.contracts import Endpoint, Link, Relay
from gateway.errors import ReachError
from gateway.measure import Histogram
from gateway.relay.attempts import persist
from gateway.relay.sockets import reset, tune

log = logging.getLogger(__name__)

_PAUSE = 0.2


class Redirect:
    """Takes connections at 127.0.0.1 and joins each to a target behind `via`.

    Args:
        via: The link.
    """

    def __init__(self, via: Link) -> None:
        self._via = via
        self._to: Endpoint | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._serving = asyncio.get_running_loop().create_task(self._serve())
        self._joining: set[asyncio.Task[None]] = set()
        self._relays: set[Relay] = set()

    def lead_to(self, to: Endpoint) -> Endpoint:
        """From now on it leads to `to`; says where it is."""
        self._to = to
        host, port = self._listener.getsockname()
        return Endpoint(host, port)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("a connection of the VPN client is not taken: %s", error)
                await asyncio.sleep(_PAUSE)
                continue
            tune(client)
            job = loop.create_task(self._join(client))
            self._joining.add(job)
            job.add_done_callback(self._joining.discard)

    async def _join(self, client: socket.socket) -> None:
        to = self._to
        if to is None:
            reset(client)
            return
        try:
            relay = await persist(lambda within: self._via.join(client, to, Histogram(), within))
        except ReachError as error:
            log.warning("%s cannot be reached through %s: %s", to, self._via.leads_to, error)
            reset(client)
        except BaseException:
            reset(client)
            raise
        else:
            self._relays.add(relay)
            relay.ended.add_done_callback(lambda _: self._relays.discard(relay))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        jobs = {self._serving, *self._joining}
        for job in jobs:
            job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(jobs)
        self._listener.close()
