"""Tests whether each source and reason of refused clients is logged once, and the limit of lines per minute."""

import logging
import socket

import pytest

from gateway.forwarding.admission import RefusalReason
from gateway.forwarding.refusal_log import RefusalLog


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object, object]]:
    return [
        (each.message, vars(each).get("source"), vars(each).get("reason", vars(each).get("count")))
        for each in caplog.records
    ]


def test_a_source_is_logged_again_after_ten_minutes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = RefusalLog("orders")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            for now in (0.0, 1.0, 599.0, 661.0):
                log.refused(accepted, RefusalReason.NOT_ALLOWED, now)
            log.refused(accepted, RefusalReason.MAX_CONNECTIONS, 662.0)
        assert client.fileno() >= 0
    assert lines(caplog) == [
        ("client refused", "127.0.0.1", "not_allowed"),
        ("client refused", "127.0.0.1", "not_allowed"),
        ("client refused", "127.0.0.1", "max_connections"),
    ]


def test_many_sources_are_summarized_in_few_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    sources = iter(range(1000))
    monkeypatch.setattr(
        "gateway.forwarding.refusal_log.ClientSourceAddress.of", lambda _: _Source(f"10.0.0.{next(sources)}")
    )
    log = RefusalLog("orders")
    with socket.socket() as client:
        for at in range(100):
            log.refused(client, RefusalReason.NOT_ALLOWED, at / 100)
        log.refused(client, RefusalReason.NOT_ALLOWED, 61.0)
    assert [message for message, _, _ in lines(caplog)] == ["client refused"] * 10 + [
        "more clients refused", "client refused",
    ]  # fmt: skip
    assert lines(caplog)[10][2] == 90


class _Source:
    path = ""

    def __init__(self, address: str) -> None:
        self.address = address
