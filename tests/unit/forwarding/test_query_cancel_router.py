"""Tests how a forward limits and routes PostgreSQL cancel requests. The class `Server` simulates the servers."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from gateway.backend_support.postgres_cancel_protocol import PostgresCancelProtocol
from gateway.contracts.config_types import HostPort, unix_host_port
from gateway.contracts.link import Link
from gateway.forwarding import forward, query_cancel_router
from gateway.forwarding.admission import AdmissionRules
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.forward import Forward
from gateway.forwarding.listener import Listener
from gateway.forwarding.target_path import TargetIdentity, TargetPath
from gateway.metric_types import Histogram
from gateway.relay.direct_link import DirectLink
from gateway.relay.sockets import reset
from gateway.relay.unix_sockets import bind_unix

pytestmark = pytest.mark.timeout(40)

SSL = struct.pack("!II", 8, 80877103)
START = struct.pack("!II", 17, 3 << 16) + b"user\0app\0"
CANCEL = 80877102


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


def request(name: bytes) -> bytes:
    return struct.pack("!II", 8 + len(name), CANCEL) + name


class Server:
    """A PostgreSQL server that answers SSLRequest and accepts every login.

    Args:
        answer: The response to SSLRequest.
        name: The process ID and cancel key that every session gets.
        closes: Whether the server closes a connection after a cancel request.
    """

    def __init__(self, name: bytes = b"\0\0\0\1key1", answer: bytes = b"N", *, closes: bool = True) -> None:
        self.name, self.answer, self.closes = name, answer, closes
        self.accepted = 0
        self.seen: list[bytes] = []
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Server"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = HostPort("127.0.0.1", server.sockets[0].getsockname()[1])
        self.server = server
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(4)
                packet = head + await reader.readexactly(struct.unpack("!I", head)[0] - 4)
                self.seen.append(packet)
                if packet == SSL:
                    writer.write(self.answer)
                    if self.answer != b"N":
                        await reader.read()
                elif struct.unpack_from("!I", packet, 4)[0] == CANCEL:
                    if self.closes:
                        break
                else:
                    writer.write(message(b"R", bytes(4)) + message(b"K", self.name) + message(b"Z", b"I"))
                    await reader.read()
        writer.close()


class OpenUplink:
    """A substitute for an uplink that is always up."""

    tunnel_name: str | None = None

    def __init__(self) -> None:
        self.link: Link | None = DirectLink()
        self.channel_open = Histogram()

    async def wait_link(self) -> Link:
        assert self.link is not None
        return self.link


class InitiallyClosedUplink(OpenUplink):
    """A substitute for an uplink that is down until `open` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.link = None
        self._opened = asyncio.Event()

    def open(self) -> None:
        self.link = DirectLink()
        self._opened.set()

    async def wait_link(self) -> Link:
        await self._opened.wait()
        return await super().wait_link()


class Gate:
    """A forward and its clients."""

    def __init__(self, targets: list[Server], **rules: Any) -> None:
        self._targets = targets
        self.failed: list[HostPort] = []
        self.uplinks = [OpenUplink()]
        self.other_uplink = InitiallyClosedUplink()
        self.unreachable: list[Server] = []
        """The targets behind `other_uplink`."""
        route = BackendRoute(
            tuple(self.uplinks), self.paths, lambda target_path: self.failed.append(target_path.target), 20
        )
        bound = socket.create_server(("127.0.0.1", 0), backlog=100)
        bound.setblocking(False)
        self.port = bound.getsockname()[1]
        self.listeners = [Listener(HostPort("127.0.0.1", self.port), [bound])]
        self.admission = AdmissionRules("b", **rules)
        self.forward = Forward("b", self.listeners, self.admission, route, cancels=PostgresCancelProtocol())
        self.clients: list[socket.socket] = []

    def use(self, *targets: Server) -> None:
        """Replace the targets for new clients."""
        self._targets = list(targets)
        self.forward.review()

    def paths(self) -> list[TargetPath]:
        identities = [
            TargetIdentity(each.endpoint, (self.other_uplink,) if each in self.unreachable else tuple(self.uplinks))
            for each in self._targets
        ]
        return [target_path for identity in identities for target_path in identity.paths()]

    def connect(self, *said: bytes, source: str = "127.0.0.1") -> socket.socket:
        sock = socket.socket()
        self.clients.append(sock)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", self.port))  # This succeeds even if the gateway then refuses the client.
        sock.setblocking(False)
        for each in said:
            sock.sendall(each)
        return sock

    async def session(self, *said: bytes) -> socket.socket:
        """Open a PostgreSQL session, and wait until the gateway no longer parses the messages of the login."""
        before = len(self.forward._connections)
        sock = self.connect(*(said or (START,)))
        assert await answer(sock) != b""
        await until(lambda: len(self.forward._connections) > before)
        await until(lambda: all(each.login is None or each.login.finished for each in self.forward._connections))
        return sock

    @property
    def rejected(self) -> dict[str, int]:
        return dict(self.forward.rejected)


