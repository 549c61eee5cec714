"""Tests which reports of container addresses an agent accepts, and from which peers."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.backoff import BackoffPolicy
from gateway.contracts.secret import Secret
from gateway.demo.server_process import free_port
from gateway.docker.consumer_registry import Consumer, ConsumerRegistry
from gateway.docker.options import Grant, SwarmPeerOptions
from gateway.docker.peers import peer_connection
from gateway.docker.peers.container_address_reports import (
    ContainerAddressReport,
    PeerNetwork,
    ReportedContainerAddress,
    build_report,
    consumers_of,
    decode,
    encode,
    merge_consumers,
    shared_networks,
)
from gateway.docker.peers.peer_address_exchange import PeerAddressExchange
from gateway.docker.peers.tls_contexts import SUPPORTED, contexts
from gateway.docker.snapshot import Container, EngineSnapshot, NetworkEndpoint, NetworkInfo
from gateway.errors import GatewayError

MESH = NetworkInfo("n-mesh", "mesh", "overlay", "swarm", attachable=True, subnets=("127.0.0.0/24",))
BRIDGE = NetworkInfo("n-bridge", "bridge", "bridge", "local", attachable=False, subnets=("172.17.0.0/16",))
HERE = PeerNetwork("n-mesh", "mesh", "127.0.0.1", MESH.subnets)
NAMES_ORDERS = {"gateway.backends": "orders"}
needs_psk = pytest.mark.skipif(not SUPPORTED, reason="TLS with a shared key: Python 3.13")


def container(name: str, **addresses: str) -> Container:
    endpoints = {
        network: NetworkEndpoint(f"n-{network}", f"e-{name}", (address,)) for network, address in addresses.items()
    }
    return Container(f"id-{name}", name, "running", NAMES_ORDERS, "bridge", endpoints)


def observed(*there: Container, address: str = "127.0.0.1") -> EngineSnapshot:
    own = container("gateway", mesh=address)
    return EngineSnapshot((own, *there), (MESH, BRIDGE), own=own.id)


def known(*there: Container) -> dict[str, Consumer]:
    return {
        address: Consumer(each.name, each.id, dict(each.labels))
        for each in there
        for endpoint in each.endpoints.values()
        for address in endpoint.addresses
    }


def claim(address: str, name: str = "app") -> ReportedContainerAddress:
    return ReportedContainerAddress(address, f"id-{name}", name, NAMES_ORDERS)


def test_reports_contain_only_running_containers_on_swarm_networks() -> None:
    app, other, gone = (
        container("app", mesh="127.0.0.7", bridge="172.17.0.3"),
        container("other", bridge="172.17.0.4"),
        container("gone", mesh="127.0.0.8"),
    )
    seen = observed(app, other, gone)
    (network,) = shared_networks(seen)
    assert network == HERE
    reported = build_report("node-1", network, seen, known(app, other))
    assert reported == ContainerAddressReport("node-1", "127.0.0.1", "n-mesh", (claim("127.0.0.7"),))
    assert decode(encode(reported), HERE, "127.0.0.1") == reported
    assert shared_networks(replace(seen, own=None)) == ()


@pytest.mark.parametrize(
    ("reported", "wrong"),
    [
        (
            ContainerAddressReport("node-2", "127.0.0.3", "n-mesh"),
            "names 127.0.0.3 as its sender, but came from 127.0.0.2",
        ),
        (ContainerAddressReport("node-2", "127.0.0.2", "n-else"), "is not about network mesh"),
        (
            ContainerAddressReport("node-2", "127.0.0.2", "n-mesh", (claim("172.17.0.3"),)),
            "not an address of network mesh",
        ),
        (ContainerAddressReport("node-2", "127.0.0.2", "n-mesh", (claim("nonsense"),)), "nonsense"),
    ],
)
def test_a_report_with_other_addresses_is_refused(reported: ContainerAddressReport, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        decode(encode(reported), HERE, "127.0.0.2")
    for line in (b"[]\n", b"{}\n", b"\xff\n", b'{"containers": [1]}\n', b"[" * 100_000 + b"\n"):
        with pytest.raises(ValueError, match="invalid report"):
            decode(line, HERE, "127.0.0.2")


def test_a_container_of_another_node_is_admitted_as_one_of_this_node_is() -> None:
    reported = [
        ContainerAddressReport("node-2", "127.0.0.2", "n-mesh", (claim("127.0.0.7"), claim("127.0.0.9", "batch-1"))),
        ContainerAddressReport("node-3", "127.0.0.3", "n-mesh", (claim("127.0.0.8"),)),
    ]
    grants = (Grant(("reports",), container="batch-*"),)
    found = merge_consumers(consumers_of(each, grants, strict=False) for each in reported)
    assert [found[f"127.0.0.{at}"].name for at in (7, 8, 9)] == ["app@node-2", "app@node-3", "batch-1@node-2"]
    assert found["127.0.0.7"].has("gateway.backends", "orders")
    assert found["127.0.0.9"].has("gateway.backends", "reports")
    strict = merge_consumers(consumers_of(each, grants, strict=True) for each in reported)
    assert not strict["127.0.0.7"].has("gateway.backends", "orders")
    assert strict["127.0.0.9"].has("gateway.backends", "reports")


def test_an_address_that_two_nodes_claim_belongs_to_no_container() -> None:
    reported = [
        ContainerAddressReport("node-2", "127.0.0.2", "n-mesh", (claim("127.0.0.7"), claim("127.0.0.8", "same"))),
        ContainerAddressReport(
            "node-3", "127.0.0.3", "n-mesh", (claim("127.0.0.7", "thief"), claim("127.0.0.8", "same"))
        ),
    ]
    assert set(merge_consumers(consumers_of(each, (), strict=False) for each in reported)) == {"127.0.0.8"}


async def test_the_local_engine_takes_precedence_over_reports() -> None:
    directory = ConsumerRegistry(lambda: None)
    app = container("app", mesh="127.0.0.7")
    directory.update_remote({each: Consumer("far@node-2", "far", {}) for each in ("127.0.0.7", "127.0.0.8")})
    directory.update((app,), 0.0, None)
    assert [directory.lookup(f"127.0.0.{at}").name for at in (7, 8)] == ["app", "far@node-2"]  # type: ignore[union-attr]
    # "app" has exited, so another container can have its address now. The lookup must not return "far", although a
    # peer has reported that "far" has this address.
    directory.forget("id-app")
    assert directory.lookup("127.0.0.7") is None
    assert directory.local == {}


@needs_psk
def test_a_missing_or_short_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match=r"secret_file: .*gone: No such file"):
        contexts(Secret(path=tmp_path / "gone"))
    with pytest.raises(GatewayError, match="fewer than 32 characters"):
        contexts(Secret("short"))


class Node:
    """An agent on a loopback address. The method `runs` sets the containers of the agent's engine."""

    def __init__(self, number: int, port: int, secret: str) -> None:
        self.address = f"127.0.0.{number}"
        self.directory = ConsumerRegistry(lambda: None)
        self.strict = False
        self.seen = observed(address=self.address)
        options = SwarmPeerOptions(Secret(secret), port)
        self.peers = PeerAddressExchange(
            options, f"node-{number}", (), lambda: self.strict, lambda: self.seen, self.directory
        )

    def runs(self, *there: Container) -> None:
        self.seen = observed(*there, address=self.address)
        self.directory.update(self.seen.containers, 0.0, None)

    def names(self) -> set[str]:
        return {each.name for each in self.directory.consumers()}


