"""Tests the gateway's connections to several SSH servers; compares the results with the table in docs/interop.md.

`INTEROP_TABLE=1 pytest tests/integration/test_interop.py` writes the table. Each transfer rate is then the median of
three transfers, and the table also contains the rates of `ssh -L`.
"""

import asyncio
import contextlib
import os
import re
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from gateway.contracts.config_types import HostPort
from gateway.demo.server_process import ServerProcess, find, free_port
from gateway.errors import TargetPathError
from gateway.metric_types import Histogram
from gateway.relay.sockets import reset, tune
from gateway.ssh import asyncssh_transport, ssh_connection
from gateway.ssh.algorithms import CIPHERS
from gateway.ssh.pool import SshConnectionPool
from tests.support.files import REPOSITORY
from tests.support.requirements import need, need_data_plane
from tests.support.ssh_peers import AsyncSsh, Certified, Dropbear, Go, OpenSsh, Paramiko, SeveralKeys
from tests.support.ssh_sessions import PATIENT, opened, options

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

Peer = OpenSsh | AsyncSsh
TRAFFIC = REPOSITORY / "tests" / "support" / "traffic.py"
PAGE = REPOSITORY / "docs" / "interop.md"
WRITING = "INTEROP_TABLE" in os.environ
BULK = 200_000_000
CONNECTIONS = 200
COLUMNS = (
    "server", "software version", "cipher", "data plane", "MB/s", "`ssh -L`, MB/s", "rekeys", "200 connections, s",
    "half-closes", "rekeys by server + by gateway", "killed",
)  # fmt: skip
LASTING = ("cipher", "data plane", "half-closes", "killed")
"""The columns that do not depend on the machine. Their values in docs/interop.md must equal the results."""


@dataclass(frozen=True)
class Row:
    """One row of the table: a server and its settings.

    Args:
        name: The text of the first cell of the row.
        make: A function that creates the server in a directory. Its optional argument `rekey` is the number of bytes
            after which the server starts a key exchange.
        new_keys: The minimum number of key exchanges that the server must start while the test transfers 200 MB in
            both directions.
    """

    name: str
    make: Callable[..., Peer]
    new_keys: int = 0


ALIVE = "ClientAliveInterval 1\nClientAliveCountMax 1"
ROWS = [
    Row("OpenSSH", OpenSsh),
    Row("OpenSSH, `RekeyLimit 1M`", partial(OpenSsh, first="RekeyLimit 1M"), new_keys=100),
    Row("OpenSSH, `Compression yes`", partial(OpenSsh, first="Compression yes")),
    *(Row(f"OpenSSH, `Ciphers {cipher}`", partial(OpenSsh, first=f"Ciphers {cipher}")) for cipher in CIPHERS),
    Row("OpenSSH, `MaxSessions 1`", partial(OpenSsh, first="MaxSessions 1")),
    Row("OpenSSH, `ClientAliveInterval 1`, `ClientAliveCountMax 1`", partial(OpenSsh, first=ALIVE)),
    Row("OpenSSH, host certificate and user certificate", Certified),
    Row("OpenSSH, three host keys, one of them known", SeveralKeys),
    Row("Dropbear", Dropbear),
    Row("asyncssh", AsyncSsh),
    Row("paramiko", Paramiko),
    Row("Go, `x/crypto/ssh`", Go),
]
MEASURED: dict[str, dict[str, str]] = {}