@contextlib.asynccontextmanager
async def gate(targets: list[Server], **rules: Any) -> AsyncIterator[Gate]:
    made = Gate(targets, **rules)
    serving = asyncio.ensure_future(made.forward.run(lambda: None))
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        serving.cancel()
        await asyncio.wait({serving})
        for listener in made.listeners:
            listener.close()
        for client in made.clients:
            client.close()
    await until(lambda: made.forward.active == 0)
    assert len(made.forward._acceptor.cancel_slots) == 0
    assert made.forward._cancels is not None
    assert made.forward._cancels._sessions == {}  # The forward has removed all cancel keys.


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def answer(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 1000)


async def is_reset(sock: socket.socket) -> bool:
    try:
        return await answer(sock) != b"" and False
    except ConnectionResetError:
        return True


# Tests of cancel requests from clients beyond a limit.


async def test_silent_clients_beyond_the_limit_do_not_block_cancel_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Server().listening() as server, gate([server], max_connections=1) as at:
        monkeypatch.setattr(query_cancel_router, "_CLASSIFY_TIMEOUT", 60.0)
        await at.session()
        silent = [at.connect() for _ in range(20)]
        # Beyond `max_connections`, the forward accepts 16 clients per address, and waits for cancel requests.
        await until(lambda: at.rejected == {"max_connections": 4})
        assert (at.forward.active, len(at.forward._acceptor.cancel_slots)) == (17, 16)
        cancelling = at.connect(request(server.name), source="127.0.0.2")
        assert await answer(cancelling) == b""
        assert server.seen == [START, request(server.name)]
        cancelling.close()
        await until(lambda: len(at.forward._acceptor.cancel_slots) == 16)
        more = [at.connect(source=f"127.0.0.{number}") for number in range(3, 27)]
        # From all addresses together, the forward accepts 32 clients beyond `max_connections`.
        await until(lambda: at.rejected == {"max_connections": 12})
        assert server.accepted == 2
        for each in silent + more:
            reset(each)
        await until(lambda: at.rejected == {"max_connections": 44})


async def test_a_client_beyond_the_limit_uses_no_regular_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_cancel_router, "_CLASSIFY_TIMEOUT", 60.0)
    async with Server().listening() as server, gate([server], max_connections=1) as at:
        session = await at.session()
        # The forward accepts one client beyond `max_connections`, because the client might send a cancel request.
        at.connect()
        await until(lambda: len(at.forward._acceptor.cancel_slots) == 1)
        session.close()
        await until(lambda: not at.forward._connections)
        await at.session()
        assert await is_reset(at.connect(START))
        assert at.rejected == {"max_connections": 1}


