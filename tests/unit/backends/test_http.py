"""Tests the probe of `kind: http`, and `check.via_http`, with real servers and servers that violate the protocol."""

import base64
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.backend_support.http_probe_options import RoleInResponseOptions
from gateway.backend_support.http_response_end import ResponseEndDetector
from gateway.backend_support.role_from_http import HttpRoleQueryOptions, with_http_role
from gateway.backend_support.sql_check_options import SqlCheckOptions, credentials
from gateway.backend_support.tls_options import HealthCheckTlsOptions
from gateway.backends import EmptyOptions
from gateway.backends.http import KIND, HttpBackend, HttpCheckOptions
from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.secret import Secret
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason, UnusableTargetError
from tests.support import certificates
from tests.support.probes import probe
from tests.support.servers import resetting, serving, silent

LOGIN = f"Basic {base64.b64encode(b'u:p:q').decode()}"


class Answers(BaseHTTPRequestHandler):
    """Sends a prepared response for each URL path, and records the requests."""

    requests: list[tuple[str, str | None, str | None]] = []  # noqa: RUF012 - shared by all instances

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers["Host"], self.headers["Authorization"]))
        status, fields, body = {
            "/": (200, {}, b"ok"),
            "/primary": (503, {}, b""),
            "/moved": (302, {"Location": "http://192.0.2.1/?token=secret"}, b""),
            "/login": (200 if self.headers["Authorization"] == LOGIN else 401, {}, b""),
            "/leader": (200, {"X-Role": "Leader"}, b"{}"),
            "/json": (200, {}, json.dumps({"node": {"roles": ["x", "standby"], "ready": True, "n": 1}}).encode()),
            "/strange": (200, {"X-Role": "demoted"}, b"[" * 50_000),
        }[self.path.partition("?")[0]]
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def http_server(context: ssl.SSLContext | None = None) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def backend(path: str = "/", **changes: object) -> HttpBackend:
    return HttpBackend(EmptyOptions(), HttpCheckOptions(path=path, **changes))  # type: ignore[arg-type] # any field


async def test_status_role_login_and_host() -> None:
    with http_server() as port:
        result = await probe(backend(), port)
        assert result.state is HealthState.UP, result.detail
        assert result.probe_result is not None
        (version,) = result.probe_result.facts.values()
        assert str(version).startswith("BaseHTTP/")
        assert Answers.requests.pop() == ("/", f"127.0.0.1:{port}", None)
        assert (await probe(backend("/primary", status=(503,)), port)).state is HealthState.UP
        for path, reason, words in (
            ("/primary?token=secret", FailureReason.QUERY, "/primary: status 503, expected 200"),
            ("/moved", FailureReason.QUERY, "redirects are not followed (to http://192.0.2.1/)"),
            (
                "/login",
                FailureReason.AUTH,
                "/login: status 401, expected 200: the server requires a login: set check.user",
            ),
        ):
            result = await probe(backend(path), port)
            assert (result.reason, words in result.detail) == (reason, True), result.detail
        refused = await probe(backend("/login", user="u", password=Secret("wrong")), port)
        assert "the server rejects the login: correct check.user" in refused.detail
        login = await probe(backend("/login", user="u", password=Secret("p:q"), host="search"), port)
        assert login.state is HealthState.UP
        assert Answers.requests.pop() == ("/login", "search", LOGIN)
        for path, role, found in (
            ("/leader", RoleInResponseOptions(header="x-role"), "primary"),
            ("/json", RoleInResponseOptions(json="node.roles.1"), "replica"),
            ("/json", RoleInResponseOptions(json="node.ready", primary=("true",), replica=("false",)), "primary"),
            ("/json", RoleInResponseOptions(json="node.n", primary=("2",), replica=("1",)), "replica"),
        ):
            result = await probe(backend(path, role=role), port)
            assert result.probe_result is not None, result.detail
            assert (result.probe_result.role, result.probe_result.read_only) == (found, found == "replica")
        unknown = await probe(backend("/strange", role=RoleInResponseOptions(header="X-Role")), port)
        assert (unknown.state, unknown.reason) == (HealthState.DOWN, FailureReason.ROLE)
        assert unknown.probe_result is not None
        assert (unknown.probe_result.role, unknown.probe_result.read_only) == (None, True)
        for path, role in (
            ("/strange", RoleInResponseOptions(json="role")), ("/json", RoleInResponseOptions(json="node.roles.9")),
            ("/json", RoleInResponseOptions(json="node")), ("/leader", RoleInResponseOptions(header="Absent")),
        ):  # fmt: skip
            assert (await probe(backend(path, role=role), port)).reason is FailureReason.PROTOCOL


async def test_tls_verifies_the_server(tmp_path: Path) -> None:
    issued = certificates.issue(tmp_path / "issued")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    with http_server(context) as port:
        result = await probe(backend(tls=HealthCheckTlsOptions("verify", issued.ca, certificates.NAME)), port)
        assert result.state is HealthState.UP, result.detail
        assert result.probe_result is not None
        assert result.probe_result.certificate is not None
        refused = await probe(backend(tls=HealthCheckTlsOptions("verify", issued.ca)), port)
        assert (refused.reason, "set check.tls.server_name" in refused.detail) == (FailureReason.TLS, True), (
            refused.detail
        )
    with http_server() as port:
        refused = await probe(backend(tls=HealthCheckTlsOptions("require")), port)
        assert refused.reason is FailureReason.TLS
        assert refused.detail.startswith("the server does not use TLS on this port: correct the port"), refused.detail


