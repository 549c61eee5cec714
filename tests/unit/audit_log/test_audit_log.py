"""Tests the audit log without a running gateway."""

import asyncio
import errno
import json
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from gateway.app import service_audit_log
from gateway.app.changed_config_keys import changed_config_keys
from gateway.app.service import GatewayService
from gateway.audit_log.events import AuditLogEvent, encode_line
from gateway.audit_log.log_destination import LogDestination
from gateway.audit_log.recorder import AuditLogRecorder
from gateway.audit_log.refusal_event_limiter import OTHERS, WINDOW, RefusalEventLimiter, RefusalKey
from gateway.audit_log.writer import AuditLogWriter
from gateway.config import Config, ConfigSources, load
from gateway.config.sections import AuditLogSection
from gateway.contracts.states import ConfigTrigger
from gateway.errors import ConfigError


def refused(source: str = "10.0.0.1") -> RefusalKey:
    return RefusalKey("orders", source, None, None, None, "not_allowed")


def test_a_line_is_always_plain_ascii() -> None:
    hostile = 'web\x1b[2J\n{"event":"admin"}\x7f\x9b\u202e\ud800é"\\'
    written = encode_line(AuditLogEvent(0.0015, "connection", {"consumer": hostile, "seconds": 1.5}), "site-a")
    assert written.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in written[:-1])
    assert json.loads(written) == {
        "time": "1970-01-01T00:00:00.001Z", "event": "connection", "instance": "site-a", "consumer": hostile,
        "seconds": 1.5,
    }  # fmt: skip


def test_refusals_are_written_immediately_and_then_once_a_second() -> None:
    refusals = RefusalEventLimiter()
    assert refusals.add(refused(), 10.0) == refused()
    assert [refusals.add(refused(), 10.0 + each / 10) for each in range(1, 5)] == [None] * 4
    assert refusals.add(refused("10.0.0.2"), 10.5) == refused("10.0.0.2")
    assert refusals.due(10.9) == []
    assert refusals.due(10.0 + WINDOW) == [(refused(), 4)]
    assert refusals.add(refused(), 11.1) is None
    assert refusals.due(11.6) == []
    assert refusals.due(12.1) == [(refused(), 1)]
    assert refusals.due(13.2) == []
    assert not refusals
    assert refusals.add(refused(), 13.3) == refused()


def test_refusals_from_too_many_sources_are_counted_as_others() -> None:
    refusals = RefusalEventLimiter()
    reported = sum(refusals.add(refused(f"10.0.{each // 256}.{each % 256}"), 1.0) is not None for each in range(5000))
    rest = refusals.drain()
    assert reported + sum(count for _, count in rest) == 5000
    assert {each.source for each, _ in rest} == {OTHERS}
    assert not refusals


async def test_flush_records_counted_refusals() -> None:
    class Kept(list[AuditLogEvent]):
        def put(self, event: AuditLogEvent) -> None:
            self.append(event)

    recorder, kept = AuditLogRecorder(), Kept()
    recorder.record_refusal(refused())
    recorder.record("start")
    assert not recorder.enabled
    recorder.sink = kept
    for _ in range(3):
        recorder.record_refusal(refused())
    recorder.flush()
    assert [(each.name, each.fields["count"]) for each in kept] == [("refused", 1), ("refused", 2)]


def test_a_file_is_private_appended_to_and_reopened_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    destination = LogDestination(path)
    destination.write(deque([b"one\n", b"two\n"]))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.rename(tmp_path / "audit.jsonl.1")
    destination.write(deque([b"three\n"]))
    destination.close()
    LogDestination(path).write(deque([b"four\n"]))
    assert (tmp_path / "audit.jsonl.1").read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\nfour\n"