def documented() -> dict[str, dict[str, str]]:
    """Return the rows of the table in docs/interop.md, by the text of their first cell."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(head) == COLUMNS
    return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows}


def note(row: Row, **cells: str) -> None:
    """Record results of a row for the table. `cells` maps names in `COLUMNS` to results.

    Without `INTEROP_TABLE`, the results in the columns `LASTING` must equal those in docs/interop.md.
    """
    MEASURED.setdefault(row.name, {"server": row.name}).update(cells)
    if not WRITING:
        page = documented()[row.name]
        lasting = {column: cell for column, cell in cells.items() if column in LASTING}
        assert {column: page[column] for column in lasting} == lasting


def test_the_page_has_exactly_the_tested_rows() -> None:
    if not WRITING:
        assert list(documented()) == [row.name for row in ROWS]


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Write the table after all tests if `INTEROP_TABLE` is set. A cell without a result is empty."""
    need_data_plane()  # the tests compare the table with results of the native engine
    yield
    if WRITING:
        text = PAGE.read_text()
        lines = [COLUMNS, ["---", "---", "---", "---", "---:", "---:", "---:", "---:", "---", "---:", "---"]]
        lines += [[MEASURED.get(row.name, {}).get(column, "") for column in COLUMNS] for row in ROWS]
        made = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        PAGE.write_text(re.sub(r"(?m)^\|(?s:.*)\|$", lambda _: made, text))


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of `traffic.py serve`, which runs as a separate process."""
    port = free_port()
    process = ServerProcess(
        [sys.executable, str(TRAFFIC), "serve", str(port)], tmp_path_factory.mktemp("traffic") / "log"
    )
    process.start(port)
    yield port
    process.stop()


@pytest.fixture(params=ROWS, ids=[re.sub(r"\W+", "-", row.name).strip("-") for row in ROWS])
def row(request: pytest.FixtureRequest) -> Row:
    chosen: Row = request.param
    return chosen


@contextlib.contextmanager
def serving(peer: Peer) -> Iterator[Peer]:
    peer.start()
    try:
        yield peer
    finally:
        peer.stop()


@pytest.fixture
def peer(row: Row, tmp_path: Path) -> Iterator[Peer]:
    with serving(row.make(tmp_path / "peer")) as server:
        yield server


@contextlib.asynccontextmanager
async def forwarding(link: SshConnectionPool, to: int) -> AsyncIterator[int]:
    """Run a listener that forwards its clients over the link to port `to`; yield the port of the listener."""
    loop = asyncio.get_running_loop()
    joining: set[asyncio.Task[None]] = set()

    async def join(client: socket.socket) -> None:
        try:
            await link.join(client, HostPort("127.0.0.1", to), Histogram())
        except (TargetPathError, OSError):
            reset(client)

    async def accept() -> None:
        while True:
            client, _ = await loop.sock_accept(listener)
            tune(client)
            task = asyncio.ensure_future(join(client))
            joining.add(task)
            task.add_done_callback(joining.discard)

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        accepting = asyncio.ensure_future(accept())
        try:
            yield listener.getsockname()[1]
        finally:
            tasks = [accepting, *joining]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def clients(*arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `traffic.py` with these arguments, in a new session.

    The new session gets its own share of the processor time from the Linux scheduler (autogroup, sched(7)).
    """
    words = [str(TRAFFIC), *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def run(*arguments: object) -> str:
    """Run `traffic.py` with these arguments until the program exits; return the output."""
    async with clients(*arguments) as process:
        said, _ = await process.communicate()
        assert process.returncode == 0, arguments
        return said.decode().strip()


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The number of key exchanges that the gateway (`us`) and the server (`them`) have started.

    The first key exchange of each connection is not counted.
    """
    asked = {"us": 0, "them": 0}
    ours: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
    answered: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()
    start, finish = (
        ssh_connection.SshConnection._send_kexinit,
        ssh_connection.SshConnection.send_newkeys,
    )

    def starting(self: Any) -> None:
        # If the server has started the key exchange, asyncssh has already changed `_server_kexinit`.
        ours[self] = self._server_kexinit == answered.get(self)
        start(self)

    def finishing(self: Any, k: bytes, h: bytes) -> None:
        if self in answered:
            asked["us" if ours[self] else "them"] += 1
        answered[self] = self._server_kexinit
        finish(self, k, h)

    monkeypatch.setattr(ssh_connection.SshConnection, "_send_kexinit", starting)
    monkeypatch.setattr(ssh_connection.SshConnection, "send_newkeys", finishing)
    return asked


def through_ssh(peer: Peer, cipher: str, backend: int, folder: Path) -> float:
    """Transfer 200 MB in both directions through `ssh -L` with this cipher; return the duration in seconds."""
    need(find("ssh") is not None, "ssh (package openssh-client)")
    port = free_port()
    ssh = ServerProcess(
        ["ssh", "-F", "none", "-N", "-c", cipher, "-i", str(peer.client_key), "-p", str(peer.port),
         "-o", f"UserKnownHostsFile={peer.known_hosts}", "-o", "GlobalKnownHostsFile=none",
         "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
         "-L", f"127.0.0.1:{port}:127.0.0.1:{backend}", f"{peer.user}@127.0.0.1"],
        folder / "ssh.log",
    )  # fmt: skip
    try:
        ssh.start(port)
        done = subprocess.run(
            [sys.executable, TRAFFIC, "both-directions", str(port), str(BULK)],
            capture_output=True, text=True, check=True, timeout=100, start_new_session=True,
        )  # fmt: skip
    finally:
        ssh.stop()
    return float(done.stdout)


def rate(seconds: list[float]) -> str:
    return f"{2 * BULK / 1e6 / statistics.median(seconds):,.0f}"


async def test_bulk_transfers_in_both_directions_at_the_same_time(
    row: Row, peer: Peer, backend: int, tmp_path: Path, exchanges: dict[str, int]
) -> None:
    ours, sshs = [], []
    for _ in range(3 if WRITING else 1):
        exchanges["them"] = 0
        async with opened(options(peer)) as link, forwarding(link, backend) as port:
            details = {key: str(value) for key, value in link.status().details.items()}
            ours.append(float(await run("both-directions", port, BULK)))
        if WRITING:
            sshs.append(await asyncio.to_thread(through_ssh, peer, details["cipher"], backend, tmp_path))
    cells = {
        "software version": details["server"].removeprefix("SSH-2.0-"),
        "cipher": details["cipher"].split("@")[0],
    }
    note(row, **cells, **{"data plane": details["data_plane"], "rekeys": str(exchanges["them"]), "MB/s": rate(ours)})
    if sshs:
        note(row, **{"`ssh -L`, MB/s": rate(sshs)})
    assert exchanges["us"] == 0
    assert exchanges["them"] >= row.new_keys


async def test_two_hundred_connections_open_at_the_same_time(row: Row, peer: Peer, backend: int) -> None:
    async with opened(options(peer)) as link:
        async with forwarding(link, backend) as port:
            half_closes = await run("ask", port)
            took = float(await run("echoes", port, CONNECTIONS, "half" if half_closes == "kept" else "whole"))
        async with asyncio.timeout(30):
            while link.status().channels:
                await asyncio.sleep(0.02)
    note(row, **{"200 connections, s": f"{took:.1f}", "half-closes": half_closes})


async def test_key_exchanges_by_either_side_during_transfers(
    row: Row, tmp_path: Path, backend: int, monkeypatch: pytest.MonkeyPatch, exchanges: dict[str, int]
) -> None:
    with serving(row.make(tmp_path / "peer", rekey=4 << 20)) as peer:
        async with opened(options(peer)) as link, forwarding(link, backend) as port:
            await run("both-directions", port, peer.moves_for_keys)
        theirs = exchanges["them"]
        assert (theirs > 0, exchanges["us"]) == (True, 0)
        monkeypatch.setattr(asyncssh_transport, "REKEY_BYTES", 512 << 10)
        async with opened(options(peer)) as link, forwarding(link, backend) as port:
            await run("both-directions", port, 16 << 20)
    note(row, **{"rekeys by server + by gateway": f"{theirs} + {exchanges['us']}"})
    assert exchanges["us"] > 5


async def test_a_killed_connection_resets_its_clients_and_is_replaced(row: Row, peer: Peer, backend: int) -> None:
    async def killed(kill: Callable[[], object]) -> None:
        async with (
            opened(options(peer, keepalive=PATIENT)) as link,
            forwarding(link, backend) as port,
            clients("endless", port, 4) as program,
        ):
            assert program.stdout is not None
            assert await program.stdout.readline() == b"flowing\n"
            await asyncio.to_thread(kill)
            async with asyncio.timeout(30):
                await link.lost()
                said, _ = await program.communicate()
            assert (said.split(), program.returncode) == ([b"reset"] * 4, 0)

    async def serves() -> None:
        async with opened(options(peer)) as link, forwarding(link, backend) as port:
            await run("echoes", port, 1, "whole")

    if peer.forks:
        await killed(peer.kill_sessions)
        await serves()
    await killed(peer.crash)
    peer.start()
    await serves()
    note(row, killed="connection, server" if peer.forks else "server")


@pytest.mark.parametrize("known", SeveralKeys.KINDS)
async def test_any_host_key_of_several_may_be_the_known_one(tmp_path: Path, backend: int, known: str) -> None:
    with serving(SeveralKeys(tmp_path / "peer", known=known)) as peer:
        async with opened(options(peer)) as link, forwarding(link, backend) as port:
            await run("echoes", port, 1, "half")


async def test_keepalive_requests_of_a_server_are_answered(tmp_path: Path, backend: int) -> None:
    with serving(OpenSsh(tmp_path / "peer", first="ClientAliveInterval 1\nClientAliveCountMax 2")) as peer:
        async with opened(options(peer, keepalive=PATIENT)) as link, asyncio.timeout(40):
            transport = link._connections[0]._conn.own_transport  # type: ignore[attr-defined]
            heard: set[float] = set()
            # `heard` contains the arrival times of two earlier packets and of four keepalive requests. With
            # ClientAliveCountMax 2, sshd would disconnect after two unanswered requests.
            while len(heard) < 6:
                assert link.status().connections == 1
                heard.add(transport.last_heard(60.0))
                await asyncio.sleep(0.02)
            async with forwarding(link, backend) as port:
                await run("echoes", port, 1, "half")
