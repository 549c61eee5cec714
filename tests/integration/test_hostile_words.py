"""Tests whether commands print escape sequences that servers send in errors, versions and names."""

import asyncio
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import asyncssh
import pytest

from gateway.backend_support.sql_check_options import SqlCheckOptions
from gateway.backends import EmptyOptions
from gateway.backends.mysql import MysqlBackend, MysqlCheckOptions
from gateway.backends.postgres import PostgresBackend
from gateway.contracts.states import HealthState
from gateway.demo.server_process import free_port
from gateway.demo.sshd import make_key
from gateway.errors import FailureReason
from tests.support import postgres_end
from tests.support.configs import CHECK
from tests.support.gateway_process import Gateway, command
from tests.support.mysql_end import OK, MysqlEnd
from tests.support.probes import probe
from tests.support.servers import serving, talking

pytestmark = pytest.mark.integration

ORDERS = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\n\u202eBACKEND up\u200b\x00\x7f"
"""A text with escape sequences, a forged log line, a change of text direction, and invisible characters."""
LONG = ORDERS + "x" * 30_000


def shown(text: str) -> str:
    """Check that `text` contains no control characters, long lines or forged log lines; return `text`."""
    assert [each for each in text if each != "\n" and not each.isprintable()] == []
    assert max(map(len, text.splitlines()), default=0) < 5000
    assert not any(line.startswith("BACKEND up") for line in text.splitlines())
    return text


class Hostile(asyncssh.SSHServer):
    """An SSH server that refuses every channel, and sends a reason with escape sequences."""

    def __init__(self, conns: list[asyncssh.SSHServerConnection]) -> None:
        self.conns = conns

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.conns.append(conn)
        self.conn = conn
        conn._version = b"Evil_\x1b[31mred\x1b[2J\x07"

    def begin_auth(self, username: str) -> bool:
        if username == "refused":
            self.conn.disconnect(asyncssh.DISC_BY_APPLICATION, f"refusing {LONG}")
        if username == "dropped":
            asyncio.get_running_loop().call_later(0.3, self.drop)
        return True

    def drop(self) -> None:
        self.conn.disconnect(asyncssh.DISC_SERVICE_NOT_AVAILABLE, f"dropping {LONG}")

    def connection_requested(self, *_: object) -> bool:
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, f"failing {LONG}")


@asynccontextmanager
async def hostile_bastion(folder: Path) -> AsyncIterator[str]:
    """Run a `Hostile` server; yield a tunnel's configuration that ends with `user: `. The caller appends the user."""
    make_key(folder / "key")
    conns: list[asyncssh.SSHServerConnection] = []
    server = await asyncssh.create_server(
        lambda: Hostile(conns), "127.0.0.1", 0,
        server_host_keys=[str(folder / "key")], authorized_client_keys=str(folder / "key.pub"),
    )  # fmt: skip
    async with server:
        port = server.sockets[0].getsockname()[1]
        keys = f"insecure_host_key: true, identity_files: [{folder}/key]"
        yield f"kind: ssh, host: 127.0.0.1, port: {port}, {keys}, user: "
        for conn in conns:
            conn.abort()
            await conn.wait_closed()


def mysql_error(text: str) -> bytes:
    packet = b"\xff" + (1129).to_bytes(2, "little") + text.encode()
    return len(packet).to_bytes(3, "little") + b"\x00" + packet


def postgres_error(text: str) -> bytes:
    message = b"SFATAL\0VFATAL\0C28000\0M" + text.replace("\0", "").encode() + b"\0\0"
    return b"E" + (len(message) + 4).to_bytes(4, "big") + message


async def test_control_characters_from_servers_are_not_printed(gateway: Gateway) -> None:
    secret = gateway.folder / "secret"
    secret.write_text("secret")
    check = f"check: {{user: gateway, password_file: {secret}, interval: 1s, down_interval: 300ms, timeout: 3s}}"
    with (
        serving(talking(mysql_error(f"blocking {LONG}"), then_close=True)) as mysql,
        serving(talking(postgres_error(f"denying {ORDERS * 300}"), then_close=True)) as postgres,
        serving(talking(f"Not allowed at this time {ORDERS}\r\n".encode(), then_close=True)) as greeter,
    ):
        async with hostile_bastion(gateway.folder) as keys:
            gateway.write(f"""
                log: {{level: debug, format: text}}
                tunnels:
                  fails: {{{keys}fails}}
                  refuses: {{{keys}refused}}
                  drops: {{{keys}dropped, connections: {{min: 1, max: 1}}}}
                  greets: {{{re.sub("port: [0-9]+", f"port: {greeter}", keys)}greeted}}
                backends:
                  one: {{kind: tcp, via: fails, targets: ["127.0.0.1:1"], listen: 127.0.0.1:{free_port()}, {CHECK}}}
                  two: {{kind: tcp, via: refuses, targets: ["127.0.0.1:1"], listen: 127.0.0.1:{free_port()}, {CHECK}}}
                  three: {{kind: tcp, via: drops, targets: ["127.0.0.1:1"], listen: 127.0.0.1:{free_port()}, {CHECK}}}
                  four: {{kind: tcp, via: greets, targets: ["127.0.0.1:1"], listen: 127.0.0.1:{free_port()}, {CHECK}}}
                  five: {{kind: mysql, targets: ["127.0.0.1:{mysql}"], listen: 127.0.0.1:{free_port()}, {check}}}
                  six: {{kind: postgres, targets: ["127.0.0.1:{postgres}"], listen: 127.0.0.1:{free_port()}, {check}}}
            """)
            try:
                await asyncio.to_thread(look, gateway)
            finally:
                await asyncio.to_thread(gateway.stop)


