"""Tests the file that stores events: restarts, damaged lines, failed writes, and a slow disk."""

import asyncio
import errno
import fcntl
import json
import logging
import os
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ops import events_file
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.events_file import LOCK_NAME, NAME, EventsFile
from gateway.ops.events_file_reader import parse
from gateway.ops.file_lock import lock_file

ORDERS = EventSubject(SubjectType.BACKEND, "orders")
DB = EventSubject(SubjectType.TARGET, "orders", "db:3306")
WITHIN = 20.0


def lines(log: EventLog) -> list[str]:
    return [each.line for each in log.latest()]


async def loaded(folder: Path) -> EventLog:
    log = EventLog()
    file = EventsFile(folder, log)
    await file.load()
    file.close()
    return log


async def test_events_survive_a_restart(tmp_path: Path) -> None:
    log = EventLog()
    file = EventsFile(tmp_path / "state", log)
    await file.load()
    log.observe(ORDERS, "down", "refused", "cannot connect")
    await file.write()
    log.observe(DB, "down")
    await file.write()
    assert lines(await loaded(tmp_path / "state")) == lines(log)
    assert (tmp_path / "state" / NAME).stat().st_mode & 0o777 == 0o600


async def test_a_damaged_file_costs_only_the_damaged_lines(tmp_path: Path) -> None:
    log = EventLog()
    file = EventsFile(tmp_path, log)
    log.observe(ORDERS, "down")
    await file.write()
    path = tmp_path / NAME
    good = json.loads(path.read_text())
    changes = ({"id": "x"}, {"id": 1.5}, {"time": 5}, {"time": "9999999"}, {"type": "none"}, {"state": None})
    damaged = [json.dumps({**good, "id": good["id"] + 1, **each}) for each in changes]
    path.write_bytes(b"\xff\xfe\n[]\n{\n" + path.read_bytes() + "\n".join(damaged).encode() + b'\n{"id": ')
    after = await loaded(tmp_path)
    assert lines(after) == lines(log)
    file = EventsFile(tmp_path, after)
    after.observe(ORDERS, "up")
    await file.write()
    assert [each.state for each in (await loaded(tmp_path)).latest()] == ["down", "up"]


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_text_raises_an_error(text: str) -> None:
    assert list(parse(text, time.time())) == []


@pytest.mark.parametrize("changed", range(5))
@pytest.mark.parametrize("number", [(1 << 53) - 2, 10**400, 3000.9, 1, 2500, 3500, 4000])
def test_a_damaged_id_costs_at_most_two_events(changed: int, number: float) -> None:
    clock = iter(range(1, 6))
    log = EventLog(clock=lambda: next(clock))
    for state in "abcde":
        log.record(ORDERS, state)
    damaged = lines(log)
    damaged[changed] = json.dumps(json.loads(damaged[changed]) | {"id": number})
    found = list(parse("\n".join(damaged), 5.0))
    assert len(found) >= 3
    assert all(one.id < other.id <= 86_405_000 for one, other in pairwise(found))


async def test_events_survive_a_boot_with_an_early_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog()
    log.record(ORDERS, "down")
    await EventsFile(tmp_path, log).write()
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert lines(await loaded(tmp_path)) == lines(log)


async def test_the_file_has_a_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_file, "MAX_EVENTS", 10)
    log = EventLog(limit=10)
    file = EventsFile(tmp_path, log)
    for number in range(100):
        log.record(ORDERS, str(number))
        await file.write()
        assert (tmp_path / NAME).read_text().count("\n") <= 20
    assert [each.state for each in (await loaded(tmp_path)).latest()][-10:] == [
        str(number) for number in range(90, 100)
    ]


async def test_the_unit_writes_each_event(tmp_path: Path) -> None:
    log = EventLog()
    unit = asyncio.create_task(EventsFile(tmp_path, log).run(lambda: None))
    for state in ("down", "up"):
        log.observe(ORDERS, state)
        async with asyncio.timeout(WITHIN):
            while not (tmp_path / NAME).exists() or state not in (tmp_path / NAME).read_text():
                await asyncio.sleep(0.01)
    unit.cancel()
    await asyncio.wait({unit})
    assert log.watchers == []


async def test_a_file_that_another_process_uses_stays_unchanged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, 2); print(flush=True); sys.stdin.read()"
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path / LOCK_NAME), stdin=PIPE, stdout=PIPE
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        async with asyncio.timeout(WITHIN):
            await other.stdout.readline()
        (tmp_path / NAME).write_text("theirs")
        log = EventLog()
        file = EventsFile(tmp_path, log)
        await file.load()
        log.observe(ORDERS, "down")
        await file.write()
        assert (tmp_path / NAME).read_text() == "theirs"
        assert [each.levelname for each in caplog.records if "another gateway" in each.message] == ["WARNING"]
        other.stdin.close()
        async with asyncio.timeout(WITHIN):
            await other.wait()
    finally:
        if other.returncode is None:
            other.kill()
            await other.wait()
    after = EventLog()
    file = EventsFile(tmp_path, after)
    await file.load()
    after.observe(ORDERS, "down")
    await file.write()
    file.close()
    assert lines(await loaded(tmp_path)) == lines(after)