@contextlib.asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[list["asyncio.Task[None]"]]:
    tasks = [asyncio.ensure_future(each.peers.run(lambda: None)) for each in nodes]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], bool], within: float = 30.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the set of addresses to which the DNS name of the agents resolves. Tests change this set."""
    found: set[str] = set()

    async def lookup(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        assert host == "gw-peers.mesh"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in sorted(found)]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", lookup)
    return found


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.2, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ("-subj", "/CN=127.0.0.2", "-addext", "subjectAltName=IP:127.0.0.2")
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *subject)
    subprocess.run([*made, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=20)
    return cert, key


SECRET = "0123456789abcdef" * 2


@needs_psk
async def test_two_agents_know_each_others_containers_while_both_run(named: set[str]) -> None:
    port = free_port()
    one, two = Node(1, port, SECRET), Node(2, port, SECRET)
    app = container("app", mesh="127.0.0.7")
    two.runs(app)
    named.update({"127.0.0.1", "127.0.0.2"})
    async with running(one, two) as (_, second):
        await until(lambda: "app@node-2" in one.names())
        assert [each.report.instance for each in one.peers.known if each.report] == ["node-2"]
        assert one.directory.lookup("127.0.0.7").has("gateway.backends", "orders")  # type: ignore[union-attr]
        one.strict = True  # Simulates a reload.
        await until(lambda: not one.directory.lookup("127.0.0.7").has("gateway.backends", "orders"))  # type: ignore[union-attr]
        two.directory.forget("id-app")  # Simulates the event that "app" has exited.
        await until(lambda: "app@node-2" not in one.names())
        two.runs(app, container("late", mesh="127.0.0.8"))
        await until(lambda: "late@node-2" in one.names())
        second.cancel()
        await until(lambda: "late@node-2" not in one.names())
        assert any("127.0.0.2" in line for line in one.peers.warnings())


@needs_psk
async def test_an_agent_missing_in_dns_is_discovered_when_it_connects(named: set[str]) -> None:
    port = free_port()
    one, two = Node(1, port, SECRET), Node(2, port, SECRET)
    two.runs(container("app", mesh="127.0.0.7"))
    # DNS returns only the address of node 1, so node 1 cannot discover node 2.
    named.add("127.0.0.1")
    async with running(one, two):
        await until(lambda: "app@node-2" in one.names())


@needs_psk
async def test_a_restarted_agent_is_connected_as_soon_as_it_connects(
    named: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_connection, "_RECONNECT", BackoffPolicy(first=600.0, cap=600.0, floor=600.0))
    port = free_port()
    one, two = Node(1, port, SECRET), Node(2, port, SECRET)
    two.runs(container("app", mesh="127.0.0.7"))
    named.update({"127.0.0.1", "127.0.0.2"})
    async with running(one):
        await until(lambda: any("127.0.0.2" in line and "Connect" in line for line in one.peers.warnings()))
        async with running(two):
            await until(lambda: "app@node-2" in one.names())


@needs_psk
async def test_a_peer_without_the_secret_gets_no_reports_and_is_ignored(named: set[str]) -> None:
    port = free_port()
    one, two = Node(1, port, SECRET), Node(2, port, SECRET[::-1])
    for each, name in ((one, "mine"), (two, "app")):
        each.runs(container(name, mesh=f"127.0.0.{7 if each is one else 8}"))
    named.update({"127.0.0.1", "127.0.0.2"})
    async with running(one, two):
        await until(lambda: any("TLS handshake failed" in line for line in one.peers.warnings()))
        await until(lambda: any("TLS handshake failed" in line for line in two.peers.warnings()))
        assert one.names() == {"gateway", "mine"}
        assert two.names() == {"gateway", "app"}


@needs_psk
async def test_a_certificate_does_not_replace_the_key(named: set[str], certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    port, lie = free_port(), encode(ContainerAddressReport("node-2", "127.0.0.2", "n-mesh", (claim("127.0.0.7"),)))

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            writer.write(lie)
            await writer.drain()

    one = Node(1, port, SECRET)
    named.add("127.0.0.2")
    server = await asyncio.start_server(serve, "127.0.0.2", port, ssl=context)
    async with server, running(one):
        await until(lambda: any("127.0.0.2" in line and "handshake" in line for line in one.peers.warnings()))
        assert "app@node-2" not in one.names()


@needs_psk
async def test_reports_of_a_silent_agent_expire(named: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_connection, "PEER_TIMEOUT", 1.0)
    port = free_port()
    listening, _ = contexts(Secret(SECRET))
    line = encode(ContainerAddressReport("node-2", "127.0.0.2", "n-mesh", (claim("127.0.0.7"),)))
    silent, ended = asyncio.Event(), asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(line)
            await writer.drain()
            await silent.wait()
        finally:
            writer.transport.abort()
            ended.set()

    one = Node(1, port, SECRET)
    named.add("127.0.0.2")
    server = await asyncio.start_server(serve, "127.0.0.2", port, ssl=listening)
    async with running(one):
        await until(lambda: "app@node-2" in one.names())
        server.close()
        await until(lambda: "app@node-2" not in one.names())
        silent.set()
        await ended.wait()


@needs_psk
async def test_an_address_without_the_secret_uses_few_descriptors_and_blocks_no_agent(named: set[str]) -> None:
    port = free_port()
    one, two = Node(1, port, SECRET), Node(2, port, SECRET)
    two.runs(container("app", mesh="127.0.0.7"))
    async with running(one), contextlib.AsyncExitStack() as stack:
        await until(lambda: not socket_is_free(port))
        ended = 0
        for number in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.9", 0))
            stack.callback(writer.close)
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.2 if number < 2 else 10):  # two handshakes can be in progress
                    ended += not await reader.read(1)
        assert ended == 18
        named.add("127.0.0.1")
        async with running(two):
            await until(lambda: "app@node-2" in one.names())


def socket_is_free(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0
