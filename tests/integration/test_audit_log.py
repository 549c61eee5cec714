"""Tests the audit log of a running gateway with real clients, with files, and with errors of file operations."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.audit_lines import Line, lines
from tests.support.clients import connect, connect_unix, echo, is_refused, is_reset
from tests.support.configs import CHECK, ssh_tunnel
from tests.support.gateway_process import Gateway, command
from tests.support.requirements import need

pytestmark = pytest.mark.integration


def wait_for(gateway: Gateway, path: Path, event: str, count: int = 1, **fields: object) -> list[Line]:
    gateway.wait(lambda: len(lines(path, event, **fields)) >= count)
    return lines(path, event, **fields)


def exchange(port: int, count: int = 1) -> None:
    """Exchange data with `count` clients, one after another."""
    for _ in range(count):
        with connect(port) as sock:
            assert echo(sock) == b"hello"


def dropped(gateway: Gateway) -> int:
    _, metrics = gateway.http.get("/metrics")
    (found,) = (each for each in str(metrics).splitlines() if each.startswith("gateway_audit_dropped_total "))
    return int(float(found.split()[1]))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_every_connection_is_recorded_with_its_source_target_and_ending(
    gateway: Gateway, log: Path, echo_port: int, shared_bastion: Bastion
) -> None:
    straight, through, unix, dead = free_port(), free_port(), log.parent / "backend.sock", free_port()
    target = f'"127.0.0.1:{echo_port}"'
    gateway.write(f"""
        audit: {{log: {log}}}
        tunnels:
          bastion: {ssh_tunnel(shared_bastion)}
        backends:
          straight: {{kind: tcp, targets: [{target}], listen: ["127.0.0.1:{straight}", {unix}], {CHECK}}}
          through: {{kind: tcp, via: bastion, targets: [{target}], listen: 127.0.0.1:{through}, {CHECK}}}
          dead: {{kind: tcp, targets: ["127.0.0.1:{free_port()}"], listen: 127.0.0.1:{dead}, hold: 300ms, {CHECK}}}
    """)
    gateway.start().wait_up("straight", "through")
    with connect(straight) as sock:
        port = sock.getsockname()[1]
        assert echo(sock, b"x" * 1000) == b"x" * 1000
    (line,) = wait_for(gateway, log, "connection", backend="straight")
    assert line.pop("time").endswith("Z")
    assert 0 <= line.pop("seconds") < 60
    assert line == {
        "event": "connection", "instance": "test", "backend": "straight", "source": f"127.0.0.1:{port}",
        "consumer": None, "consumer_id": None, "target": f"127.0.0.1:{echo_port}", "tunnel": None,
        "bytes_to_backend": 1000, "bytes_from_backend": 1000, "ending": "finished", "reason": None,
    }  # fmt: skip
    with connect(through) as sock:
        assert echo(sock) == b"hello"
    (line,) = wait_for(gateway, log, "connection", backend="through")
    assert (line["tunnel"], line["bytes_to_backend"], line["bytes_from_backend"]) == ("bastion", 5, 5)
    with connect_unix(unix) as sock:
        assert echo(sock) == b"hello"
    (line,) = wait_for(gateway, log, "connection", source="unix")
    assert (line["pid"], line["uid"], line["gid"]) == (os.getpid(), os.getuid(), os.getgid())
    # The first client waits for the whole `hold` time; the second client disconnects while it waits.
    assert is_refused(dead)
    (line,) = wait_for(gateway, log, "connection", backend="dead", ending="not_connected")
    assert (line["target"], line["reason"], line["bytes_to_backend"]) == (None, "refused", 0)
    gateway.config.write_text(gateway.config.read_text().replace("hold: 300ms", "hold: 30s"))
    assert gateway.command("reload").returncode == 0
    sock = connect(dead)
    gateway.wait(lambda: gateway.backend("dead")["connections"]["active"] == 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    wait_for(gateway, log, "connection", backend="dead", ending="client_reset", target=None)
    # The log also records connections that are open when the gateway stops.
    with connect(straight) as open_one, connect(dead) as waiting:
        assert echo(open_one) == b"hello"
        gateway.wait(lambda: gateway.backend("dead")["connections"]["active"] == 1)
        gateway.stop()
        assert is_reset(open_one)
        assert is_reset(waiting)
    assert [each["backend"] for each in lines(log, "connection", ending="aborted")] in (
        ["straight", "dead"],
        ["dead", "straight"],
    )
    assert lines(log)[-1]["event"] == "stop"
    assert lines(log, "admin", command="SIGTERM", result="done")


def test_admin_commands_and_configurations_are_recorded(gateway: Gateway, log: Path, echo_port: int) -> None:
    listen = free_port()
    body = f"""
        audit: {{log: {log}}}
        backends:
          one: {{kind: tcp, targets: ["127.0.0.1:{echo_port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
    """
    gateway.write(body)
    gateway.start("--reload-on-change", "false", environment={"GATEWAY_LOG_LEVEL": "info"}).wait_up("one")
    wait_for(gateway, log, "configuration")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    start, configuration = lines(log)[:2]
    assert (start["event"], start["pid"], start["instance"]) == ("start", gateway.pid, "test")
    assert configuration["event"] == "configuration"
    assert (configuration["trigger"], configuration["result"]) == ("start", "ok")
    assert configuration["sha256"] == hashlib.sha256(gateway.config.read_bytes()).hexdigest()
    assert configuration["file"] == str(gateway.config)
    assert configuration["environment"] == ["GATEWAY_LOG_LEVEL"]
    assert configuration["flags"] == ["--reload-on-change"]
    assert configuration["added"] == ["backends.one"]
    assert gateway.client.post("/-/backends/one/pause")[0] == 200
    assert gateway.client.post("/-/backends/absent/pause")[0] == 404
    done, unknown = wait_for(gateway, log, "admin", 2)
    assert (done["command"], done["result"]) == ("/-/backends/one/pause", "done")
    assert (done["pid"], done["uid"], done["gid"]) == (os.getpid(), os.getuid(), os.getgid())
    assert (unknown["command"], unknown["result"]) == ("/-/backends/absent/pause", "unknown")
    (logged,) = (each for each in map(json.loads, gateway.log.splitlines()) if "one/pause" in each.get("command", ""))
    assert (logged["event"], logged["level"], logged["uid"]) == ("admin command", "info", os.getuid())
    assert (logged["pid"], logged["result"]) == (os.getpid(), "done")
    # The log records the changed keys, but not their values.
    gateway.write(
        body.replace("timeout: 1s", "timeout: 2s")
        + f"""
          two:
            kind: mysql
            targets: ["127.0.0.1:{echo_port}"]
            listen: 127.0.0.1:{free_port()}
            check: {{user: gateway, password: very-secret}}
    """
    )
    assert gateway.command("reload").returncode == 0
    (change,) = wait_for(gateway, log, "configuration", trigger="admin")
    assert (change["added"], change["removed"]) == (["backends.two"], [])
    assert change["changed"] == ["backends.one.check.timeout"]
    assert change["sha256"] == hashlib.sha256(gateway.config.read_bytes()).hexdigest()
    # If the gateway refuses a configuration, the log records the position of the error, but not the wrong value.
    gateway.config.write_text(gateway.config.read_text().replace("password: very-secret", "interval: very-secret"))
    os.kill(gateway.pid, signal.SIGHUP)
    (refused,) = wait_for(gateway, log, "configuration", result="error")
    assert refused["trigger"] == "signal"
    assert refused["sha256"] == hashlib.sha256(gateway.config.read_bytes()).hexdigest()
    (place,) = refused["problems"]
    assert place.startswith(f"{gateway.config}:")
    assert place.endswith("backends.two.check.interval")
    assert "very-secret" not in log.read_text()
    (hangup,) = lines(log, "admin", command="SIGHUP")
    assert hangup["uid"] is None


def test_a_configuration_that_is_reloaded_by_command_is_recorded_once(
    gateway: Gateway, log: Path, echo_port: int
) -> None:
    body = f"""
        audit: {{log: {log}}}
        backends:
          one: {{kind: tcp, targets: ["127.0.0.1:{echo_port}"], listen: 127.0.0.1:{free_port()}, {CHECK}}}
    """
    gateway.write(body)
    gateway.start("--reload-on-change", "true", environment={"GATEWAY_LOG_LEVEL": "info"}).wait_up("one")
    for number, (old, new, code, key) in enumerate(
        [
            ("timeout: 1s", "timeout: 2s", 200, ""),
            ("instance: test", "instance: test, threads: 7", 422, "gateway.threads"),
        ],
        1,
    ):
        gateway.config.write_text(gateway.config.read_text().replace(old, new))
        assert gateway.client.post("/-/reload")[0] == code  # before the file watcher sees the change
        gateway.wait(lambda: gateway.log.count("files changed") == number)  # noqa: B023 - waits here
        gateway.wait(lambda: len(lines(log, "configuration")) > number)  # noqa: B023 - waits here
        time.sleep(0.3)  # wait for a second record, which must not appear
        (line,) = lines(log, "configuration")[number:]
        assert (line["trigger"], line["file"]) == ("admin", str(gateway.config))
        assert line["sha256"] == hashlib.sha256(gateway.config.read_bytes()).hexdigest()
        assert key in line.get("detail", "")
    assert f"{gateway.config}:" in line["detail"]


def test_refusals_are_counted_and_write_few_lines(gateway: Gateway, log: Path, echo_port: int) -> None:
    listen, shop = free_port(), log.parent / "shop.sock"
    gateway.write(f"""
        audit: {{log: {log}}}
        backends:
          narrow:
            kind: tcp
            targets: ["127.0.0.1:{echo_port}"]
            listen: ["127.0.0.1:{listen}", {{unix: {shop}, consumer: shop, uid: [{os.getuid() + 1}]}}]
            allow: [127.0.0.2]
            {CHECK}
    """)
    gateway.start().wait_up("narrow")
    started = time.monotonic()
    for _ in range(50):
        assert is_refused(listen)
    took = time.monotonic() - started
    assert is_refused(listen, ("127.0.0.3", 0))
    gateway.wait(lambda: sum(each["count"] for each in lines(log, "refused")) >= 51)
    found = lines(log, "refused", source="127.0.0.1")
    assert sum(each["count"] for each in found) == 50
    assert len(found) <= took + 2
    assert found[0]["count"] == 1  # the log records the first refusal immediately, on its own line
    assert {(each["backend"], each["reason"], each["consumer"]) for each in found} == {
        ("narrow", "not_allowed", None)
    }
    assert [each["count"] for each in lines(log, "refused", source="127.0.0.3")] == [1]
    with connect_unix(shop) as sock:
        assert sock.recv(1) == b""
    (line,) = wait_for(gateway, log, "refused", source="unix")
    assert (line["path"], line["uid"], line["reason"], line["consumer"]) == (
        str(shop), os.getuid(), "not_allowed", None,
    )  # fmt: skip
    assert lines(log, "connection") == []


def backend(log: Path | str, echo_port: int, listen: int, queue: int = 10_000) -> str:
    return f"""
        audit: {{log: {log}, queue: {queue}}}
        backends:
          one: {{kind: tcp, targets: ["127.0.0.1:{echo_port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
    """


def test_a_full_disk_affects_only_the_audit_log(gateway: Gateway, echo_port: int) -> None:
    listen = free_port()
    gateway.write(backend("/dev/full", echo_port, listen, queue=5))
    gateway.start().wait_up("one")
    exchange(listen, 30)
    gateway.wait(lambda: dropped(gateway) > 10)
    gateway.wait(lambda: any("/dev/full cannot be written" in each for each in gateway.status()["warnings"]))
    gateway.wait(lambda: "cannot write to the audit log" in gateway.log)
    exchange(listen, 5)
    assert gateway.log.count("cannot write to the audit log") == 1
    assert gateway.log.count("audit log queue full: events dropped") == 1
    gateway.stop()
    assert "last events lost" in gateway.log


def test_the_next_audit_log_records_how_many_events_the_previous_one_lost(
    gateway: Gateway, log: Path, echo_port: int
) -> None:
    listen = free_port()
    gateway.write(backend("/dev/full", echo_port, listen, queue=5))
    gateway.start().wait_up("one")
    exchange(listen, 30)
    gateway.wait(lambda: dropped(gateway) > 10)
    gateway.write(backend(log, echo_port, listen, queue=5))
    assert gateway.command("reload").returncode == 0
    (missing,) = wait_for(gateway, log, "dropped", reason="not_written")
    gateway.wait(lambda: dropped(gateway) == missing["count"])
    exchange(listen)
    wait_for(gateway, log, "connection")


def test_after_a_full_disk_the_log_records_how_many_events_are_missing(
    gateway: Gateway, tmp_path: Path, echo_port: int
) -> None:
    need(os.geteuid() == 0, "root, to mount a file system of 64 KiB")
    listen, disk = free_port(), tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True, timeout=20)
    try:
        log, filler = disk / "audit.jsonl", disk / "filler"
        gateway.write(backend(log, echo_port, listen, queue=5))
        gateway.start().wait_up("one")
        wait_for(gateway, log, "configuration")
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        sent = 0
        # Connect clients until the last line of the log is incomplete, because the file system is full.
        # If a line ends exactly at the end of a page, the file contains no incomplete line.
        while ((text := log.read_bytes()).endswith(b"\n") and len(text) % 4096) or dropped(gateway) < 10:
            exchange(listen, 5)
            sent += 5
        filler.unlink()
        wait_for(gateway, log, "dropped", reason="queue_full")
        exchange(listen)
        gateway.wait(lambda: all_accounted(log, sent + 1))
        # Wait, because /metrics can report an older count than the log.
        gateway.wait(lambda: sum(each["count"] for each in lines(log, "dropped")) == dropped(gateway))
        gateway.wait(lambda: "writing to the audit log works again" in gateway.log)
        gateway.stop()
    finally:
        gateway.stop()
        subprocess.run(["umount", "-l", disk], check=True, timeout=20)


def all_accounted(log: Path, connections: int) -> bool:
    """Return whether the number of connection records plus the number of dropped records is `connections`."""
    missing = sum(int(each["count"]) for each in lines(log, "dropped"))
    return len(lines(log, "connection")) + missing == connections


def test_a_fifo_without_a_reader_does_not_delay_traffic(gateway: Gateway, tmp_path: Path, echo_port: int) -> None:
    listen, fifo = free_port(), tmp_path / "fifo"
    os.mkfifo(fifo)
    gateway.write(backend(fifo, echo_port, listen, queue=5))
    gateway.start().wait_up("one")
    exchange(listen, 20)
    missing = 2 + 20 - 5  # the start causes 2 events, and 20 clients cause 20; the queue keeps 5 events
    gateway.wait(lambda: dropped(gateway) == missing)
    assert any("cannot be opened" in each for each in gateway.status()["warnings"])
    assert "audit log queue full: events dropped" in gateway.log
    got = tmp_path / "got"
    reader = subprocess.Popen(["sh", "-c", f"exec cat {fifo} > {got}"])
    try:
        wait_for(gateway, got, "dropped", count=1)
        (said,) = lines(got, "dropped")
        assert said["count"] == missing
        exchange(listen, 3)
        wait_for(gateway, got, "connection", 3)
        assert gateway.status()["warnings"] == []
    finally:
        reader.terminate()
        reader.wait(10)


def test_after_rotation_the_log_continues_in_a_new_file(gateway: Gateway, log: Path, echo_port: int) -> None:
    listen = free_port()
    gateway.write(backend(log, echo_port, listen))
    gateway.start("--reload-on-change", "false").wait_up("one")
    exchange(listen)
    wait_for(gateway, log, "connection")
    first = log.rename(log.with_suffix(".1"))
    exchange(listen)
    wait_for(gateway, log, "connection")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    # A reload can change the path of the log.
    other = log.with_name("other.jsonl")
    gateway.config.write_text(gateway.config.read_text().replace(f"log: {log}", f"log: {other}"))
    assert gateway.command("reload").returncode == 0
    exchange(listen)
    wait_for(gateway, other, "connection")
    assert lines(log)[-1]["changed"] == lines(other)[0]["changed"] == ["audit.log"]
    counts = [len(lines(each, "connection")) for each in (first, log, other)]
    assert counts == [1, 1, 1]
    # If a reload cannot open the new file, the gateway refuses the reload and writes to the present file.
    gateway.config.write_text(gateway.config.read_text().replace(f"log: {other}", f"log: {log.parent}/absent/log"))
    refused = gateway.command("reload")
    assert refused.returncode == 1
    assert "absent/log (No such file or directory)" in refused.stderr + refused.stdout
    (line,) = wait_for(gateway, other, "configuration", result="error")
    assert "absent/log" in line["detail"]
    # If a reload disables the log, the last line of the log records this change.
    gateway.config.write_text(re.sub(r"audit: .*", "", gateway.config.read_text()))
    assert gateway.command("reload").returncode == 0
    exchange(listen)
    assert lines(other)[-1]["changed"] == ["audit.log"]


def test_standard_output_is_a_destination_and_a_file_that_cannot_be_opened_is_an_error(
    gateway: Gateway, echo_port: int
) -> None:
    listen = free_port()
    gateway.write(backend("stdout", echo_port, listen))
    gateway.start().wait_up("one")
    exchange(listen)
    gateway.wait(lambda: '"event":"connection"' in gateway.log)
    gateway.stop()
    written = [json.loads(each) for each in gateway.log.splitlines() if each.startswith('{"time"')]
    assert [each["event"] for each in written] == ["start", "configuration", "connection", "admin", "stop"]
    gateway.write(backend(gateway.folder / "absent" / "log", echo_port, listen))
    for name, code in (("run", 1), ("validate", 2)):
        done = command(name, "-c", str(gateway.config))
        assert done.returncode == code, done.stderr
        assert "absent" in done.stderr
