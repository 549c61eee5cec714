"""Tests of child processes: environment, output, standard streams, and exit."""

import asyncio
import fcntl
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.processes.child_environment import environment_of_user
from gateway.processes.child_process import ChildProcess, exit_error, has_begun_to_exit
from gateway.processes.command_template import fill_placeholders
from gateway.processes.output_log import OutputLog
from gateway.processes.stdio_stream import StdioStream
from gateway.processes.tunnel_processes import TunnelProcesses


@pytest.fixture
async def children() -> AsyncIterator[TunnelProcesses]:
    async with asyncio.timeout(50), TunnelProcesses() as made:
        yield made


async def shell(children: TunnelProcesses, script: str) -> StdioStream:
    return await StdioStream.start(children, ["sh", "-c", script], "/bin/sh", environment_of_user(()), lambda _: None)


async def everything(stream: StdioStream) -> bytes:
    received = b""
    while data := await stream.read():
        received += data
    return received


async def test_a_program_gets_only_the_permitted_variables(
    children: TunnelProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_PROFILE", "GATEWAY_BACKEND_ORDERS", "HOME"):
        monkeypatch.setenv(name, "x")
    environment = environment_of_user(["AWS_PROFILE", "NOT_SET"])
    stream = await StdioStream.start(children, ["env"], "/usr/bin/env", environment, lambda _: None)
    names = {line.partition("=")[0] for line in (await everything(stream)).decode().splitlines()}
    stream.close()
    assert {"AWS_PROFILE", "HOME", "PATH"} <= names
    assert names <= {"AWS_PROFILE", "HOME", "PATH", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ"}


async def test_a_program_does_not_ignore_the_end_of_its_reader(children: TunnelProcesses) -> None:
    stream = await StdioStream.start(
        children, ["grep", "SigIgn", "/proc/self/status"], "/bin/grep", environment_of_user(()), lambda _: None
    )
    ignored = int((await everything(stream)).split()[1], 16)  # bit n - 1 is signal n
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)
    stream.close()


async def test_the_name_of_a_program_is_not_the_file_that_is_executed(children: TunnelProcesses) -> None:
    command = ["/absent/name", "-c", 'echo "$0"']
    stream = await StdioStream.start(children, command, "/bin/sh", environment_of_user(()), lambda _: None)
    assert await everything(stream) == b"/absent/name\n"
    stream.close()


async def test_the_output_continues_after_the_end_of_the_input(children: TunnelProcesses) -> None:
    stream = await shell(children, "cat > /dev/null; head -c 300000 /dev/zero")
    await stream.write(b"x" * 300_000)
    await stream.end()
    assert await everything(stream) == bytes(300_000)
    stream.close()


async def test_the_input_continues_after_the_end_of_the_output(children: TunnelProcesses, tmp_path: Path) -> None:
    stream = await shell(children, f"exec >&-; cat > {tmp_path}/received")
    assert await everything(stream) == b""
    await stream.write(b"x" * 300_000)
    await stream.end()
    await stream.child.wait()
    assert (tmp_path / "received").stat().st_size == 300_000
    stream.close()


@pytest.mark.parametrize(
    "script",
    [
        "echo x; exit 3",
        "echo x; kill $$",
        "echo x; exec >&-; sleep 0.2; exit 3",
        "sleep 1000 & echo x; sleep 3; exit 3",  # After `exit 3`, `sleep 1000` keeps the output open.
    ],
)
async def test_the_output_of_a_program_that_fails_is_not_complete(children: TunnelProcesses, script: str) -> None:
    stream = await shell(children, script)
    assert await stream.read() == b"x\n"
    with pytest.raises(ConnectionResetError):
        await stream.read()
    stream.abort()


async def test_data_that_the_program_has_not_read_is_counted(children: TunnelProcesses) -> None:
    stream = await shell(children, "read line; echo $line; sleep 1000")
    await stream.write(b"a\nbc")
    assert await stream.read() == b"a\n"
    assert stream.unread == 2 or stream.unread == 0  # noqa: PLR1714 - some shells also read the second line
    writing = asyncio.create_task(stream.write(b"x" * 300_000))
    while stream.unread < 1000:
        await asyncio.sleep(0.01)
    writing.cancel()
    assert not stream.was_reset
    stream.abort()
    await stream.child.wait()


async def test_the_last_line_explains_an_exit(children: TunnelProcesses) -> None:
    stream = await shell(children, "echo first >&2; printf '\\033[1mno route\\n\\n' >&2; exit 7")
    await stream.child.wait()
    error = exit_error(["/x/cloud"], stream.child, [7, 8])
    assert (str(error), error.reason, error.fatal) == ("cloud ended with exit code 7: ?[1mno route", "auth", True)
    assert not exit_error(["/x/cloud"], stream.child, []).fatal
    stream.close()


async def test_an_exit_is_noticed_while_another_process_holds_the_output_open(children: TunnelProcesses) -> None:
    stream = await shell(children, "sleep 1000 & echo why >&2; exit 5")
    assert await stream.child.exits_within(20)
    assert str(exit_error(["/x/cloud"], stream.child, [])) == "cloud ended with exit code 5: why"
    stream.abort()


async def test_a_process_that_has_exited_is_noticed_at_once(children: TunnelProcesses) -> None:
    stream = await shell(children, "exit 5")
    while is_running(stream.child.pid):  # Block the event loop until the process has exited.
        time.sleep(0.01)  # noqa: ASYNC251
    assert await stream.child.exits_within(0)
    stream.abort()


async def test_processes_that_a_program_has_started_end_with_it(children: TunnelProcesses) -> None:
    stream = await shell(children, "sleep 1000 < /dev/null > /dev/null 2>&1 & echo $!")
    started = int(await stream.read())
    stream.close()
    while is_running(started):
        await asyncio.sleep(0.02)


async def test_a_cancelled_stop_kills_the_program(children: TunnelProcesses) -> None:
    stream = await shell(children, "trap '' TERM; echo; sleep 1000 & wait; sleep 1000")
    await stream.read()
    stopping = asyncio.create_task(stream.child.stop())
    await asyncio.sleep(0.1)
    assert is_running(stream.child.pid)
    stopping.cancel()
    await asyncio.wait({stopping})
    assert stopping.cancelled()
    while is_running(stream.child.pid):
        await asyncio.sleep(0.02)
    stream.abort()


async def test_no_signal_is_sent_after_the_process_id_is_released(
    children: TunnelProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await shell(children, "echo x")
    while len(children):
        await asyncio.sleep(0.01)
    signals: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _: signals.append(group))
    with pytest.raises(ProcessLookupError):
        os.kill(stream.child.pid, 0)
    stream.abort()
    await stream.child.stop()
    assert signals == []


async def test_a_watchdog_that_is_killed_is_replaced(children: TunnelProcesses) -> None:
    stream = await shell(children, "echo; sleep 1000")
    await stream.read()
    watchdogs = watchdogs_of(os.getpid())
    assert len(watchdogs) == 1
    os.kill(watchdogs[0], signal.SIGKILL)
    while not (found := set(watchdogs_of(os.getpid())) - set(watchdogs)):
        await asyncio.sleep(0.02)
    assert len(found) == 1
    stream.abort()


async def test_much_output_does_not_block_the_event_loop() -> None:
    lines_by_turn = Counter[int]()
    turn = 0
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(writing, b"x\n" * 400_000)
    process = subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)  # noqa: ASYNC220 - does not wait
    child = ChildProcess(process, reading, lambda _: lines_by_turn.update([turn]))
    try:
        async with asyncio.timeout(50):
            while lines_by_turn.total() < 2000:
                turn += 1
                await asyncio.sleep(0)
        assert max(lines_by_turn.values()) <= 200
    finally:
        os.close(writing)
        await child.stop()