async def test_a_folder_that_is_not_writable_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    log = EventLog()
    file = EventsFile(tmp_path / "file", log)
    with caplog.at_level(logging.INFO):
        await file.load()
        for state in ("down", "up"):
            log.observe(ORDERS, state)
            await file.write()
    assert len([each for each in caplog.records if "state_dir" in each.message]) == 1


@pytest.mark.parametrize(
    ("code", "level", "remedy"),
    [
        (errno.ENOSPC, "WARNING", "free up space in the file system of gateway.state_dir"),
        (errno.EIO, "WARNING", "set gateway.state_dir to a writable directory"),
        (errno.EROFS, "INFO", ""),
    ],
)
async def test_a_write_that_fails_is_reported_until_a_later_one_succeeds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    level: str,
    remedy: str,
) -> None:
    log = EventLog()
    file = EventsFile(tmp_path, log)

    def fails(path: Path, text: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(events_file, "_RETRY_INTERVAL", 0.05)
    with caplog.at_level(logging.INFO), monkeypatch.context() as full:
        full.setattr(events_file, "replace_file", fails)
        log.observe(ORDERS, "down")
        await file.write()
        await file.write()
    assert [each.levelname for each in caplog.records if "survive a restart" in each.message] == [level]
    expected = f"events will not survive a restart: {tmp_path / NAME}: {os.strerror(code)}: {remedy}"
    assert file.warnings == ([expected] if remedy else [])
    if not remedy:
        log.observe(ORDERS, "up")
    unit = asyncio.create_task(file.run(lambda: None))
    async with asyncio.timeout(WITHIN):
        while file.warnings or not (tmp_path / NAME).exists():
            await asyncio.sleep(0.01)
    unit.cancel()
    await asyncio.wait({unit})
    file.close()
    assert lines(await loaded(tmp_path)) == lines(log)


@pytest.fixture(autouse=True)
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengthen the timeouts of reads and writes, because the disk can be busy."""
    monkeypatch.setattr(events_file, "_READ_TIMEOUT", WITHIN)
    monkeypatch.setattr(events_file, "_WRITE_TIMEOUT", WITHIN)


@pytest.fixture
def slow_disk(long_timeouts: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Simulate a file system that does not respond until the test sets the returned `threading.Event`."""
    ready = threading.Event()

    def lock(path: Path) -> int:
        assert ready.wait(WITHIN)
        return lock_file(path)

    monkeypatch.setattr(events_file, "lock_file", lock)
    monkeypatch.setattr(events_file, "_READ_TIMEOUT", 0.05)
    try:
        yield ready
    finally:
        ready.set()


async def test_a_slow_disk_at_the_start_costs_no_event(
    tmp_path: Path, slow_disk: threading.Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = EventLog()
    before.observe(ORDERS, "down")
    (tmp_path / NAME).write_text("".join(f"{each}\n" for each in lines(before)))
    log = EventLog()
    file = EventsFile(tmp_path, log)
    with caplog.at_level(logging.INFO):
        await file.load()
        log.observe(DB, "down")
        await file.write()
    assert [each.message for each in caplog.records if "state_dir" in each.message] == [
        "events stay in memory until the file system of gateway.state_dir responds"
    ]
    assert (tmp_path / NAME).read_text().splitlines() == lines(before)
    slow_disk.set()
    monkeypatch.setattr(events_file, "_READ_TIMEOUT", WITHIN)
    async with asyncio.timeout(WITHIN):
        while (tmp_path / NAME).read_text().splitlines() == lines(before):
            await file.write()
            await asyncio.sleep(0.01)
    file.close()
    assert [(each.subject, each.state) for each in log.latest()] == [(ORDERS, "down"), (DB, "down")]
    assert lines(await loaded(tmp_path)) == lines(log)


async def test_a_slow_disk_does_not_hide_that_another_process_uses_the_file(
    tmp_path: Path, slow_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).write_text("theirs")
    log = EventLog()
    file = EventsFile(tmp_path, log)
    await file.load()

    def locked(path: Path, operation: int) -> None:
        raise BlockingIOError

    monkeypatch.setattr(fcntl, "lockf", locked)
    slow_disk.set()
    for number in range(20):
        log.record(ORDERS, str(number))
        await file.write()
        await asyncio.sleep(0.01)
    assert (tmp_path / NAME).read_text() == "theirs"


async def test_a_file_that_cannot_be_read_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).write_text("old")
    log = EventLog()
    file = EventsFile(tmp_path, log)

    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(events_file, "read_events", fails)
        await file.load()
        log.observe(ORDERS, "down")
        await file.write()
        assert (tmp_path / NAME).read_text() == "old"
    log.observe(ORDERS, "up")
    await file.write()
    file.close()
    assert lines(await loaded(tmp_path)) == lines(log)