def test_an_incomplete_line_is_completed_or_terminated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.jsonl"
    destination, lines = LogDestination(path), deque([b"one\n", b"two\n", b"three\n"])
    real = os.write
    room = [6]

    def write(fd: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        done = real(fd, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        destination.write(lines)
    assert (path.read_bytes(), list(lines)) == (b"one\ntw", [b"two\n", b"three\n"])
    room[0] = 3
    with pytest.raises(OSError, match="No space"):
        destination.write(lines)
    assert (path.read_bytes(), list(lines)) == (b"one\ntwo\nt", [b"three\n"])
    # Another destination writes to the same file: it first adds a newline after the incomplete line. After a
    # rotation, the first destination writes its whole line again, to the new file.
    room[0] = 100
    LogDestination(path).write(deque([b"four\n"]))
    assert path.read_bytes() == b"one\ntwo\nt\nfour\n"
    path.rename(tmp_path / "rotated")
    destination.write(lines)
    assert path.read_bytes() == b"three\n"


def test_an_incomplete_line_is_terminated_when_the_disk_has_space_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"torn":')
    destination, lines = LogDestination(path), deque([b"{}\n"])

    def write(fd: int, data: bytes) -> int:
        del fd, data
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", write)
        with pytest.raises(OSError, match="No space"):
            destination.open()
    destination.write(lines)
    destination.close()
    assert path.read_bytes() == b'{"torn":\n{}\n'


def test_events_beyond_the_queue_are_counted_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = AuditLogWriter(path, "site-a", max_queued=3)
    for number in range(5):
        writer.put(AuditLogEvent(0.0, "connection", {"number": number}))
    assert writer.dropped == 2
    assert writer.fault is not None
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    assert writer.opened.wait(20)
    writer.begin_close()
    reader.join(20)
    written = [json.loads(each) for each in got[0].splitlines()]
    assert [each.get("number") for each in written[:3]] == [0, 1, 2]
    assert [(each["event"], each["count"], each["reason"]) for each in written[3:]] == [("dropped", 2, "queue_full")]
    deadline = time.monotonic() + 20
    while writer.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not writer.alive


def test_events_whose_report_was_not_written_are_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = AuditLogWriter(path, "site-a", max_queued=3)
    for number in range(5):
        writer.put(AuditLogEvent(0.0, "connection", {"number": number}))
    monkeypatch.setattr("gateway.audit_log.log_destination.os.write", write)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    soon(lambda: writer.error is not None)
    writer.begin_close()
    soon(lambda: not writer.alive)
    os.close(reader)
    assert (writer.dropped, writer.lost) == (5, 5)


def soon(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holds()


def test_an_event_that_cannot_be_encoded_is_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writer = AuditLogWriter(path, "site-a", max_queued=10)
    for each in (
        AuditLogEvent(0.0, "one", {}),
        AuditLogEvent(float("nan"), "two", {}),
        AuditLogEvent(0.0, "three", {}),
    ):
        writer.put(each)
    soon(lambda: path.exists() and path.read_bytes().count(b"\n") == 3)
    written = [json.loads(each) for each in path.read_text().splitlines()]
    assert [each["event"] for each in written] == ["one", "three", "dropped"]
    assert (written[2]["count"], written[2]["reason"], writer.dropped) == (1, "not_encodable", 1)
    assert writer.fault is None
    writer.begin_close()
    soon(lambda: not writer.alive)


def test_a_failed_thread_is_reported_and_its_events_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: LogDestination, lines: deque[bytes]) -> None:
        raise RuntimeError(len(lines))

    monkeypatch.setattr(LogDestination, "write", fail)
    writer = AuditLogWriter(tmp_path / "audit.jsonl", "site-a", max_queued=10)
    writer.put(AuditLogEvent(0.0, "one", {}))
    soon(lambda: not writer.alive)
    writer.put(AuditLogEvent(0.0, "two", {}))
    assert writer.dropped == 2
    assert "its thread has ended" in (writer.fault or "")


def test_a_directory_created_later_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.audit_log.writer._RETRY_DELAY", 0.01)
    path = tmp_path / "late" / "audit.jsonl"
    writer = AuditLogWriter(path, "site-a", max_queued=10)
    assert writer.opened.wait(20)
    assert "No such file" in (writer.fault or "")
    writer.put(AuditLogEvent(0.0, "one", {}))
    path.parent.mkdir()
    soon(lambda: path.exists() and b"one" in path.read_bytes())
    writer.begin_close()
    soon(lambda: not writer.alive)


async def test_the_count_of_dropped_events_never_decreases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_audit_log, "_OPEN_TIMEOUT", 0.01)
    monkeypatch.setattr(service_audit_log, "_CLOSE_TIMEOUT", 0.1)
    path = tmp_path / "fifo"
    os.mkfifo(path)  # The FIFO has no reader, so opening it for writing does not succeed.
    ours = service_audit_log.ServiceAuditLog("site-a")
    await ours.open(AuditLogSection(log=path, queue=1))
    for _ in range(5):
        ours.recorder.record("event")
    assert ours.dropped == 4
    closing = asyncio.create_task(ours.close())
    await asyncio.sleep(0)
    assert ours.dropped == 4
    await closing
    assert ours.dropped == 5  # Closing also drops the event in the queue.
    await asyncio.to_thread(path.read_bytes)  # Reading unblocks the writer thread, which then exits.


async def test_a_reload_that_fails_late_leaves_no_writer(tmp_path: Path) -> None:
    old = configuration("a=tcp://b:1")
    new = replace(old, audit=AuditLogSection(log=tmp_path / "audit.jsonl"))
    service, before = GatewayService(old, lambda: new), set(threading.enumerate())
    docker = Mock(apply=Mock(side_effect=RuntimeError("late")))
    with pytest.raises(RuntimeError, match="late"):
        await service._reloader._apply(Mock(config=old, listeners={}), docker, new, ConfigTrigger.ADMIN)
    soon(lambda: not any(each.name == "audit log" for each in set(threading.enumerate()) - before))


def configuration(*backends: str, environment: dict[str, str] | None = None, **settings: str) -> Config:
    return load(ConfigSources(backends=backends, settings=settings, environment=environment or {}))


ONE = "one=mysql://db:3306?listen=127.0.0.1:1"


def test_changes_are_named_without_values() -> None:
    old = configuration(ONE, "gone=tcp://a:1", environment={"GATEWAY_TUNNEL_T": "ssh://u@h"})
    secret = {"GATEWAY_BACKEND_TWO": "mysql://db:3306?check.user=u&check.password=very-secret"}
    new = configuration(
        "one=mysql://db:3306?listen=127.0.0.1:2&check.timeout=9s&check.tls.mode=require&check.user=u",
        environment=secret,
        instance="b",
    )
    found = changed_config_keys(old, new)
    assert found["added"] == ["backends.two"]
    assert found["removed"] == ["tunnels.t", "backends.gone"]
    assert set(found["changed"]) == {
        "backends.one.listen", "backends.one.check.timeout", "backends.one.check.tls.mode", "backends.one.check.user",
        "gateway.instance",
    }  # fmt: skip
    assert "very-secret" not in json.dumps(found)
    assert changed_config_keys(new, new) == {"added": [], "removed": [], "changed": []}
    assert changed_config_keys(new, replace(new, audit=AuditLogSection(Path("/x"))))["changed"] == ["audit.log"]
    other = configuration("two=tcp://db:1", environment=secret)
    kind = configuration(environment={"GATEWAY_BACKEND_TWO": "postgres://db:3306"})
    assert "backends.two.kind" in changed_config_keys(other, kind)["changed"]


def test_the_origin_of_a_configuration_is_named_without_values(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("backends: {one: {kind: tcp, targets: ['${HOST}:1']}}\n")
    environment = {"HOST": "db", "GATEWAY_LOG_LEVEL": "info", "OTHER": "x", "GATEWAY_BACKEND_TWO": "tcp://${PEER}:1"}
    given = ConfigSources(path, (), ("three=tcp://db:1",), {"instance": "a"}, {**environment, "PEER": "p"})
    origin = load(given).origin
    assert origin.environment == ("GATEWAY_BACKEND_TWO", "GATEWAY_LOG_LEVEL", "HOST", "PEER")
    assert origin.flags == ("--instance", "--backend three")
    assert origin.sha256 is not None
    path.write_text("backends: {}\n")
    with pytest.raises(ConfigError) as caught:
        load(ConfigSources(path, environment={}))
    assert caught.value.origin is not None
    assert caught.value.origin.sha256 not in (None, origin.sha256)


@pytest.mark.parametrize(
    ("text", "good"), [("stdout", True), ("/var/log/x", True), ("stdot", False), ("log/x", False)]
)
def test_the_log_is_a_stream_or_an_absolute_path(text: str, good: bool) -> None:
    if good:
        assert (
            str(load(ConfigSources(backends=(ONE,), settings={"audit-log": text}, environment={})).audit.log) == text
        )
        return
    with pytest.raises(ConfigError, match="must be stdout, stderr or the absolute path"):
        load(ConfigSources(backends=(ONE,), settings={"audit-log": text}, environment={}))
