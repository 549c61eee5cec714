"""Discovery of peers on the shared networks, the listener for them, and what they are sent."""

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
"""Seconds between two DNS lookups of the peers."""
_LOOKUP = 30.0
"""Seconds for one DNS lookup."""
_HANDSHAKES = 2
"""Concurrent TLS handshakes of one address: a client without the key takes no more descriptors."""
_BREATH = 0.1
"""Seconds to wait after a failed `accept`."""
_NOTHING = b"\n"


class Exchange:
    """The peers on all shared networks.

    Args:
        options: What is configured.
        group: Owns the tasks.
        tls: The server's and the client's context.
        changed: Called when a peer's report changes or is dropped.
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
        self._lines_changed = asyncio.Event()
        self._lines: dict[str, bytes] = {}
        """The line to send, by the network's ID."""
        self._servers: dict[Meeting, asyncio.Task[None]] = {}
        self._arrived = asyncio.Event()
        """Set when a network is added."""
        self._handshakes: Counter[str] = Counter()
        """Handshakes in progress, by address."""
        self._listed: dict[str, set[str]] = {}
        """Addresses of peers from DNS, by the network's ID."""
        self._following: set[tuple[str, str]] = set()
        self.peers: dict[tuple[str, str], Peer] = {}
        """By the network's ID and the address."""
        self.trouble: dict[Meeting, str] = {}
        """Why a network has no listener."""

    def update(self, lines: dict[Meeting, bytes]) -> None:
        """Listen on exactly these networks, and send these lines to the peers there.

        Args:
            lines: The report to send, by network.
        """
        for meeting in self._servers.keys() - lines.keys():
            self._servers.pop(meeting).cancel()
        self.trouble = {meeting: text for meeting, text in self.trouble.items() if meeting in lines}
        by_id = {meeting.network: line for meeting, line in lines.items()}
        if by_id != self._lines:
            self._lines = by_id
            changed, self._lines_changed = self._lines_changed, asyncio.Event()
            changed.set()
        for meeting in lines.keys() - self._servers.keys():
            self._serve(meeting)

    def reports(self) -> list[Report]:
        """Return the last report of each connected peer on a network that this gateway listens on."""
        networks = {meeting.network for meeting in self._servers}
        return [each.report for (network, _), each in self.peers.items() if each.report and network in networks]

    async def discover(self) -> None:
        """Look up the peers on each network, until cancelled."""
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
                    log.debug("docker: a connection of a peer cannot be accepted", extra={"detail": str(error)})
                    await asyncio.sleep(_BREATH)
                    continue
                if self._handshakes[address] >= _HANDSHAKES:
                    client.close()
                    continue
                self._handshakes[address] += 1
                self._group.create_task(self._greet(meeting, client, address))

    async def _greet(self, meeting: Meeting, client: socket.socket, address: str) -> None:
        """Complete the TLS handshake, and then send reports."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, client, ssl=self._listening, ssl_handshake_timeout=SILENCE
            )
        except (OSError, TimeoutError) as error:
            detail = {"network": meeting.name, "address": address, "detail": str(error)}
            log.debug("docker: TLS handshake of a peer failed", extra=detail)
            return
        finally:
            self._handshakes -= Counter({address: 1})
        # The client has the key, so it is a peer, perhaps one that DNS does not list yet.
        self._meet(meeting, address)
        if (peer := self.peers.get((meeting.network, address))) is not None:
            peer.seen.set()
        await self._tell(meeting, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def _tell(self, meeting: Meeting, writer: asyncio.StreamWriter) -> None:
        """Send the report, each change of it, and empty lines in between."""
        sent = _NOTHING
        try:
            while meeting in self._servers:
                line, changed = self._lines.get(meeting.network, _NOTHING), self._lines_changed
                writer.write(line if line != sent else _NOTHING)
                sent = line
                async with asyncio.timeout(SILENCE):
                    await writer.drain()
                await either(changed, BEAT)
        except (OSError, TimeoutError) as error:
            log.debug("docker: a peer closed its connection", extra={"detail": str(error)})
        finally:
            writer.transport.abort()

    async def _resolve(self, meeting: Meeting) -> set[str] | None:
        """Look up the peers on a network; None: the lookup failed."""
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
        """Follow a peer, unless it is followed already or its address is outside the network."""
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