async def test_a_request_may_arrive_in_pieces_but_must_be_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_cancel_router, "_CLASSIFY_TIMEOUT", 30.0)
    async with Server().listening() as server, gate([server], max_connections=1) as at:
        await at.session()
        whole = request(server.name)
        dripping = at.connect()
        for at_byte in range(len(whole)):
            dripping.sendall(whole[at_byte : at_byte + 1])
            await asyncio.sleep(0.005)
        assert await answer(dripping) == b""
        assert server.seen[-1] == whole
        monkeypatch.setattr(query_cancel_router, "_CLASSIFY_TIMEOUT", 0.2)
        seen = len(server.seen)
        for late in (b"", whole[:-1]):
            assert await is_reset(at.connect(late))
        ended = at.connect(whole[:5])
        ended.shutdown(socket.SHUT_WR)
        assert await is_reset(ended)
        for other in (START, b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", struct.pack("!II", 13, CANCEL) + bytes(5)):
            assert await is_reset(at.connect(other))
        assert at.rejected == {"max_connections": 7}
        assert (len(server.seen), server.accepted) == (seen, 2)


async def test_a_client_that_is_not_admitted_may_not_cancel() -> None:
    class Directory:
        """A directory that maps addresses to consumers. It has no consumer for 127.0.0.3."""

        name, id = "web", "1"

        def lookup(self, address: str) -> Any:
            return None

        def recently_unknown(self, address: str) -> bool:
            return address == "127.0.0.3"

        async def wait_for(self, address: str, within: float) -> Any:
            self.name = address
            return self

        def has(self, label: str, backend: str) -> bool:
            return self.name == "127.0.0.2"

    async with Server().listening() as server:
        async with gate([server], max_connections=1, allow=(ip_network("127.0.0.1/32"),)) as at:
            await at.session()
            assert await is_reset(at.connect(request(server.name), source="127.0.0.2"))
            assert at.rejected == {"max_connections": 1}
            assert await answer(at.connect(request(server.name))) == b""
        seen = len(server.seen)
        async with gate([server], max_connections=1) as at:
            await at.session()
            at.forward._acceptor.admission = AdmissionRules(
                "b", max_connections=1, label="uses", identity=Directory()
            )
            for source in ("127.0.0.1", "127.0.0.3"):
                assert await is_reset(at.connect(request(server.name), source=source))
            assert at.rejected == {"max_connections": 2}
            assert await answer(at.connect(request(server.name), source="127.0.0.2")) == b""
        assert server.seen[seen:] == [START, request(server.name)]


async def test_a_refusal_beyond_the_quota_counts_for_its_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server().listening() as server, gate([server], per_consumer=1) as at:
        await at.session()
        assert await is_reset(at.connect(START))
        assert await answer(at.connect(request(server.name))) == b""
        assert at.rejected == {"consumer_quota": 1}
        assert at.forward.consumers["127.0.0.1"].rejected == {"consumer_quota": 1}
        assert at.forward.accepted == 3


async def test_a_request_that_its_server_does_not_close_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_RESERVE_TIMEOUT", 0.1)
    async with Server(closes=False).listening() as server, gate([server], max_connections=1) as at:
        await at.session()
        assert await is_reset(at.connect(request(server.name)))
        # The native engine reports the end of the connection in its own thread, so the report can be late.
        await until(lambda: dict(at.forward.resets) == {"aborted": 1})
        await until(lambda: len(at.forward._acceptor.cancel_slots) == 0)


async def test_clients_in_the_reserve_are_reset_at_shutdown() -> None:
    async with Server().listening() as server:
        async with gate([server], max_connections=1) as at:
            session = await at.session()
            silent = at.connect()
            await until(lambda: len(at.forward._acceptor.cancel_slots) == 1)
            at.clients.clear()
        with session, silent:
            assert await is_reset(session)
            assert await is_reset(silent)


async def test_reads_the_request_of_a_unix_client_that_has_closed(tmp_path: Path) -> None:
    async with Server().listening() as server, gate([server], max_connections=1) as at:
        await at.session()
        bound = bind_unix(tmp_path / "sock", 0o600)
        bound.listen()
        at.listeners.append(Listener(unix_host_port(tmp_path / "sock"), [bound]))
        at.forward._start_accepting()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "sock"))
            client.sendall(request(server.name))
        await until(lambda: server.seen[-1] == request(server.name))


# Tests of the target to which the gateway sends a cancel request.