@pytest.mark.parametrize(
    "response",
    [
        b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_000),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
    ],
)  # fmt: skip
async def test_an_invalid_response_is_a_protocol_error(response: bytes) -> None:
    def respond(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(response)

    with serving(respond) as port:
        result = await probe(backend(), port)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.PROTOCOL), result.detail


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        CHUNKED + b"2;x=y\r\n\r\n\r\nA\r\n0\r\n\r\n56789\r\n0\r\nX: y\r\n\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1000])
async def test_a_check_does_not_wait_for_the_end_of_the_connection(response: bytes, size: int) -> None:
    end = ResponseEndDetector()
    found = [end.is_reached(bytearray(response[:at])) for at in range(0, len(response), size)]
    assert not any(found)
    assert end.is_reached(bytearray(response))

    def respond(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(response)
        assert client.recv(1) == b""  # wait until the check closes the connection

    with serving(respond) as port:
        result = await probe(backend(), port)
    assert result.state is HealthState.UP, result.detail


class Database:
    """A simulated database, whose probes always have the same result."""

    def __init__(self, found: ProbeResult | UnusableTargetError) -> None:
        self.found = found

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        if isinstance(self.found, UnusableTargetError):
            raise self.found
        return self.found


PRIMARY = ProbeResult(role="primary", read_only=False)


@pytest.mark.parametrize(
    ("path", "role", "database", "expected"),
    [
        ("/leader", RoleInResponseOptions(header="X-Role"), PRIMARY, (HealthState.UP, None, "primary", False)),
        ("/", None, PRIMARY, (HealthState.UP, None, "primary", False)),
        ("/primary", None, PRIMARY, (HealthState.UP, None, "replica", True)),
        # During a promotion, the database is still read-only.
        ("/", None, ProbeResult(role="replica", read_only=True), (HealthState.UP, None, "primary", True)),
        ("/", None, ProbeResult(unprobed="no user"), (HealthState.UP, None, "primary", False)),
        (
            "/",
            None,
            UnusableTargetError(FailureReason.AUTH, "no"),
            (HealthState.DEGRADED, FailureReason.AUTH, "primary", False),
        ),
        (
            "/",
            None,
            UnusableTargetError(FailureReason.STARTING, "soon"),
            (HealthState.DOWN, FailureReason.STARTING, None, None),
        ),
        (
            "/strange",
            RoleInResponseOptions(header="X-Role"),
            PRIMARY,
            (HealthState.DOWN, FailureReason.ROLE, None, True),
        ),
        (
            "/login",
            RoleInResponseOptions(header="X-Role"),
            PRIMARY,
            (HealthState.DOWN, FailureReason.QUERY, None, None),
        ),
    ],
)
async def test_the_role_of_a_database_comes_from_http(
    path: str,
    role: RoleInResponseOptions | None,
    database: ProbeResult | UnusableTargetError,
    expected: tuple[object, ...],
) -> None:
    with http_server() as port:
        wrapped = with_http_role(Database(database), HttpRoleQueryOptions(path=path, role=role, port=port))
        result = await probe(wrapped, 1)
    found = result.probe_result or ProbeResult()
    assert (result.state, result.reason, found.role, found.read_only) == expected, result.detail


def test_the_authority_of_the_http_server_is_monitored(tmp_path: Path) -> None:
    issued, other = certificates.issue(tmp_path / "one"), certificates.issue(tmp_path / "other")
    via_http = HttpRoleQueryOptions(port=1, tls=HealthCheckTlsOptions("verify", other.ca))
    check = SqlCheckOptions(tls=HealthCheckTlsOptions("verify", issued.ca), via_http=via_http)
    assert [each.name for each in credentials(EmptyOptions(), check)] == [str(issued.ca), str(other.ca)]


async def test_a_failed_request_names_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    result = await probe(with_http_role(Database(PRIMARY), HttpRoleQueryOptions(port=port)), 1)
    assert (result.state, result.reason) == (HealthState.DOWN, FailureReason.REFUSED)
    assert result.detail.startswith(f"via_http, port {port}: ")
    for behavior, limit, reason in (
        (silent, 0.5, FailureReason.TIMEOUT),
        (resetting, 10.0, FailureReason.RESET),
    ):
        with serving(behavior) as port:
            result = await probe(with_http_role(Database(PRIMARY), HttpRoleQueryOptions(port=port)), 1, timeout=limit)
        assert (result.reason, f"via_http, port {port}" in result.detail) == (reason, True), result.detail


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"path": "health"}, "path: must begin with /"),
        ({"path": "/a b"}, "path: "),
        ({"path": "/\r\nX: y"}, "path: "),
        ({"status": (99,)}, "status: 99 is not a final status code"),
        ({"status": ()}, "status: needs at least one"),
        ({"host": "a\r\nb"}, "host: "),
        ({"password": Secret("p")}, "a password needs a user name"),
        ({"user": "a:b"}, "user: contains a colon"),
    ],
)
def test_a_wrong_check_is_an_error_with_its_key(changes: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        HttpCheckOptions(**changes)  # type: ignore[arg-type] # any field


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, "needs json or header, but not both"),
        ({"json": "a", "header": "b"}, "needs json or header, but not both"),
        ({"json": "a..b"}, "json: contains an empty name"),
        ({"header": "a b"}, "header: not a valid name"),
        ({"json": "a", "primary": ("x", "Y"), "replica": ("y",)}, "replica: y is also a value of primary"),
    ],
)
def test_a_wrong_role_is_an_error_with_its_key(changes: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        RoleInResponseOptions(**changes)  # type: ignore[arg-type] # any field


def test_a_url_selects_path_and_tls() -> None:
    assert KIND.read_url("http", "") == {}
    assert KIND.read_url("https", "/health") == {"check.path": "/health", "check.tls.mode": "verify"}
