"""Tests whether the exporter of traces reads the body of a collector's response."""

import socket
import threading
import time

import pytest

from gateway.contracts.tracing import ConnectionPhaseRecorder, ConnectionSpanData
from gateway.ops.otlp_exporter import OtlpExporter
from gateway.tls_client_context import TlsClientFiles
from tests.support.servers import serving

WITHIN = 20.0
BLOCKS = 1000
"""Number of blocks of 64 KiB in the body of the collector's response."""


@pytest.mark.parametrize("head", ["200 OK", "302 Found\r\nLocation: /v1/traces"])
async def test_the_body_of_a_response_is_not_read(head: str) -> None:
    sent: list[int] = []
    ended = threading.Event()

    def respond(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(f"HTTP/1.1 {head}\r\n\r\n".encode())
        sent.append(0)
        try:
            for _ in range(BLOCKS):
                client.sendall(bytes(65536))
                sent[-1] += 1
        finally:
            ended.set()

    with serving(respond) as port:
        exporter = OtlpExporter(f"http://127.0.0.1:{port}/v1/traces", None, TlsClientFiles(), 100, {})
        exporter.export(ConnectionSpanData(ConnectionPhaseRecorder(), time.time_ns(), "orders", "finished"))
        await exporter.close()
        assert ended.wait(WITHIN)
    assert max(sent) < BLOCKS