async def test_does_not_wait_for_first_bytes_while_all_sessions_are_on_the_default_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(query_cancel_router, "_CLASSIFY_TIMEOUT", 1.0)
    async with Server().listening() as one, Server().listening() as other, gate([one, other]) as at:
        await at.session()
        calls: list[object] = []
        monkeypatch.setattr(
            query_cancel_router.QueryCancelRouter, "read_cancel_request", lambda *reported: calls.append(reported)
        )
        at.connect()
        await until(lambda: one.accepted == 2)
        assert calls == []
        monkeypatch.undo()
        monkeypatch.setattr(query_cancel_router, "_CLASSIFY_TIMEOUT", 0.3)
        at.use(other)
        silent = at.connect()
        await until(lambda: other.accepted == 1)  # After the timeout, a silent client is connected to a target.
        silent.sendall(START)
        assert await answer(silent) != b""
        assert other.seen == [START]


async def test_routes_a_known_key_to_its_session_and_an_unknown_key_to_hidden_sessions() -> None:
    async with (
        Server(b"\0\0\0\1key1").listening() as one,
        Server(b"\0\0\0\2key2").listening() as other,
        Server(b"\0\0\0\3key3", b"S").listening() as third,
        Server(b"\0\0\0\4key4", b"S").listening() as fourth,
        gate([one]) as at,
    ):
        await at.session()
        for target, said in ((other, START), (third, SSL), (fourth, SSL)):
            at.use(target)
            await at.session(said)
        counts = [each.accepted for each in (one, other, third, fourth)]
        at.use(one, other)
        for target in (one, other):
            assert await answer(at.connect(request(target.name))) == b""
            assert target.seen[-1] == request(target.name)
        assert [each.accepted for each in (one, other, third, fourth)] == [counts[0] + 1, counts[1] + 1, *counts[2:]]
        assert await answer(at.connect(request(b"\0\0\0\7none"))) == b""
        assert [each.seen[-1] for each in (third, fourth)] == [request(b"\0\0\0\7none")] * 2
        assert request(b"\0\0\0\7none") not in one.seen + other.seen


async def test_a_request_goes_to_its_session_over_another_path() -> None:
    async with Server().listening() as one, Server(b"\0\0\0\2key2").listening() as other, gate([other]) as at:
        at.uplinks.append(OpenUplink())
        await at.session()
        at.uplinks[0].link = None
        assert await answer(at.connect(request(other.name))) == b""
        assert other.seen == [START, request(other.name)]
        at.use(one)
        assert await answer(at.connect(request(other.name))) == b""
        assert other.seen[2:] == [request(other.name)]
        assert one.accepted == 0


async def test_a_request_is_reset_soon_if_its_target_cannot_be_reached() -> None:
    async with Server().listening() as one, Server(b"\0\0\0\2key2").listening() as other, gate([other]) as at:
        await at.session()
        at.use(one)
        other.server.close()
        assert await is_reset(at.connect(request(other.name)))
        assert at.rejected == {"refused": 1}
        assert at.failed == [other.endpoint]
        assert one.accepted == 0


async def test_does_not_try_the_next_target_for_a_session_on_the_first() -> None:
    async with Server().listening() as one, Server().listening() as other, gate([one, other]) as at:
        await at.session()
        one.server.close()
        assert await is_reset(at.connect(request(one.name)))
        await at.session()
        assert other.seen == [START]


async def test_a_request_does_not_wait_for_a_target_for_new_clients() -> None:
    async with Server().listening() as server, gate([server]) as at:
        await at.session()
        at.use()
        assert await answer(at.connect(request(server.name))) == b""
        assert server.seen[-1] == request(server.name)


async def test_a_request_does_not_wait_for_the_tunnel_of_new_clients() -> None:
    async with Server().listening() as one, Server(b"\0\0\0\2key2").listening() as other, gate([other]) as at:
        await at.session()
        at.unreachable = [one]
        at.use(one)
        waiting = at.connect(START)
        assert await answer(at.connect(request(other.name))) == b""
        assert other.seen == [START, request(other.name)]
        at.forward.set_fail_fast(enabled=True)
        assert await is_reset(waiting)
        assert await answer(at.connect(request(other.name))) == b""
        assert (other.accepted, one.accepted) == (3, 0)