async def test_few_programs_may_ignore_the_end_of_their_connection(
    children: TunnelProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.processes.tunnel_processes._END_TIMEOUT", 0.2)
    monkeypatch.setattr("gateway.processes.tunnel_processes._MAX_SLOW", 1)
    for _ in range(3):
        (await shell(children, "exec sleep 1000")).close()
    while len(children) > 1:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    assert len(children) == 1


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def watchdogs_of(parent: int) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            of = int((process / "stat").read_text().rpartition(") ")[2].split()[1])
            if of == parent and b"process_group_watchdog.py" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_the_log_of_a_program_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    output = OutputLog("cloud")
    for number in range(1000):
        output.on_line(f"line {number}")
    assert [vars(record).get("line") for record in caplog.records] == [*(f"line {at}" for at in range(20)), None]


def test_placeholders_are_replaced_once() -> None:
    values = {"host": "{port}", "port": "1"}
    assert fill_placeholders(["{host}:{port}", "${host}", '{"a":"{host}"}'], values) == (
        "{port}:1", "${host}", '{"a":"{port}"}',
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pending", "state", "flags", "expected"),
    [
        ("0000000000000000", "S", 0x400000, False),
        ("0000000000004000", "S", 0x400000, False),  # SIGTERM, which the process can ignore
        ("0000000000000100", "R", 0x400000, True),  # SIGKILL
        ("0000000000000000", "R", 0x400004, True),
        ("0000000000000000", "Z", 0x40000C, True),
    ],
)
def test_a_process_that_is_killed_or_has_begun_to_exit_is_exiting(
    pending: str, state: str, flags: int, expected: bool
) -> None:
    status = (
        f"Name:\tprogram\nState:\t{state}\nSigPnd:\t{pending}\nShdPnd:\t0000000000000000\nSigBlk:\t0000000000000100\n"
    )
    assert has_begun_to_exit(status, f"7 (a ) b) {state} 1 7 7 0 -1 {flags} 120 0 0\n") is expected
