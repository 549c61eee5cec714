"""Tests the ops server of a real gateway under attack: floods, wrong Host headers, wrong tokens, wrong TLS."""

import contextlib
import http.client
import json
import resource
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway import default_file_paths
from gateway.cli import cli
from gateway.demo.server_process import free_port
from tests.support import certificates
from tests.support.clients import connect, echo
from tests.support.gateway_process import Gateway, command

pytestmark = pytest.mark.integration

NOFILE = 256
FLOOD = 1000
WITHIN = 20.0
"""Maximum time of requests and other waits, in seconds. The value is large, because the machine can be busy."""
HOST = "ops.example.test"
TOKEN, METRICS, NEXT = "t" * 40, "m" * 40, "n" * 40


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_thousand_unfinished_requests_do_not_affect_traffic(
    gateway: Gateway, echo_port: int, many_descriptors: None
) -> None:
    port = free_port()
    gateway.write(
        f"backends: {{echo: {{kind: tcp, targets: ['127.0.0.1:{echo_port}'], listen: '127.0.0.1:{port}'}}}}"
    )
    gateway.wrapper = ["sh", "-c", f'ulimit -n {NOFILE}; exec "$@"', "sh"]
    gateway.start()
    gateway.wait_up("echo")
    # The first client starts the data plane, so `before` includes the file descriptors of the data plane.
    with connect(port) as first:
        assert echo(first) == b"hello"
    before = gateway.descriptors()
    with contextlib.ExitStack() as stack:
        for number in range(FLOOD):
            attacker = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.ops_port), timeout=WITHIN))
            if number % 2:
                # The ops server limits the number of connections, and might have closed this connection.
                with contextlib.suppress(ConnectionError):
                    attacker.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            if number % 50 == 0:
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WITHIN))
                client.sendall(b"ping")
                assert client.recv(4) == b"ping"
                started = time.monotonic()
                assert gateway.http.get("/livez") == (200, "alive\n")
                assert time.monotonic() - started < WITHIN
        clients = FLOOD // 50
        assert gateway.descriptors() <= before + 2 * clients + NOFILE // 8 + 4
        assert gateway.http.get("/api/v1/status")[0] == 200
    assert "cannot accept" not in gateway.log
    gateway.wait(lambda: gateway.descriptors() <= before + 8)


def test_probes_are_answered_when_traffic_uses_every_descriptor(
    gateway: Gateway, echo_port: int, many_descriptors: None
) -> None:
    port, probes = free_port(), free_port()
    gateway.write(
        f"backends: {{echo: {{kind: tcp, targets: ['127.0.0.1:{echo_port}'], listen: '127.0.0.1:{port}'}}}}"
    )
    gateway.wrapper = ["sh", "-c", f'ulimit -n {NOFILE}; exec "$@"', "sh"]
    gateway.start(environment={"GATEWAY_OPS_PROBE_LISTEN": f"127.0.0.1:{probes}"})
    gateway.wait_up("echo")
    with contextlib.ExitStack() as stack:
        for _ in range(NOFILE):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=WITHIN))
        deadline = time.monotonic() + WITHIN
        while gateway.descriptors() < NOFILE - 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        for listener in (probes, gateway.ops_port):
            for _ in range(8):
                assert ask(listener, "/livez")[0] == 200


@dataclass
class Guarded:
    """A gateway with all restrictions that `ops` can configure: host names, tokens and client certificates."""

    gateway: Gateway
    folder: Path
    probes: int
    server: certificates.Issued
    clients: certificates.Issued
    silent: socket.socket = field(default_factory=socket.socket)
    """A client that connects and sends nothing."""

    def context(self, *, certificate: certificates.Issued | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self.server.ca))
        if certificate is not None:
            made.load_cert_chain(certificate.certificate, certificate.key)
        return made

    def ask(
        self, path: str, token: str = "", host: str = "localhost", certificate: certificates.Issued | None = None
    ) -> int:
        return ask(
            self.gateway.ops_port, path, token=token, host=host, context=self.context(certificate=certificate)
        )[0]


