import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from gateway.backoff import BackoffPolicy
from gateway.command_tunnel import link as link_module
from gateway.command_tunnel import listening_process, local_port_connector, start_backoff, stdio_connector
from gateway.command_tunnel.link import CommandLink
from gateway.command_tunnel.options import CommandTunnelOptions
from gateway.contracts.config_types import Duration, HostPort
from gateway.contracts.link import RemoteNetworkId
from gateway.errors import DialError, FailureReason, LinkLostError, TargetPathError, TunnelError
from gateway.processes.tunnel_processes import TunnelProcesses
from gateway.relay.sockets import tune
from tests.support import kubectl

SCRIPT = "[ {port} != 1 ] || { echo broken >&2; exit 4; }; [ {port} != 2 ] || exit 5; echo hello; cat"
FORWARD = (
    sys.executable,
    kubectl.__file__,
    "port-forward",
    "--address=127.0.0.1",
    "service/x",
    "{local_port}:{port}",
)
GOOD, BROKEN, LOGIN = HostPort("h", 3), HostPort("h", 1), HostPort("h", 2)


@asynccontextmanager
async def opened(options: CommandTunnelOptions, targets: Sequence[HostPort] = ()) -> AsyncIterator[CommandLink]:
    async with asyncio.timeout(50), TunnelProcesses() as children:
        link = CommandLink(options, RemoteNetworkId(), children, lambda *_: None)
        async with link.running(targets):
            yield link


def stdio() -> CommandTunnelOptions:
    return CommandTunnelOptions(("sh", "-c", SCRIPT), "stdio", login_exit_codes=(5,))


async def greeting(link: CommandLink, to: HostPort) -> bytes:
    sock = await link.socket(to)
    with sock:
        return await asyncio.get_running_loop().sock_recv(sock, 100)


