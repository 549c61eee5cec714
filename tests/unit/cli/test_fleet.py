"""Tests the table of `gateway fleet`, and its output if a member does not answer."""

import io
import json
import re
import socket
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import cli
from gateway.cli import fleet as fleet_command
from gateway.errors import ServiceUnreachableError
from tests.support.servers import serving

PROBLEM = {"state": "backoff", "reason": "refused", "detail": "no " * 95}
SUMMARY: dict[str, Any] = {
    "instance": "a-gateway-with-a-name", "version": "1", "status": "degraded", "started_at": "2026-01-01T00:00:00Z",
    "clients": 3, "warnings": 0, "reload_successful": True, "tunnels": {"quarantined": 3, "up": 1},
    "backends": {"up": 1, "blocked": 3, "down": 2},
    "problems": [
        *({"name": f"tunnel t{at}", **PROBLEM} for at in range(9)),  # an older gateway does not send `since`
        {"name": "tunnel t9", **PROBLEM, "since": "2026-01-01T00:00:00Z", "effects": "3 backends blocked"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("arguments", [("dns+gateway.invalid:9090",), ("--file", "absent"), ("--file", "empty")])
def test_no_answer_is_an_error(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    done = CliRunner().invoke(cli, ["fleet", *arguments])
    assert isinstance(done.exception, ServiceUnreachableError), done.output


def test_the_counts_are_visible_at_80_columns_and_wide_shows_each_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps(SUMMARY).encode()

    def respond(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    monkeypatch.setenv("COLUMNS", "80")
    with serving(respond) as port:
        done = CliRunner().invoke(cli, ["fleet", f"127.0.0.1:{port}"])
        wide = CliRunner().invoke(cli, ["fleet", f"127.0.0.1:{port}", "-o", "wide"])
    _, row, *notes = done.output.splitlines()
    assert "1/4 up" in row
    assert "1/6 up" in row
    assert max(map(len, (row, *notes))) <= 80
    assert notes[0].startswith("    tunnel t0 is down: refused: no no")
    assert "3 quarantined, 1 up" in wide.output
    assert [f"tunnel t{at} is down" in wide.output for at in range(10)] == [True] * 10
    words = " ".join(wide.output.split())
    assert re.search(r"tunnel t9 is down since 202\d-\d\d-\d\d \d\d:\d\d \(3 backends blocked\): refused", words)


def test_the_last_answer_of_a_member_stays_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps(SUMMARY).encode()
    tables: list[str] = []

    def respond(client: socket.socket) -> None:
        if not tables:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def watching(show: Callable[[], None], interval: float, **options: bool) -> None:
        del interval, options
        for _ in range(2):
            with redirect_stdout(io.StringIO()) as printed:
                show()
            tables.append(printed.getvalue())

    monkeypatch.setattr(fleet_command, "watching", watching)
    with serving(respond) as port:
        done = CliRunner().invoke(cli, ["fleet", f"127.0.0.1:{port}", "--watch", "-o", "json"])
    assert done.exception is None, done.output
    first, second = (json.loads(table)["members"][0] for table in tables)
    assert (first["state"], second["state"]) == ("degraded", "unreachable")
    assert second["summary"] == first["summary"]
    assert second["answered_at"] == first["answered_at"]