def look(gateway: Gateway) -> None:
    """Run the commands that print text from servers, and check their output."""
    gateway.start()
    gateway.wait(lambda: "failing" in gateway.backend("one")["detail"])
    gateway.wait(lambda: "blocking" in gateway.backend("five")["detail"])
    gateway.wait(lambda: "denying" in gateway.backend("six")["detail"])
    gateway.wait(lambda: "refusing" in gateway.tunnel("refuses")["detail"])
    # The server closes the tunnel `drops` repeatedly. The status contains the reason only until the tunnel is up.
    gateway.wait(lambda: "dropping ?[2J" in shown(gateway.tunnel("drops")["detail"]))
    gateway.wait(lambda: "Not allowed" in gateway.tunnel("greets")["detail"])
    assert gateway.tunnel("fails")["server"] == "SSH-2.0-Evil_?[31mred?[2J?"
    status = gateway.status()
    parts = [*status["tunnels"].values(), *status["backends"].values()]
    assert max(len(shown(part["detail"])) for part in parts) < 600
    shown(gateway.command("status").stdout)
    words = ("failing", "blocking", "denying", "refusing", "Not allowed")

    def are_shown() -> bool:
        wide = shown(gateway.command("status", "-o", "wide").stdout)
        return all(word in wide for word in words)

    gateway.wait(are_shown)  # a slow check can replace one of the words for a short time
    for name in ("one", "two", "three", "four", "five", "six"):
        assert "root cause: " in shown(gateway.command("explain", name).stdout)
    assert "blocking ?[2J" in shown(command("check", "-c", str(gateway.config)).stdout)
    assert "blocking ?[2J" in shown(command("check", "-c", str(gateway.config), "--nagios").stdout)
    assert "blocking ?[2J" in shown(gateway.log)


def poisoned(value: Any) -> Any:
    """Return a copy of a response in which every string, except timestamps, ends with escape sequences."""
    if isinstance(value, dict):
        return {key: poisoned(each) for key, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each) for each in value]
    return value + ORDERS if isinstance(value, str) and not value.endswith("Z") else value