async def test_a_request_is_sent_to_the_reachable_targets_if_that_of_new_clients_is_unreachable() -> None:
    async with (
        Server(answer=b"S").listening() as one,
        Server(answer=b"S").listening() as other,
        gate([one]) as at,
    ):
        await at.session(SSL)
        at.unreachable = [other]
        at.other_uplink.open()
        at.use(other)
        await at.session(SSL)
        at.other_uplink.link = None
        assert await answer(at.connect(request(one.name))) == b""
        assert one.seen[-1] == request(one.name)


# Tests of clients that send SSLRequest before the cancel request.


async def test_reads_the_request_after_the_tunnel_of_new_clients_has_opened() -> None:
    async with Server().listening() as one, Server(b"\0\0\0\2key2").listening() as other, gate([other]) as at:
        await at.session()
        at.unreachable = [one]
        at.use(one)
        cancelling = at.connect(SSL)
        await asyncio.sleep(0.3)
        at.other_uplink.open()
        assert await answer(cancelling) == b"N"
        cancelling.sendall(request(other.name))
        assert await answer(cancelling) == b""
        assert other.seen == [START, request(other.name)]


async def test_reads_the_request_after_refusing_encryption_for_a_server_without_tls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(query_cancel_router, "_REPLY_TTL", 60.0)
    async with Server().listening() as one, Server(b"\0\0\0\2key2").listening() as other, gate([other]) as at:
        await at.session()
        at.use(one)
        cancelling = at.connect(SSL)
        assert await answer(cancelling) == b"N"
        cancelling.sendall(request(other.name))
        assert await answer(cancelling) == b""
        assert other.seen[-1] == request(other.name)
        session = at.connect(SSL)
        assert await answer(session) == b"N"
        session.sendall(START)
        assert (await answer(session)).startswith(b"R")
        # The gateway sends one SSLRequest to the server, and uses the response for both clients.
        assert one.seen == [SSL, START]


async def test_the_client_negotiates_tls_with_a_server_that_supports_tls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(query_cancel_router, "_REPLY_TTL", -1.0)
    async with (
        Server(answer=b"S").listening() as one,
        Server(b"\0\0\0\2key2").listening() as other,
        gate([other]) as at,
    ):
        await at.session()
        at.use(one)
        for number in range(3):
            await at.session(SSL)
            # The SSLRequest of each session reaches the server. In addition, the gateway itself sends one SSLRequest
            # before the first of these sessions. While this session is open, the gateway knows that the server
            # accepts TLS, and sends no further SSLRequest itself.
            assert one.seen == [SSL] * (number + 2)


@pytest.mark.parametrize("says", [b"N", b"S", b""])
async def test_at_the_limit_a_storm_of_clients_does_not_reach_the_server(
    monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    monkeypatch.setattr(query_cancel_router, "_REPLY_TTL", 60.0)
    async with Server(answer=says).listening() as server, gate([server], max_connections=1) as at:
        await at.session()

        async def refused() -> bytes:
            sock = at.connect(SSL)
            said = b""
            with contextlib.suppress(ConnectionResetError):
                said = await answer(sock)
                if said:
                    sock.sendall(START)
                    assert await is_reset(sock)
            return said

        if says == b"":
            server.server.close()
        reported = await asyncio.gather(*(refused() for _ in range(12)))
        assert set(reported) == {b"N" if says == b"N" else b""}
        assert at.rejected == {"max_connections": 12}
        assert server.seen.count(SSL) == (says != b"")
        assert server.seen.count(START) == 1
        if says == b"N":
            for questions in (1, 2):
                cancelling = at.connect()
                for _ in range(questions):
                    cancelling.sendall(SSL)
                    assert await answer(cancelling) == b"N"
                cancelling.sendall(request(server.name))
                assert await answer(cancelling) == b""
                assert server.seen[-1] == request(server.name)
            asking = at.connect()
            # A client that sends a third SSLRequest is reset.
            for _ in range(3):
                asking.sendall(SSL)
                assert await answer(asking) == b"N"
            assert await is_reset(asking)