def ask(
    port: int, path: str, *, token: str = "", host: str = "localhost", context: ssl.SSLContext | None = None
) -> tuple[int, str]:
    """Send a GET request; return status and body. With TLS, the certificate must be valid for localhost."""
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    plain = socket.create_connection(("127.0.0.1", port), timeout=WITHIN)
    with plain, context.wrap_socket(plain, server_hostname="localhost") if context else plain as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{bearer}\r\n".encode())
        with contextlib.closing(http.client.HTTPResponse(sock)) as response:
            response.begin()
            return response.status, response.read().decode()


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file atomically, as Kubernetes does when a mounted Secret changes."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.chmod(mode)
    fresh.replace(path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    server, clients = certificates.issue(folder / "server", "localhost"), certificates.issue(folder / "clients")
    write_private(folder / "token", f"{TOKEN}\n")
    write_private(folder / "metrics", f"{METRICS}\n")
    made = Guarded(Gateway(folder), folder, free_port(), server, clients)
    made.gateway.config.write_text(f"""
        gateway: {{instance: test, state_dir: {folder}/state}}
        ops:
          listen: 127.0.0.1:{made.gateway.ops_port}
          probe_listen: 127.0.0.1:{made.probes}
          admin_socket: {made.gateway.admin_socket}
          hosts: [{HOST}]
          token_file: {folder}/token
          metrics_token_file: {folder}/metrics
          tls: {{cert_file: {server.certificate}, key_file: {server.key}, client_ca_file: {clients.ca}}}
        shutdown: {{delay: 0s, drain: 1s}}
        backends:
          bad: {{kind: tcp, targets: ['127.0.0.1:{free_port()}'], check: {{fall: 1}}}}
    """)
    made.gateway.start()
    made.silent.settimeout(WITHIN)
    with made.silent:
        made.silent.connect(("127.0.0.1", made.gateway.ops_port))
        made.gateway.wait_state("bad", "down", "refused")
        yield made
    made.gateway.stop()


def test_roles(guarded: Guarded) -> None:
    for path in ("/livez", "/startupz", "/readyz", "/openapi.yaml"):
        assert guarded.ask(path) == 200
    for path in ("/", "/fleet", "/backends/bad", "/backends/none"):  # Without a token, pages contain no data.
        pages = [ask(guarded.gateway.ops_port, path, token=each, context=guarded.context()) for each in ("", METRICS)]
        assert [(code, "127.0.0.1" in text, "A token is required" in text) for code, text in pages] == [
            (200, False, True)
        ] * 2
    assert "127.0.0.1" in ask(guarded.gateway.ops_port, "/backends/bad", token=TOKEN, context=guarded.context())[1]
    assert (guarded.ask("/api/v1/events"), guarded.ask("/api/v1/events", METRICS)) == (401, 403)
    data = (
        "/api/v1/fleet",
        "/api/v1/summary",
        "/api/v1/status",
        "/api/v1/consumers",
        "/api/v1/plan",
        "/api/v1/checks/bad/history",
        "/health",
    )
    for path in data:
        assert (guarded.ask(path), guarded.ask(path, "x" * 40), guarded.ask(path, METRICS)) == (401, 401, 403)
        assert guarded.ask(path, TOKEN) == guarded.ask(path, certificate=guarded.clients) == 200
    assert "ops.metrics_token_file" in ask(guarded.gateway.ops_port, "/metrics", context=guarded.context())[1]
    for path in ("/metrics", "/api/v1/sd"):
        assert [guarded.ask(path, token) for token in ("", "x" * 40, METRICS, TOKEN)] == [401, 401, 200, 200]
    assert guarded.ask("/gone") == 404


def test_error_details_need_a_role_that_may_read_them(guarded: Guarded) -> None:
    for port, context in ((guarded.gateway.ops_port, guarded.context()), (guarded.probes, None)):
        code, text = ask(port, "/readyz?require=bad", context=context)
        assert (code, json.loads(text)["backends"]["bad"]["reason"]) == (503, "refused")
        assert "127.0.0.1" not in text
        assert "127.0.0.1" not in ask(port, "/readyz/bad", context=context)[1]
    reported = ask(guarded.gateway.ops_port, "/readyz/bad", token=TOKEN, context=guarded.context())[1]
    assert "detail" in json.loads(reported)


def test_the_probe_listener_serves_only_probes(guarded: Guarded) -> None:
    assert ask(guarded.probes, "/livez") == (200, "alive\n")
    for path in ("/", "/backends/bad", "/metrics", "/health", "/api/v1/status", "/api/v1/events", "/openapi.yaml"):
        assert ask(guarded.probes, path, token=TOKEN)[0] == 404


def events(gateway: Gateway, last_id: int, until: str) -> list[dict[str, str]]:
    """Return the events after the event `last_id`, up to and including the first event with the state `until`."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.ops_port, timeout=WITHIN)) as connection:
        connection.request("GET", "/api/v1/events", headers={"Last-Event-ID": str(last_id)})
        response = connection.getresponse()
        found: list[dict[str, str]] = []
        while not found or found[-1]["state"] != until:
            line = response.readline().decode()
            assert line, "the stream has ended"
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
        return found


def test_events_follow_changes_and_survive_a_restart(gateway: Gateway) -> None:
    port = free_port()
    backend = f"echo: {{kind: tcp, targets: ['127.0.0.1:{port}'], check: {{fall: 1, rise: 1, down_interval: 100ms}}}}"
    gateway.write(f"backends: {{{backend}}}")
    gateway.start(environment={"GATEWAY_RELOAD_ON_CHANGE": "false"})
    log = gateway.folder / "state" / "events.jsonl"
    gateway.wait(lambda: log.exists() and log.read_text().endswith("\n"))
    first = int(json.loads(log.read_text().splitlines()[0])["id"])
    target = f"127.0.0.1:{port}"
    down = events(gateway, first, "down")
    assert [(each["type"], each["name"], each["target"]) for each in down] == [("target", "echo", target)]
    gateway.wait_state("echo", "down", "refused")
    with socket.create_server(("127.0.0.1", port)):
        gateway.wait_up("echo")
        gateway.config.write_text(gateway.config.read_text().replace("fall: 1", "fall: 2"))
        assert gateway.command("reload").returncode == 0
        gateway.config.write_text(gateway.config.read_text().replace("fall: 2", "fall: x"))
        assert gateway.command("reload").returncode == 2
        gateway.command("drain")
        gateway.stop()
        seen = [json.loads(line) for line in (gateway.folder / "state" / "events.jsonl").read_text().splitlines()]
        gateway.config.write_text(gateway.config.read_text().replace("fall: x", "fall: 1"))
        gateway.start(environment={"GATEWAY_RELOAD_ON_CHANGE": "false"})
        gateway.wait_up("echo")
        assert [(each["type"], each["name"], each["state"]) for each in seen] == [
            ("start", None, "started"),
            ("target", "echo", "down"),
            ("backend", "echo", "down"),
            ("target", "echo", "up"),
            ("backend", "echo", "up"),
            ("reload", None, "successful"),
            ("reload", None, "failed"),
            ("drain", None, "draining"),
        ]
        assert events(gateway, first, "draining") == seen[1:]
    # The backend was up before the restart, and is down after the restart.
    last = seen[-1]["id"]
    after = events(gateway, last, "down")
    assert [(each["type"], each["state"], each["previous"]) for each in after] == [
        ("start", "started", None),
        ("target", "down", "up"),
    ]
    path = gateway.folder / "state" / "events.jsonl"
    path.unlink()
    path.mkdir()
    gateway.command("drain")
    advice = "set gateway.state_dir to a writable directory"
    warning = f"events will not survive a restart: {path}: Is a directory: {advice}"
    gateway.wait(lambda: gateway.status()["warnings"] == [warning])
    path.rmdir()
    gateway.command("undrain")
    gateway.wait(lambda: gateway.status()["warnings"] == [] and path.is_file())


def test_a_failure_keeps_its_beginning_after_a_restart(gateway: Gateway) -> None:
    proxy, dead, served = (free_port() for _ in range(3))
    check = "check: {fall: 1, rise: 1, interval: 300ms, down_interval: 100ms}"
    gateway.write(f"""
        tunnels: {{edge: {{kind: proxy, url: 'socks5://127.0.0.1:{proxy}'}}}}
        backends:
          inner: {{kind: tcp, targets: ['db.internal:1'], via: edge, {check}}}
          lost: {{kind: tcp, targets: ['127.0.0.1:{dead}'], {check}}}
          back: {{kind: tcp, targets: ['127.0.0.1:{served}'], {check}}}
    """)

    def start() -> None:
        gateway.start()
        gateway.wait_state("inner", "blocked", "tunnel")
        for name in ("lost", "back"):
            gateway.wait_state(name, "down", "refused")

    def beginnings(status: dict[str, Any]) -> dict[str, str]:
        return {
            "edge": status["tunnels"]["edge"]["since"],
            "target": status["backends"]["lost"]["targets"][0]["since"],
            **{name: status["backends"][name]["since"] for name in ("inner", "lost", "back")},
            **{f"cause {each['name']}": each["since"] for each in status["diagnosis"]["causes"]},
        }

    start()
    before = beginnings(gateway.status())
    events_file = gateway.folder / "state" / "events.jsonl"

    def is_written() -> bool:
        """Return whether the file contains the last event. The gateway writes events in the background."""
        found = [json.loads(line) for line in events_file.read_text().splitlines()] if events_file.exists() else []
        return any((each.get("name"), each.get("state")) == ("back", "up") for each in found)

    with socket.create_server(("127.0.0.1", served)):
        gateway.wait_up("back")
        gateway.wait(is_written)
        gateway.stop()
    lines = events_file.read_text().splitlines()
    last, stopped = int(json.loads(lines[-1])["id"]), datetime.now(UTC).isoformat()
    start()
    after = beginnings(gateway.status())
    # The backend `back` was up before the restart, so its failure began after the restart.
    assert min(after.pop("back"), after.pop("cause back")) > stopped > before.pop("back")
    del before["cause back"]
    assert after == before
    page, table = ask(gateway.ops_port, "/")[1], gateway.command("status").stdout
    for since in (before["edge"], before["lost"]):
        assert f'since <time datetime="{since[:19]}Z">' in page
        assert datetime.fromisoformat(since).astimezone().strftime("%H:%M:%S") in table
    gateway.command("drain")
    assert {each["name"] for each in events(gateway, last, "draining")} == {None, "back"}


def test_the_probe_listener_shows_no_details_without_a_token(gateway: Gateway) -> None:
    probes, refusing = free_port(), free_port()
    gateway.write(f"backends: {{bad: {{kind: tcp, targets: ['127.0.0.1:{refusing}'], check: {{fall: 1}}}}}}")
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace("ops: {", f"ops: {{probe_listen: '127.0.0.1:{probes}', ", 1))
    gateway.start().wait_state("bad", "down", "refused")
    for path in ("/readyz/bad", "/readyz?require=bad"):
        assert str(refusing) in ask(gateway.ops_port, path)[1]
        code, reported = ask(probes, path, token=TOKEN)
        assert (code, "refused" in reported, str(refusing) in reported) == (503, True, False), reported


def test_foreign_hosts_are_refused(guarded: Guarded) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example:9090"):
        assert guarded.ask("/api/v1/status", TOKEN, host=host) == 421
        code, text = ask(guarded.probes, "/readyz", host=host)
        assert (code, "ops.hosts" in text, "evil" in text) == (421, True, False)
    for host in (HOST, f"{HOST.upper()}:9090", "10.0.0.1:9090", "[::1]"):
        assert guarded.ask("/api/v1/status", TOKEN, host=host) == 200


def test_tls_is_required_and_a_certificate_of_another_authority_is_refused(guarded: Guarded) -> None:
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(guarded.gateway.ops_port, "/livez")
    other = certificates.issue(guarded.folder / f"other-{time.monotonic_ns()}")
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        guarded.ask("/livez", certificate=other)


def test_commands_with_token_and_authority(guarded: Guarded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = ("--url", f"https://localhost:{guarded.gateway.ops_port}")
    ca, token = ("--ca-file", str(guarded.server.ca)), ("--token-file", str(guarded.folder / "token"))
    done = command("status", "-o", "json", *url, *ca, *token)
    assert (done.returncode, json.loads(done.stdout)["instance"]) == (0, "test")
    done = command("status", *url, *ca)
    assert (done.returncode, "--token-file" in done.stderr) == (1, True)
    done = command("status", *url, *token)
    assert (done.returncode, "--ca-file" in done.stderr) == (3, True)
    done = command("status", *url, *ca, "--token-file", str(guarded.folder / "gone"))
    assert (done.returncode, "gone: No such file" in done.stderr) == (2, True)
    by_probes = {
        "GATEWAY_OPS_PROBE_LISTEN": f"127.0.0.1:{guarded.probes}",
        "GATEWAY_OPS_TLS_CERT_FILE": str(guarded.server.certificate),
    }
    monkeypatch.setattr(default_file_paths, "admin_socket", lambda: tmp_path / "missing.sock")
    assert CliRunner().invoke(cli, ["healthcheck"], env=by_probes).exit_code == 0
    assert CliRunner().invoke(cli, ["wait", "--max", "5s"], env=by_probes).exit_code == 0
    assert guarded.gateway.command("status").returncode == 0  # the admin socket needs no token and no certificate


def test_tokens_and_certificates_are_read_again(guarded: Guarded) -> None:
    gateway, path = guarded.gateway, guarded.folder / "token"
    write_private(path, NEXT)
    fresh = certificates.issue(guarded.folder / "fresh", "localhost")
    for name in ("certificate", "key", "ca"):
        target = getattr(guarded.server, name)
        shutil.copy2(getattr(fresh, name), f"{target}.new")
        Path(f"{target}.new").replace(target)

    def accepts(token: str) -> bool:
        """Ask for the status. A renewal of the certificates breaks connections that are in their TLS handshake."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return guarded.ask("/api/v1/status", token) == 200
        return False

    gateway.wait(lambda: accepts(NEXT))
    assert guarded.ask("/api/v1/status", TOKEN) == 401
    write_private(path, TOKEN, mode=0o644)
    gateway.wait(lambda: "the token is readable by others" in gateway.log)
    assert (guarded.ask("/livez"), guarded.ask("/api/v1/status", NEXT)) == (200, 200)
    done = gateway.command("reload")
    assert (done.returncode, "readable by others" in done.stderr) == (1, True)
    changes = gateway.log.count("files changed")
    write_private(path, TOKEN)
    assert gateway.command("reload").returncode == 0
    gateway.wait(lambda: gateway.log.count("files changed") > changes)  # the next test needs stable connections
    gateway.wait(lambda: accepts(TOKEN))


def test_a_client_certificate_is_refused_after_its_authority_is_replaced(guarded: Guarded) -> None:
    ca = guarded.clients.ca
    own, other = ca.read_text(), certificates.issue(guarded.folder / "others").ca.read_text()
    poller = http.client.HTTPSConnection(
        "localhost", guarded.gateway.ops_port, timeout=WITHIN, context=guarded.context(certificate=guarded.clients)
    )

    def answered() -> bool:
        with contextlib.suppress(ssl.SSLError, OSError, http.client.HTTPException):
            poller.request("GET", "/api/v1/status")
            response = poller.getresponse()
            response.read()
            return response.status == 200
        return False

    with contextlib.closing(poller):
        poller.auto_open = 1
        guarded.gateway.wait(answered)
        poller.auto_open = 0  # later requests must use this connection
        try:
            write_private(ca, other)
            guarded.gateway.wait(lambda: not answered())
        finally:
            write_private(ca, own)
    guarded.gateway.wait(lambda: _certified(guarded))


def _certified(guarded: Guarded) -> bool:
    with contextlib.suppress(ssl.SSLError, OSError, http.client.HTTPException):
        return guarded.ask("/api/v1/status", certificate=guarded.clients) == 200
    return False


def test_validate_reports_errors_in_the_files_of_ops(tmp_path: Path) -> None:
    one, other = certificates.issue(tmp_path / "one"), certificates.issue(tmp_path / "other")
    token = tmp_path / "token"
    write_private(token, TOKEN, mode=0o644)
    path = tmp_path / "gateway.yaml"
    for ops, wanted in (
        (f"{{token_file: {token}}}", "1:19: ops.token_file: " + f"{token}: the token is readable by others"),
        ("{token_file: /nonexistent}", "ops.token_file: /nonexistent: No such file or directory"),
        (f"{{tls: {{cert_file: {one.certificate}, key_file: {other.key}}}}}", "ops.tls.cert_file: "),
        (f"{{tls: {{cert_file: {one.certificate}}}}}", "ops.tls.key_file: is missing"),
        (f"{{metrics_token_file: {token}}}", "ops.metrics_token_file: has no effect without token_file"),
        ("{hosts: ['*.example.com']}", "is not a host name"),
        ("{listen: '0.0.0.0:9090', probe_listen: '127.0.0.1:9090'}", "is already used by ops.listen"),
    ):
        path.write_text(f"ops: {ops}\nbackends: {{a: {{kind: tcp, targets: ['a:1']}}}}\n")
        done = command("validate", "-c", str(path))
        assert (done.returncode, wanted in done.stderr) == (2, True), done.stderr


def test_a_connection_without_a_tls_handshake_is_closed(guarded: Guarded) -> None:
    assert guarded.silent.recv(1) == b""