def test_control_characters_from_a_false_gateway_are_not_printed(gateway: Gateway) -> None:
    """A user can pass any address to a command, so the response can come from a malicious server."""
    gateway.write(f"""
        backends:
          one: {{kind: tcp, targets: ["127.0.0.1:1"], listen: 127.0.0.1:{free_port()}, {CHECK}}}
    """)
    gateway.start().wait_state("one", "down", "refused")
    site = poisoned(gateway.status())
    use = {"active": 1, "waiting": 0, "total": 1, "bytes_to_backend": 1, "bytes_from_backend": 1,
           "mean_latency_seconds": 1.0, "rejected": {ORDERS: 1}}  # fmt: skip
    site["backends"] = {f"one{ORDERS}": site["backends"]["one"]}
    site["consumers"] = {ORDERS: {"id": ORDERS, "backends": {f"one{ORDERS}": use}}}
    site["reload"]["successful"] = False
    site["warnings"] = [ORDERS]
    site["docker"] = {"warnings": [ORDERS], "trouble": ORDERS, "attachments": [], "volumes": []}
    body = json.dumps(site).encode()
    answer = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body

    def answering(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(answer)

    with serving(answering) as port:
        for words in (["status"], ["status", "-o", "wide"], ["explain", f"one{ORDERS}"], ["explain", "two"],
                      ["top", "--count", "1", "--interval", "0.1"]):  # fmt: skip
            done = command(*[word.replace("\0", "") for word in words], "--url", f"http://127.0.0.1:{port}")
            assert "one?[2J" in shown(done.stdout + done.stderr)


CONTAINER = {
    "Id": "a" * 64, "ImageID": "sha256:1", "Names": [f"/web{ORDERS}"], "Name": f"/web{ORDERS}",
    "State": "running", "SizeRw": 1 << 30,
    "Labels": {"gateway.enable": "true", "gateway.network": f"ours,none{ORDERS}"},
    "Mounts": [{"Type": "bind", "Source": f"/srv{LONG}", "Destination": f"/data{ORDERS}"}],
}  # fmt: skip
ANSWERS: dict[str, Any] = {
    "/version": {"ApiVersion": "1.48", "MinAPIVersion": "1.24"},
    "/info": {},
    "/_ping": "OK",
    "/networks": [{"Id": "b" * 64, "Name": "ours", "Driver": "bridge", "Scope": "local"}],
    "/volumes": {"Volumes": []},
    "/containers/json": [CONTAINER],
    f"/containers/{'a' * 64}/json": {**CONTAINER, "State": {"Status": "running", "Error": LONG}},
    "/images/sha256:1/json": {"Config": {"Labels": {"other": LONG}}},
}


class Engine(BaseHTTPRequestHandler):
    """A simulated engine. It sends the responses in `ANSWERS`; for other paths, an error with escape sequences."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/v1.48")
        if path == "/events":
            self.send_response(200)
            self.end_headers()
            self.rfile.read(1)  # keep the event stream open until the gateway closes the connection
            return
        body = json.dumps(ANSWERS.get(path, {"message": f"no {LONG}"})).encode()
        self.send_response(200 if path in ANSWERS else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - http.server requires this name

    def log_message(self, *_: object) -> None:
        """Discard the log message."""


class EngineServer(ThreadingMixIn, UnixStreamServer):
    """An HTTP server on a Unix socket. It has the API of a Docker engine, and its responses contain hostile text."""

    daemon_threads = True


@contextmanager
def engine(path: Path) -> Iterator[None]:
    with EngineServer(str(path), Engine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_control_characters_from_an_engine_are_not_printed(gateway: Gateway) -> None:
    path = gateway.folder / "docker.sock"
    gateway.write(f"""
        log: {{format: text}}
        backends:
          one: {{kind: tcp, targets: ["127.0.0.1:1"], listen: 127.0.0.1:{free_port()}, {CHECK}}}
        docker: {{host: "unix://{path}", networks: {{ours: {{driver: bridge}}}}}}
    """)
    config = str(gateway.config)
    with engine(path):
        audit = command("audit", "-c", config)
        assert audit.returncode == 0
        assert "web?[2J?]0;owned" in shown(audit.stdout)
        assert "not checked: the engine's events cannot be read" in audit.stdout, "the event stream does not end"
        report = json.loads(command("audit", "-c", config, "-o", "json").stdout)
        assert {shown(each["container"])[:7] for each in report["places"]} == {"web?[2J"}
        plan = command("plan", "-c", config)
        assert "web?[2J?]0;owned" in shown(plan.stdout + plan.stderr)
        gateway.start().wait(lambda: bool((gateway.status()["docker"] or {})["attachments"]))
        docker = gateway.status()["docker"]
        assert "web?[2J" in {shown(each["container"])[:7] for each in docker["attachments"]}
        assert "web?[2J?]0;owned" in shown(gateway.command("status", "-o", "wide").stdout)
        code, metrics = gateway.client.get("/metrics")
        assert code == 200
        assert 'container="web?[2J?]0;owned' in shown(metrics)
        gateway.wait(lambda: "docker action failed" in shown(gateway.log))


@pytest.mark.parametrize("lag", ["NaN", "Infinity", "1e999", "soon"])
async def test_a_lag_that_is_not_a_number_is_a_protocol_error(lag: str) -> None:
    def as_mysql(client: socket.socket) -> None:
        end = MysqlEnd(client)
        end.greet("mysql_native_password")
        end.serve(lag)

    def as_postgres(client: socket.socket) -> None:
        postgres_end.serve(client, "t", "t", "18.0", lag, "t")

    for backend, script in (
        (MysqlBackend(EmptyOptions(), MysqlCheckOptions(user="u")), as_mysql),
        (PostgresBackend(EmptyOptions(), SqlCheckOptions(user="u")), as_postgres),
    ):
        with serving(script) as port:
            result = await probe(backend, port)
        assert (result.state, result.reason, result.probe_result) == (
            HealthState.DOWN,
            FailureReason.PROTOCOL,
            None,
        ), result.detail


async def test_a_mysql_that_requests_a_file_gives_a_one_line_error(caplog: pytest.LogCaptureFixture) -> None:
    def ask_for_file(client: socket.socket) -> None:
        end = MysqlEnd(client)
        end.greet("mysql_native_password")
        end.send(OK)
        while end.receive().startswith(b"\3S") and end.heard[-1].startswith(b"\3SET"):
            end.send(OK)
        end.ask(b"\xfb/etc/hostname")

    with serving(ask_for_file) as port:
        result = await probe(MysqlBackend(EmptyOptions(), MysqlCheckOptions(user="u")), port)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.PROTOCOL), result.detail
    assert "LOAD_LOCAL" in result.detail
    assert not caplog.records
