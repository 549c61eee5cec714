"""Listening on the networks of the swarm, finding the other agents there, and following each of them."""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable

from gateway.docker.options import PeerOptions
from gateway.docker.peers.claims import Meeting, Report
from gateway.docker.peers.following import BEAT, SILENCE, Peer, either, follow

log = logging.getLogger(__name__)

_LOOK = 5.0
"""Seconds between two questions to the name server about who is there."""
_LOOKUP = 30.0
_HANDSHAKES = 2
"""Of one address at once: who has not shown the key takes no more of our descriptors."""
_BREATH = 0.1
"""Seconds to wait when no connection can be accepted."""
_NOTHING = b"\n"


class Exchange:
    """What is told to other agents, and who they are.

    Args:
        options: What is configured.
        group: Owns the tasks.
        tls: For the side that listens, and for the side that connects.
        changed: Called when another agent has told something, or cannot be heard any more.
    """

    def __init__(
        self,
        options: PeerOptions,
        group: asyncio.TaskGroup,
        tls: tuple[ssl.SSLContext, ssl.SSLContext],
        changed: Callable[[], None],
    ) -> None:
        self._options = options
        self._group = group
        self._listening, self._connecting = tls
        self._changed = changed
        self._news = asyncio.Event()
        self._lines: dict[str, bytes] = {}
        """What is told now, by the network's ID."""
        self._servers: dict[Meeting, asyncio.Task[None]] = {}
        self._arrived = asyncio.Event()
        """Set when there is another network to look at."""
        self._handshakes: Counter[str] = Counter()
        """Those that go on, by address."""
        self._listed: dict[str, set[str]] = {}
        """Addresses of agents, by the network's ID, as the name server gives them."""
        self._following: set[tuple[str, str]] = set()
        self.peers: dict[tuple[str, str], Peer] = {}
        """By the network's ID and the address."""
        self.trouble: dict[Meeting, str] = {}
        """Why there is no listener on a network."""

    def update(self, lines: dict[Meeting, bytes]) -> None:
        """Listen on these networks only, and tell this there.

        Args:
            lines: What there is to tell, by the network.
        """
        for meeting in self._servers.keys() - lines.keys():
            self._servers.pop(meeting).cancel()
        self.trouble = {meeting: told for meeting, told in self.trouble.items() if meeting in lines}
        told = {meeting.network: line for meeting, line in lines.items()}
        if told != self._lines:
            self._lines = told
            news, self._news = self._news, asyncio.Event()
            news.set()
        for meeting in lines.keys() - self._servers.keys():
            self._serve(meeting)

    def reports(self) -> list[Report]:
        """The last report of each agent that can be heard, on networks that this gateway is on."""
        networks = {meeting.network for meeting in self._servers}
        return [each.report for (network, _), each in self.peers.items() if each.report and network in networks]

    async def discover(self) -> None:
        """Ask the name server for the agents on each network, until cancelled."""
        while True:
            for meeting in list(self._servers):
                found = await self._resolve(meeting)
                if found is not None:
                    self._listed[meeting.network] = found - {meeting.address}
                for address in self._listed.get(meeting.network, ()):
                    self._meet(meeting, address)
            await either(self._arrived, _LOOK)
            self._arrived.clear()

    def _serve(self, meeting: Meeting) -> None:
        port = self._options.port
        try:
            sock = socket.create_server((meeting.address, port))
        except OSError as error:
            self.trouble[meeting] = f"docker.peers: cannot listen on {meeting.address}:{port}: {error.strerror}"
            return
        self.trouble.pop(meeting, None)
        sock.setblocking(False)
        self._arrived.set()
        self._servers[meeting] = self._group.create_task(self._accept(meeting, sock))

    async def _accept(self, meeting: Meeting, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            while True:
                try:
                    client, (address, *_) = await loop.sock_accept(sock)
                except OSError as error:  # no descriptor is left, or the client is gone
                    log.debug("docker: an agent of another node cannot be accepted", extra={"detail": str(error)})
                    await asyncio.sleep(_BREATH)
                    continue
                if self._handshakes[address] >= _HANDSHAKES:
                    client.close()
                    continue
                self._handshakes[address] += 1
                self._group.create_task(self._greet(meeting, client, address))

    async def _greet(self, meeting: Meeting, client: socket.socket, address: str) -> None:
        """Let in who has the key, and tell what there is."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, client, ssl=self._listening, ssl_handshake_timeout=SILENCE
            )
        except (OSError, TimeoutError) as error:
            detail = {"network": meeting.name, "address": address, "detail": str(error)}
            log.debug("docker: one without the key was refused", extra=detail)
            return
        finally:
            self._handshakes -= Counter({address: 1})
        # Who has the key is an agent, and may be one that the name server has not told of yet.
        self._meet(meeting, address)
        if (peer := self.peers.get((meeting.network, address))) is not None:
            peer.seen.set()
        await self._tell(meeting, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def _tell(self, meeting: Meeting, writer: asyncio.StreamWriter) -> None:
        """Tell one agent everything, then each change, and in between that there is none."""
        sent = _NOTHING
        try:
            while meeting in self._servers:
                line, news = self._lines.get(meeting.network, _NOTHING), self._news
                writer.write(line if line != sent else _NOTHING)
                sent = line
                async with asyncio.timeout(SILENCE):
                    await writer.drain()
                await either(news, BEAT)
        except (OSError, TimeoutError) as error:
            log.debug("docker: an agent of another node does not listen any more", extra={"detail": str(error)})
        finally:
            writer.transport.abort()

    async def _resolve(self, meeting: Meeting) -> set[str] | None:
        """The addresses of agents on a network; None: the name server did not answer."""
        name = f"{self._options.name}.{meeting.name}"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LOOKUP):
                found = await loop.getaddrinfo(name, self._options.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            return set() if error.errno == socket.EAI_NONAME else None
        except TimeoutError:
            return None
        return {str(each[4][0]) for each in found}

    def _meet(self, meeting: Meeting, address: str) -> None:
        """Follow an agent, unless that is done already, or it is on no network of ours."""
        key = (meeting.network, address)
        if key in self._following or not meeting.holds(address):
            return
        self._following.add(key)
        peer = self.peers[key] = Peer(meeting, address)

        def wanted() -> bool:
            return address in self._listed.get(meeting.network, ()) and meeting in self._servers

        def over(_: "asyncio.Task[None]") -> None:
            self._following.discard(key)
            self.peers.pop(key, None)

        task = self._group.create_task(follow(peer, self._options.port, self._connecting, self._changed, wanted))
        task.add_done_callback(over)
