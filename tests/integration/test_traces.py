"""Tests traces with an OTLP receiver: one span for each client connection, with its phases."""

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.clients import connect, echo, is_refused
from tests.support.configs import ssh_tunnel
from tests.support.files import REPOSITORY, write_secret
from tests.support.gateway_process import Gateway, command

pytestmark = pytest.mark.integration

TOKEN = "t" * 40


@dataclass
class Receiver:
    """The data that the OTLP/HTTP receiver of a test has received."""

    port: int = 0
    spans: list[Any] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)
    authorization: set[str | None] = field(default_factory=set)

    def of(self, backend: str, ending: str) -> list[Any]:
        return [
            span
            for span in self.spans
            if span.name == f"connection {backend}" and attributes(span)["gateway.ending"] == ending
        ]


def attributes(found: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in found.attributes}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.authorization.add(self.headers["Authorization"])
            request = ExportTraceServiceRequest.FromString(body)
            for group in request.resource_spans:
                made.resource = attributes(group.resource)
                made.spans += [span for scope in group.scope_spans for span in scope.spans]
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def test_each_connection_has_a_span_with_its_phases(
    gateway: Gateway, bastion: Bastion, echo_port: int, receiver: Receiver, tmp_path: Path
) -> None:
    ports = {name: free_port() for name in ("echo", "closed", "private", "unused")}
    write_secret(tmp_path / "token", f"{TOKEN}\n")
    gateway.write(f"""
        traces: {{endpoint: "http://127.0.0.1:{receiver.port}/v1/traces", token_file: {tmp_path}/token}}
        tunnels:
          bastion: {ssh_tunnel(bastion)}
        backends:
          echo: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{echo_port}"], listen: "127.0.0.1:{ports["echo"]}",
                 hold: 60s}}
          closed: {{kind: tcp, targets: ["127.0.0.1:{ports["unused"]}"], listen: "127.0.0.1:{ports["closed"]}",
                    hold: 0s}}
          private: {{kind: tcp, targets: ["127.0.0.1:{echo_port}"], listen: "127.0.0.1:{ports["private"]}",
                     allow: [192.0.2.0/24]}}
    """)
    gateway.start(environment={"OTEL_BSP_SCHEDULE_DELAY": "100"})
    gateway.wait_up("echo")
    bastion.crash()
    gateway.wait(lambda: gateway.state("echo")[0] == "blocked")
    with connect(ports["echo"]) as held:  # this client waits until the tunnel is open
        held.sendall(b"hello")
        gateway.wait(lambda: gateway.backend("echo")["connections"]["waiting"] == 1)
        bastion.start()
        held.settimeout(60)
        assert held.recv(5) == b"hello"
        with connect(ports["echo"]) as sock:
            assert echo(sock) == b"hello"
    assert is_refused(ports["closed"])
    assert is_refused(ports["private"])
    gateway.wait(lambda: len(receiver.of("echo", "finished")) == 2, 20)
    gateway.wait(lambda: bool(receiver.of("closed", "not_connected") and receiver.of("private", "refused")), 20)

    first, second = sorted(receiver.of("echo", "finished"), key=lambda span: span.start_time_unix_nano)
    assert first.events[0].name == "hold"
    assert [event.name for event in first.events][-2:] == ["dial", "channel"]
    assert [event.name for event in second.events] == ["dial", "channel"]
    assert {
        **attributes(second), "client.address": "127.0.0.1", "gateway.tunnel": "bastion", "gateway.backend": "echo",
        "gateway.bytes_to_backend": 5, "gateway.bytes_from_backend": 5, "server.address": "127.0.0.1",
        "server.port": echo_port,
    } == attributes(second)  # fmt: skip
    for span in (first, second):
        now = span.start_time_unix_nano
        for event in span.events:
            assert now <= event.time_unix_nano <= span.end_time_unix_nano
            now = event.time_unix_nano
        assert abs(span.end_time_unix_nano / 1e9 - time.time()) < 60
        assert span.status.code == 0
    (failed,) = receiver.of("closed", "not_connected")
    assert (attributes(failed)["gateway.reason"], failed.status.code) == ("refused", 2)
    assert attributes(receiver.of("private", "refused")[0])["gateway.reason"] == "not_allowed"
    assert receiver.resource["service.name"] == "gateway"
    assert receiver.resource["service.instance.id"] == "test"
    assert receiver.authorization == {f"Bearer {TOKEN}"}
    assert TOKEN not in gateway.log


def test_a_collector_that_does_not_answer_delays_neither_traffic_nor_the_stop(
    gateway: Gateway, echo_port: int
) -> None:
    port, collector = free_port(), free_port()
    gateway.write(f"""
        traces: {{endpoint: "http://127.0.0.1:{collector}/v1/traces"}}
        backends: {{echo: {{kind: tcp, targets: ["127.0.0.1:{echo_port}"], listen: "127.0.0.1:{port}"}}}}
    """)
    gateway.start(environment={"OTEL_BSP_SCHEDULE_DELAY": "100"})
    gateway.wait_up("echo")
    for _ in range(20):
        with connect(port) as sock:
            assert echo(sock) == b"hello"
    started = time.monotonic()
    gateway.stop()
    assert time.monotonic() - started < 9  # if the gateway does not exit, `stop` kills it after 10 s


def test_nothing_is_imported_without_the_section() -> None:
    modules = "import sys, gateway.app.service; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", modules], capture_output=True, text=True, timeout=30, check=True, cwd=REPOSITORY
    )
    assert "gateway.app.trace_exporter" in done.stdout.split()
    assert "opentelemetry" not in done.stdout


def test_a_wrong_section_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    backend = "backends: {a: {kind: tcp, targets: ['a:1']}}"
    for traces, expected in (
        ("endpoint: collector:4318", "traces.endpoint: must be a URL with a path"),
        ("endpoint: 'http://c:1/v1/traces', sample_percent: 0", "traces.sample_percent: must be from 1 to 100"),
        (f"endpoint: 'http://c:1/v1/traces', token_file: {tmp_path}/absent", f"{tmp_path}/absent: No such file"),
        (f"endpoint: 'http://c:1/v1/traces', tls: {{ca_file: {tmp_path}/absent}}", "ca_file"),
    ):
        config.write_text(f"traces: {{{traces}}}\n{backend}\n")
        done = command("validate", "-c", str(config))
        assert done.returncode == 2, traces
        assert expected in done.stderr, done.stderr