@pytest.fixture
def long_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengthen the tests of connections, so that a program that exits on a busy machine fails its test."""
    monkeypatch.setattr(stdio_connector, "_TEST_DURATION", 20.0)
    monkeypatch.setattr(stdio_connector, "_FIRST_TEST_DURATION", 20.0)


@pytest.mark.usefixtures("long_tests")
async def test_a_target_that_fails_does_not_affect_another_one() -> None:
    async with opened(stdio()) as link:
        lost = asyncio.ensure_future(link.lost())
        assert await greeting(link, GOOD) == b"hello\n"
        with pytest.raises(DialError, match=r"^h:1: sh ended with exit code 4: broken$"):
            await link.socket(BROKEN)
        assert await greeting(link, GOOD) == b"hello\n"
        assert not lost.done()
        assert set(link.recent_targets()) == {GOOD, BROKEN}


@pytest.mark.usefixtures("long_tests")
async def test_the_link_is_lost_if_each_target_fails() -> None:
    async with opened(stdio()) as link:
        for target in (BROKEN, BROKEN):
            with pytest.raises(LinkLostError, match="sh ended with exit code 4: broken"):
                await link.socket(target)
        lost = await link.lost()
        assert (lost.reason, lost.detail) == (FailureReason.RESET, "sh ended with exit code 4: broken")


async def test_a_lost_link_has_the_reason_of_the_failure() -> None:
    options = CommandTunnelOptions(("sleep", "60", "{local_port}"), "port", start_timeout=Duration(2.0))
    async with opened(options) as link:
        with pytest.raises(TargetPathError, match="did not connect"):
            await link.socket(GOOD)
        assert (await link.lost()).reason is FailureReason.TIMEOUT


async def test_the_dial_of_a_client_fails_when_the_link_closes() -> None:
    async with opened(CommandTunnelOptions(("sleep", "60", "{local_port}"), "port")) as link:
        dial = asyncio.ensure_future(link.socket(GOOD))
        await asyncio.sleep(0.2)
        assert not dial.done()
    with pytest.raises(LinkLostError, match="the tunnel was closed during the dial"):
        await dial


async def test_the_link_continues_if_the_state_of_local_ports_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop, failures = asyncio.get_running_loop(), 0

    def fail(_: object) -> None:
        nonlocal failures
        failures += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with socket.create_server(("127.0.0.1", 0)) as server:
        tune(server)
        async with opened(CommandTunnelOptions(FORWARD, "port", suspect=Duration(0.3))) as link:
            with await link.socket(HostPort(*server.getsockname())) as client:
                accepted, _ = await loop.sock_accept(server)
                monkeypatch.setattr(link_module, "read_local_ports", fail)
                while failures < 3:
                    await asyncio.sleep(0.01)
                with accepted:
                    await loop.sock_sendall(client, b"data")
                    assert await loop.sock_recv(accepted, 100) == b"data"
    found = [each.message for each in caplog.records if each.levelname == "WARNING"]
    warning = (
        "cannot read /proc/net/tcp, so programs that do not respond are not detected: [Errno 24] "
        f"{os.strerror(errno.EMFILE)}: raise the limit on open files, or permit reading this file"
    )
    assert found == [warning]


async def test_the_link_is_not_lost_while_a_client_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"[ ! -e {tmp_path}/full ] || exit 1; touch {tmp_path}/started; cat > /dev/null; echo done"
    loop = asyncio.get_running_loop()
    async with opened(CommandTunnelOptions(("sh", "-c", script), "stdio")) as link:
        lost = asyncio.ensure_future(link.lost())
        with await link.socket(GOOD) as client:
            await loop.sock_sendall(client, b"x" * 100)
            while not (tmp_path / "started").exists():
                await asyncio.sleep(0.01)
            monkeypatch.setattr(stdio_connector, "_TEST_DURATION", 20.0)
            (tmp_path / "full").touch()
            with await link.socket(GOOD) as refused:
                assert await loop.sock_recv(refused, 100) == b""
            with pytest.raises(DialError):
                await link.socket(GOOD)
            assert not lost.done()
            client.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(client, 100) == b"done\n"


@pytest.mark.parametrize(("end", "detail"), [("exit 3", "exit code 3"), ("kill -9 $$", "signal 9")])
async def test_the_link_is_lost_if_the_program_ends_before_output_after_a_success(
    tmp_path: Path, end: str, detail: str
) -> None:
    script = f"[ ! -e {tmp_path}/broken ] || {end}; echo hello; cat"
    async with opened(CommandTunnelOptions(("sh", "-c", script), "stdio")) as link:
        assert await greeting(link, GOOD) == b"hello\n"
        # Wait until the first process has ended. Its success would otherwise clear the failure of the second process.
        while link.status().processes:
            await asyncio.sleep(0.01)
        (tmp_path / "broken").touch()
        # Keep the socket open: the gateway would not count a failure if the client closed the connection first.
        with await link.socket(GOOD) as sock:
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b""
            assert (await link.lost()).detail == f"sh ended with {detail}"


async def test_a_process_that_the_gateway_kills_is_not_a_failure_of_the_target() -> None:
    options = CommandTunnelOptions(("sleep", "1000"), "stdio", suspect=Duration(0.2), lost=Duration(0.3))
    loop = asyncio.get_running_loop()
    async with opened(options) as link:
        with await link.socket(GOOD) as client:
            await loop.sock_sendall(client, b"x")
            assert await loop.sock_recv(client, 1) == b""
        assert link._connector(GOOD).failure is None


async def test_the_pipes_of_a_process_that_exits_before_its_first_client_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stdio_connector, "_FIRST_TEST_DURATION", 0.05)
    async with opened(CommandTunnelOptions(("sleep", "0.5"), "stdio"), [GOOD]) as link:
        started = link._connector(GOOD)
        assert isinstance(started, stdio_connector.StdioConnector)
        assert started._tested is not None
        stream, _ = started._tested
        await stream.child.wait()
        (await link.socket(GOOD)).close()
        assert (stream._input, stream._output) == (-1, -1)


async def test_the_backoff_grows_if_a_program_listens_and_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    # `forgive_every` is long, so that the backoff also grows if a process runs for a long time on a slow machine.
    monkeypatch.setattr(start_backoff, "RECONNECT", BackoffPolicy(first=0.2, floor=0.2, cap=1.6, forgive_every=60))
    script = (
        "import socket, sys\nserver = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while server.accept() and sys.argv[2] != '1': pass\nsys.exit(3)"
    )
    options = CommandTunnelOptions((sys.executable, "-I", "-S", "-c", script, "{local_port}", "{port}"), "port")
    async with opened(options) as link:
        (await link.socket(GOOD)).close()
        flapping = link._connector(BROKEN)
        assert isinstance(flapping, local_port_connector.LocalPortConnector)
        for failures in (1, 2, 3):
            message = ""
            async with asyncio.timeout(30):
                while "exit code 3" not in message:  # the error is "refused" until the gateway notices the exit
                    try:
                        (await link.socket(BROKEN)).close()
                    except DialError as error:
                        message = str(error)
                        if "exit code 3" not in message and error.reason is not FailureReason.REFUSED:
                            raise
                    await asyncio.sleep(0.01)
            while flapping.failure is None:
                await asyncio.sleep(0.01)
            # On a busy machine, the backoff can end before this test tries again.
            assert flapping._retry._backoff.attempts >= failures
            while not flapping._retry.is_over:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("mode", ["port", "stdio"])
async def test_a_file_system_that_does_not_answer_does_not_block_the_event_loop(
    mode: Literal["port", "stdio"], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, answer = asyncio.Queue[None](), threading.Event()
    loop, which = asyncio.get_running_loop(), shutil.which

    def slow_which(name: str, path: str | None = None) -> str | None:
        if path != "/slow":
            return which(name, path=path)
        loop.call_soon_threadsafe(entered.put_nowait, None)
        answer.wait(50)
        return None

    monkeypatch.setenv("PATH", f"/slow:{os.environ['PATH']}")
    monkeypatch.setattr(shutil, "which", slow_which)
    monkeypatch.setattr(start_backoff, "RECONNECT", BackoffPolicy(first=0.01, floor=0.01, cap=0.01, forgive_every=60))
    options = CommandTunnelOptions(
        ("cat", "{local_port}") if mode == "port" else ("cat",), mode, start_timeout=Duration(2.0)
    )
    try:
        async with opened(options) as link:
            with pytest.raises(
                TargetPathError, match=r"command: /slow/cat: the file system did not respond within 1 s"
            ):
                await link.socket(GOOD)
            await entered.get()
            assert (await link.lost()).reason is FailureReason.TIMEOUT
        async with opened(options) as link:
            with pytest.raises(TargetPathError, match="/slow/cat"):
                await link.socket(GOOD)
            assert entered.empty()  # the first call of `which` has not returned, so there is no second call
    finally:
        answer.set()


async def test_a_port_of_another_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(local_port_connector, "reserve_port", lambda: other.getsockname()[1])
        async with opened(CommandTunnelOptions(("sleep", "1000", "{local_port}"), "port")) as link:
            with pytest.raises(TargetPathError, match=r"another program listens on the local port \d+"):
                await link.socket(GOOD)
            assert (await link.lost()).reason is FailureReason.PERMISSION


async def test_targets_that_start_at_the_same_time_have_their_own_programs() -> None:
    loop = asyncio.get_running_loop()
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(6)]
    async with opened(CommandTunnelOptions(FORWARD, "port")) as link:
        targets = [HostPort(*server.getsockname()) for server in servers]
        clients = await asyncio.gather(*(link.socket(each) for each in targets))
        for server, client in zip(servers, clients, strict=True):
            with server, client:
                tune(server)
                accepted, _ = await loop.sock_accept(server)
                with accepted:
                    await loop.sock_sendall(accepted, str(server.getsockname()[1]).encode())
                    assert await loop.sock_recv(client, 100) == str(server.getsockname()[1]).encode()
        assert link.status().processes == len(servers)


async def test_a_lost_link_opens_again_if_one_target_works() -> None:
    async with opened(stdio(), [BROKEN, GOOD]) as link:
        assert await greeting(link, GOOD) == b"hello\n"


@pytest.mark.usefixtures("long_tests")
async def test_a_failed_login_is_fatal_if_no_target_works() -> None:
    with pytest.raises(TunnelError) as caught:
        async with opened(stdio(), [LOGIN]):
            pass
    assert (caught.value.reason, caught.value.fatal) == (FailureReason.AUTH, True)
    with pytest.raises(TunnelError) as caught:
        async with opened(stdio(), [LOGIN, BROKEN]):
            pass
    assert (caught.value.reason, caught.value.fatal) == (FailureReason.RESET, False)


async def test_the_first_connection_is_the_one_that_showed_that_the_program_listens() -> None:
    """The first client gets the connection with which the gateway has tested whether the program listens.

    The target could count a separate test connection, which sends no data, as an aborted login.
    """
    options = CommandTunnelOptions(FORWARD, "port")
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        tune(server)
        target = HostPort(*server.getsockname())
        async with opened(options) as link:
            for word in (b"first", b"second"):
                with await link.socket(target) as client:
                    await loop.sock_sendall(client, word)
                    accepted, _ = await loop.sock_accept(server)
                    with accepted:
                        assert await loop.sock_recv(accepted, 100) == word
            assert link.status().processes == 1


async def test_a_process_is_killed_only_if_each_connection_stalls_and_it_accepts_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening_process, "_FIRST_TIMEOUT", 1.0)
    options = CommandTunnelOptions(FORWARD, "port", suspect=Duration(1.0), lost=Duration(4.0))
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as server:
        tune(server)
        target = HostPort(*server.getsockname())
        async with opened(options) as link:
            with await link.socket(target) as stalled, await link.socket(target) as idle:
                ends = [stack.enter_context((await loop.sock_accept(server))[0]) for _ in range(2)]
                upload = asyncio.create_task(loop.sock_sendall(stalled, bytes(50_000_000)))
                await asyncio.sleep(5)
                await loop.sock_sendall(idle, b"still open")
                # The program can connect the two clients to the target in any order.
                answers = [await loop.sock_recv(end, 10) for end in ends]
                assert b"still open" in answers
                assert link.status().processes == 1
                assert not upload.done()
                more = asyncio.create_task(loop.sock_sendall(idle, bytes(50_000_000)))
                of_target = link._connector(target)
                assert isinstance(of_target, local_port_connector.LocalPortConnector)
                process = of_target._processes[0]
                while not process.has_unused:
                    await asyncio.sleep(0.01)
                assert not any(each.done() for each in (upload, more))
                os.killpg(process.child.pid, signal.SIGSTOP)
                await asyncio.wait({upload, more})
                assert all(isinstance(each.exception(), OSError) for each in (upload, more))


async def test_a_program_that_reads_slowly_gets_the_whole_upload() -> None:
    """The upload takes longer than the option `lost`. The program sends no output before the end of the upload."""
    script = "for _ in 1 2 3 4 5 6 7 8 9 0 1 2 3 4; do head -c 30000 > /dev/null; sleep 0.3; done; wc -c"
    options = CommandTunnelOptions(("sh", "-c", script), "stdio", suspect=Duration(0.2), lost=Duration(3.0))
    loop = asyncio.get_running_loop()
    async with opened(options) as link:
        with await link.socket(GOOD) as client:
            await loop.sock_sendall(client, bytes(500_000))
            client.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(client, 100) == b"80000\n"


async def test_the_process_of_a_target_that_is_not_in_use_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.command_tunnel.link._RECENT", 0.5)
    monkeypatch.setattr("gateway.processes.tunnel_processes._MAX_SLOW", 0)
    monkeypatch.setattr("gateway.processes.tunnel_processes._END_TIMEOUT", 0.1)
    monkeypatch.setattr("gateway.command_tunnel.link._MAX_TICK", 0.1)
    options = CommandTunnelOptions(FORWARD, "port")
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        tune(server)
        target = HostPort(*server.getsockname())
        async with opened(options) as link:
            with await link.socket(target) as client:
                accepted, _ = await loop.sock_accept(server)
                await asyncio.sleep(1.5)
                await loop.sock_sendall(client, b"x")
                assert await loop.sock_recv(accepted, 1) == b"x"
                assert link.status().processes == 1
                accepted.close()
            while link.status().processes:
                await asyncio.sleep(0.05)
            (await link.socket(target)).close()
            assert link.status().processes == 1
