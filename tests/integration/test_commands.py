"""Tests the commands and HTTP endpoints of a running gateway, as scripts and orchestrators use them."""

import errno
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway import default_file_paths
from gateway.cli import cli
from gateway.demo import mariadb
from gateway.demo.mariadb import MariaDB
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from gateway.errors import ServiceUnreachableError
from tests.support.clients import query_mysql
from tests.support.configs import database_check, ssh_tunnel
from tests.support.files import PYTHON_PATH
from tests.support.gateway_process import Gateway, command
from tests.support.requirements import download, need, need_sshd
from tests.support.servers import echoing, serving

pytestmark = pytest.mark.integration

CHECK = "check: {interval: 1s, fast_interval: 200ms, down_interval: 300ms, timeout: 1s}"


@pytest.fixture
def running(gateway: Gateway, shared_bastion: Bastion) -> Iterator[Gateway]:
    with serving(echoing) as port:
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion)}
            backends:
              good: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], {CHECK}}}
              bad: {{kind: tcp, targets: ["127.0.0.1:{free_port()}"], {CHECK}}}
        """)
        gateway.start().wait(lambda: gateway.state("good")[0] == "up" and gateway.state("bad")[0] == "down")
        yield gateway


def test_endpoints(running: Gateway) -> None:
    http = running.http
    assert http.get("/livez") == http.get("/healthz") == (200, "alive\n")
    assert http.get("/startupz")[0] == 200
    code, body = http.get("/readyz")
    assert (code, body["status"], body["draining"]) == (200, "ready", False)
    assert body["backends"]["good"]["status"] == "up"
    assert body["backends"]["bad"]["reason"] == "refused"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["backends"]["bad"]["since"])
    assert http.get("/readyz?require=good")[0] == 200
    assert http.get("/readyz?require=good,bad")[0] == 503
    assert http.get("/readyz?min-ready=2")[0] == 503
    assert http.get("/readyz?min-ready=x")[0] == 400
    assert http.get("/readyz/good")[0] == 200
    assert http.get("/readyz/bad")[0] == 503
    assert http.get("/readyz/gone")[0] == 404
    assert http.get("/health")[0] == 200
    assert http.get("/api/v1/status")[1]["instance"] == "test"
    history = http.get("/api/v1/checks/bad/history")[1]["targets"]
    assert next(iter(history.values()))[0]["reason"] == "refused"
    assert http.get("/api/v1/checks/gone/history")[0] == 404
    code, page = http.get("/")
    assert code == 200
    assert 'backends/bad"' in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)  # the page must not load resources from other hosts


def test_commands_are_not_available_over_http(running: Gateway) -> None:
    for path in ("/-/shutdown", "/-/reload", "/-/drain"):
        with socket.create_connection(("127.0.0.1", running.ops_port), timeout=5) as sock:
            sock.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
            assert b" 404 " in sock.recv(100)
    assert running.admin_socket.stat().st_mode & 0o777 == 0o600


def test_status_and_explain(running: Gateway) -> None:
    socket_path = {"GATEWAY_OPS_ADMIN_SOCKET": str(running.admin_socket)}
    terminal = {**socket_path, "COLUMNS": "80"}
    table = command("status", environment=terminal)
    assert table.returncode == 0
    assert re.search(r"^bad down since \d\d:\d\d:\d\d: connection refused\n  refused: ", table.stdout, re.MULTILINE)
    assert re.search(r"^2 backends: 1 down, 1 up; 0 clients connected, 0 waiting$", table.stdout, re.MULTILINE)
    assert re.search(r"^bastion +up +\d\d:", table.stdout, re.MULTILINE)
    assert re.search(r"^bad +down .*\n( {4}.*\n)+good +up ", table.stdout, re.MULTILINE)  # the worst first
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert "FACTS" in running.command("status", "-o", "wide").stdout
    assert json.loads(running.command("status", "-o", "json").stdout)["backends"]["good"]["state"] == "up"
    by_url = command("status", "-o", "json", "--url", f"http://127.0.0.1:{running.ops_port}")
    assert json.loads(by_url.stdout)["instance"] == "test"
    explained = command("explain", "bad", environment=terminal)
    assert re.search(
        r"^root cause: bad down since .*: connection refused\n  refused: ", explained.stdout, re.MULTILINE
    )
    assert explained.stdout.endswith("  to do: start the server, or correct the address in targets\n")
    assert max(map(len, explained.stdout.splitlines())) <= 80
    working = running.command("explain", "good").stdout
    assert re.findall(r"^(\w+) ", working, re.MULTILINE)[1:] == [
        "PART",
        "admission",
        "tunnel",
        "target",
        "phase",
        "nothing",
    ]
    as_json = command("explain", "bad", "-o", "json", "--url", f"http://127.0.0.1:{running.ops_port}")
    reported = json.loads(as_json.stdout)
    assert reported["root_cause"].startswith("bad down since ")
    assert [(each["name"], each["reason"]) for each in reported["causes"]] == [("bad", "refused")]
    assert {"part", "name", "state", "since", "why"} == reported["chain"][0].keys()
    unknown = running.command("explain", "gone")
    assert (unknown.returncode, "configured backends (bad, good)" in unknown.stderr) == (2, True)
    words = {"_GATEWAY_COMPLETE": "bash_complete", "COMP_WORDS": "gateway pause b", "COMP_CWORD": "2"}
    assert command(environment={**words, **socket_path}).stdout == "plain,bad\n"


def test_top_survives_a_restart_of_the_service(running: Gateway) -> None:
    arguments = ["top", "--interval", "0.1", "--admin-socket", str(running.admin_socket)]
    output = running.folder / "top"
    with (
        output.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-u", "-m", "gateway", *arguments], stdout=file, stderr=file,
            env={**os.environ, "PYTHONPATH": PYTHON_PATH},
        ) as top,
    ):  # fmt: skip
        try:
            running.wait(lambda: "2 backends: 1 down, 1 up" in output.read_text())
            running.stop()
            deadline = time.monotonic() + 20
            while "no response since" not in output.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            before = output.stat().st_size
            running.start().wait(lambda: "2 backends: 1 down, 1 up" in output.read_text()[before:])
            assert top.poll() is None
        finally:
            top.kill()


def test_wait_and_healthcheck(running: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert running.command("wait", "--max", "5s").returncode == 0
    assert running.command("wait", "good", "--max", "5s").returncode == 0
    late = running.command("wait", "bad", "--max", "300ms")
    assert (late.returncode, late.stderr) == (1, "gateway: not ready within 300ms: bad is down (refused)\n")
    assert running.command("wait", "gone").returncode == 2
    assert running.command("wait", "--max", "soon").returncode == 2
    assert running.command("healthcheck").returncode == 0
    missing = tmp_path / "missing.sock"
    monkeypatch.setattr(default_file_paths, "admin_socket", lambda: missing)
    listen = {"GATEWAY_OPS_LISTEN": f"0.0.0.0:{running.ops_port}"}
    assert CliRunner().invoke(cli, ["healthcheck"], env=listen).exit_code == 0
    configured = tmp_path / "other.yaml"
    configured.write_text(f"ops: {{admin_socket: '${{FOLDER}}/{missing.name}'}}")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    own = {"GATEWAY_CONFIG": str(running.config)}
    assert CliRunner().invoke(cli, ["status"], env=own).output.startswith("test: ready")
    assert CliRunner().invoke(cli, ["drain"], env=own).exit_code == 0
    unusable = tmp_path / "unusable.yaml"
    for text in ("ops: [admin_socket]", "ops: {admin_socket: []}", "admin_socket: {", "ops:\n# admin_socket"):
        unusable.write_text(text)
        done = CliRunner().invoke(cli, ["healthcheck"], env={**listen, "GATEWAY_CONFIG": str(unusable)})
        assert (done.exit_code, done.output) == (0, "")
    misspelled = {
        **listen,
        "GATEWAY_OPS_ADMIN_SOKET": "x",
        "GATEWAY_OPS_PASSWORD": "x",
        "GATEWAY_FLEET_TOKEN_FILE": "x",
    }
    done = CliRunner().invoke(cli, ["healthcheck"], env=misspelled)
    assert done.stderr == "warning: GATEWAY_OPS_ADMIN_SOKET is not used; did you mean GATEWAY_OPS_ADMIN_SOCKET?\n"
    for arguments in (["status"], ["explain", "good"], ["healthcheck"], ["wait", "--max", "100ms"]):
        for option, variable in (
            (["--admin-socket", str(missing)], {}),
            ([], {"GATEWAY_OPS_ADMIN_SOCKET": str(missing)}),
            ([], {"GATEWAY_CONFIG": str(configured)}),
        ):
            done = CliRunner().invoke(cli, [*arguments, *option], env={**listen, **variable})
            assert isinstance(done.exception, ServiceUnreachableError)
            assert f"cannot connect to a gateway at {missing} (No such file" in str(done.exception)


def test_a_command_without_a_running_gateway_is_an_error(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "admin.sock")
    for arguments in (["reload"], ["drain"], ["shutdown"]):
        done = command(*arguments, "--admin-socket", nowhere)
        assert done.returncode == 3
        assert "cannot connect to a gateway at" in done.stderr
    url = f"http://127.0.0.1:{free_port()}"
    for arguments in (["status"], ["healthcheck"], ["explain", "x"], ["wait", "--max", "100ms"]):
        assert command(*arguments, "--url", url).returncode == 3


def test_another_server_is_not_mistaken_for_a_gateway(tmp_path: Path) -> None:
    port = free_port()
    arguments = ["--bind", "127.0.0.1", "--directory", str(tmp_path), str(port)]
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as other:
        try:
            (tmp_path / "livez").write_text("fine")
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            for arguments in (["status"], ["explain", "x"], ["healthcheck"], ["wait", "--max", "100ms"]):
                done = command(*arguments, "--url", f"http://127.0.0.1:{port}")
                assert (done.returncode, "is not a gateway" in done.stderr, "Traceback" in done.stderr) == (
                    3,
                    True,
                    False,
                )
        finally:
            other.kill()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_standard_stream_does_not_change_the_exit_code(tmp_path: Path, closed: str) -> None:
    file = tmp_path / "gateway.yaml"
    with serving(echoing) as port:
        file.write_text(f"backends: {{a: {{kind: tcp, targets: ['127.0.0.1:{port}'], listen: 127.0.0.1:3307}}}}")
        for arguments, code in ((["check", "-c", str(file)], 0), (["import", "-"], 2), (["run", "-c", "/none"], 2)):
            done = subprocess.run(
                ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "gateway", *arguments],
                env={**os.environ, "PYTHONPATH": PYTHON_PATH}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


def test_control_commands_report_another_server_and_names_that_cannot_exist(tmp_path: Path) -> None:
    path = tmp_path / "other.sock"

    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(
                b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n"
                b'{"message":"no"}'
            )

    with socketserver.UnixStreamServer(str(path), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for arguments in (["reload"], ["pause", "a"], ["pause", "\udcff"]):
                done = command(*arguments, "--admin-socket", str(path))
                assert (done.returncode, "is not a gateway" in done.stderr) == (3, True), done.stderr
        finally:
            server.shutdown()
            thread.join()
    done = command("pause", "", "--admin-socket", str(path))
    assert (done.returncode, "NAME is empty" in done.stderr) == (2, True), done.stderr


def test_requests_during_shutdown_start_nothing(gateway: Gateway) -> None:
    gateway.write("backends: {a: {kind: tcp, targets: ['127.0.0.1:1']}}", shutdown="{delay: 20s, drain: 1s}")
    gateway.start().wait(lambda: gateway.state("a") == ("down", "refused"))
    assert gateway.client.post("/-/shutdown")[0] == 200
    assert gateway.client.post("/-/backends/a/resume")[0] == 409
    assert gateway.client.post("/-/reload")[0] == 409
    assert gateway.client.post("/-/shutdown")[0] == 200  # the second request ends the delay
    assert gateway.process is not None
    deadline = time.monotonic() + 10
    while gateway.process.running:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _has_signal_handlers(pid: int) -> bool:
    """Return whether the process has installed its signal handlers."""
    found = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> signal.SIGTERM - 1 & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_right_after_the_start(gateway: Gateway, number: signal.Signals) -> None:
    gateway.write("backends: {a: {kind: tcp, targets: ['127.0.0.1:1']}}")
    for wait in (0.0, 0.05, 0.15, 0.25):
        output = gateway.folder / "output"
        with (
            output.open("w") as log,
            subprocess.Popen(
                [sys.executable, "-m", "gateway", "run", "-c", str(gateway.config), "--reload-on-change", "false"],
                stderr=log,
                env={**os.environ, "PYTHONPATH": PYTHON_PATH},
            ) as child,
        ):
            try:
                while not _has_signal_handlers(child.pid):
                    assert child.poll() is None
                    time.sleep(0.005)
                time.sleep(wait)
                child.send_signal(number)
                if number is signal.SIGHUP:
                    deadline = time.monotonic() + 15
                    while '"reloaded"' not in output.read_text():  # the process can reload some time after the signal
                        assert time.monotonic() < deadline, output.read_text()
                        assert child.poll() is None
                        time.sleep(0.05)
                    child.terminate()
                assert child.wait(10) == 0
            finally:
                child.kill()


def test_drain_undrain_pause_resume_reconnect_and_shutdown(running: Gateway) -> None:
    assert running.command("drain").returncode == 0
    code, body = running.http.get("/readyz")
    assert (code, body["status"]) == (503, "draining")
    assert running.http.get("/livez")[0] == 200
    assert running.command("undrain").returncode == 0
    assert running.http.get("/readyz")[0] == 200

    def since() -> list[str]:
        backend = running.backend("bad")
        return [backend["since"], backend["targets"][0]["since"]]

    began = since()
    assert running.command("pause", "bad").returncode == 0
    running.wait_state("bad", "paused", None)
    assert since() > began
    assert running.command("resume", "bad").returncode == 0
    running.wait_state("bad", "down", "refused")
    assert since() == began
    unknown = running.command("pause", "gone")
    assert (unknown.returncode, "gone" in unknown.stderr) == (1, True)
    assert running.client.post("/-/backends/gone/pause")[0] == 404
    assert running.command("reconnect", "bastion").returncode == 0
    assert running.command("reconnect", "gone").returncode == 1
    running.wait(lambda: running.tunnel("bastion")["connects"] == 2 and running.tunnel("bastion")["state"] == "up")
    assert running.client.post("/-/tunnels/gone/reconnect")[0] == 404

    child = running.process._child  # type: ignore[union-attr]
    assert running.command("shutdown").returncode == 0
    assert child is not None
    assert child.wait(10) == 0
    assert not running.admin_socket.exists()


def test_a_second_signal_stops_immediately(gateway: Gateway) -> None:
    with serving(echoing) as port:
        listen = free_port()
        body = f"backends: {{a: {{kind: tcp, targets: ['127.0.0.1:{port}'], listen: 127.0.0.1:{listen}, {CHECK}}}}}"
        gateway.write(body, shutdown="{delay: 20s, drain: 20s}")
        gateway.start().wait_up("a")
        child = gateway.process._child  # type: ignore[union-attr]
        assert child is not None
        with socket.create_connection(("127.0.0.1", listen), timeout=5) as client:
            gateway.process.send(signal.SIGTERM)  # type: ignore[union-attr]
            gateway.wait(lambda: gateway.http.get("/readyz")[0] == 503)
            # The gateway reports that it is not ready, but still serves the connected client and a new client.
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            with socket.create_connection(("127.0.0.1", listen), timeout=5) as another:
                another.sendall(b"y")
                assert another.recv(1) == b"y"
            started = time.monotonic()
            gateway.process.send(signal.SIGINT)  # type: ignore[union-attr]
            assert child.wait(20) == 0
            assert time.monotonic() - started < 10  # `delay` and `drain` are 20 s each
            with pytest.raises(ConnectionResetError):
                client.recv(1)


@pytest.mark.parametrize("variable", [True, False], ids=["XDG_RUNTIME_DIR", "no XDG_RUNTIME_DIR"])
def test_a_user_other_than_root_needs_no_options(server_folder: Path, *, variable: bool) -> None:
    """The service and the commands of an unprivileged user find the same admin socket."""
    need(os.geteuid() == 0, "root, to run the gateway as another user")
    user, home = 65534, server_folder / f"user{variable}"
    home.mkdir()
    (home / "gateway.yaml").write_text(f"""
ops: {{listen: 127.0.0.1:{free_port()}}}
shutdown: {{delay: 0s, drain: 1s}}
backends: {{a: {{kind: tcp, targets: ['127.0.0.1:1'], {CHECK}}}}}
""")
    os.chown(home, user, user)
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": PYTHON_PATH}
    if variable:
        environment["XDG_RUNTIME_DIR"] = str(home)

    def gateway(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments], env=environment, user=user, cwd=home,
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip

    need("usage" in gateway("--help").stdout.lower(), "a Python interpreter and a repository that all users can read")
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "run", "-c", "gateway.yaml"], env=environment, user=user, cwd=home,
        stderr=subprocess.PIPE,
    ) as service:  # fmt: skip
        try:
            deadline = time.monotonic() + 20
            while (waited := gateway("wait", "--max", "1s")).returncode != 0:
                assert service.poll() is None
                assert time.monotonic() < deadline, waited.stderr
            assert gateway("pause", "a").stdout == "the checks of a are paused\n"
            assert (home / "gateway" / "admin.sock").exists() == variable
            assert gateway("shutdown").returncode == 0
            assert service.wait(10) == 0
        finally:
            service.kill()
            if not variable:
                Path(f"/tmp/gateway-{user}").rmdir()  # noqa: S108 - the service has created this directory


def test_validate(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text("backends: {a: {kind: tcp, targets: 'a:1'}}")
    done = command("validate", "-c", str(good))
    assert (done.returncode, done.stdout) == (0, "valid: 0 tunnels, 1 backend\n")
    twice = tmp_path / "twice.yaml"
    twice.write_text("backends: {a: {kind: nfs, targets: n, export: /a}, b: {kind: nfs, targets: n, export: /b}}")
    done = command("validate", "-c", str(twice))
    assert (done.returncode, done.stdout) == (0, "valid: 0 tunnels, 2 backends\n")
    assert done.stderr.startswith("warning: backend b: n:2049 is also the server of backend a,")
    bad = tmp_path / "bad.yaml"
    bad.write_text("backends: {a: {kind: tcp, targets: 'a'}, b: {kind: tpc}}")
    done = command("validate", "-c", str(bad))
    assert done.returncode == 2
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        [f"{bad}:1:36", "backends.a.targets"],
        [f"{bad}:1:52", "backends.b.kind"],
    ]
    missing = tmp_path / "missing.yaml"
    missing.write_text("""tunnels: {t: {kind: ssh, host: h, user: u,
               identity_files: /nonexistent,
               known_hosts: /no}}
backends: {a: {kind: tcp, targets: 'a:1'}}
""")
    done = command("validate", "-c", str(missing))
    assert done.returncode == 2
    assert f"{missing}:1:1: tunnels.t" not in done.stderr
    places = [line.rpartition(": /")[0] for line in done.stderr.splitlines()]
    assert places == [f"{missing}:2:32: tunnels.t.identity_files", f"{missing}:3:29: tunnels.t.known_hosts"]


def test_check_once(shared_bastion: Bastion, shared_mariadb: MariaDB, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"""
tunnels:
  bastion: {ssh_tunnel(shared_bastion)}
  wrong: {ssh_tunnel(shared_bastion).replace("user: ", "user: no-")}
backends:
  orders:
    kind: mysql
    via: bastion
    targets: ["127.0.0.1:{shared_mariadb.port}"]
    check: {database_check(shared_mariadb, tmp_path, "timeout: 30s")}
  behind: {{kind: tcp, via: wrong, targets: ["127.0.0.1:1"]}}
""")
    good = command("check", "-c", str(file), "orders")
    assert good.returncode == 0
    assert re.search(
        r"^orders +127\.0\.0\.1:\d+ +bastion +up +[\d.]+ +channel [\d.]+ +greeting", good.stdout, re.MULTILINE
    )
    everything = command("check", "-c", str(file), "-o", "json")
    assert everything.returncode == 1
    states = {each["backend"]: (each["state"], each["reason"]) for each in json.loads(everything.stdout)}
    assert states == {"orders": ("up", None), "behind": ("blocked", "tunnel")}
    nagios = command("check", "-c", str(file), "--nagios", "orders")
    assert nagios.returncode == 0
    assert re.fullmatch(r"GATEWAY OK - orders \S+ up \| 'orders \S+'=[\d.]+s\n", nagios.stdout)
    nagios = command("check", "-c", str(file), "--nagios")
    assert nagios.returncode == 2
    assert nagios.stdout.startswith("GATEWAY CRITICAL - ")
    assert command("check", "-c", str(file), "gone").returncode == 2
    for arguments in (("-c", "/nonexistent"), ("-c", str(file), "gone")):
        nagios = command("check", *arguments, "--nagios")
        assert (nagios.returncode, nagios.stdout[:18]) == (3, "GATEWAY UNKNOWN - ")
    file.write_text("backends: {db: {kind: mysql, targets: '127.0.0.1:1'}, off: {kind: tcp, targets: '127.0.0.1:1'}}")
    nagios = command("check", "-c", str(file), "--nagios")
    assert (nagios.returncode, nagios.stdout[:19]) == (2, "GATEWAY CRITICAL - ")


def test_a_sidecar_needs_no_file(gateway: Gateway, shared_bastion: Bastion, shared_mariadb: MariaDB) -> None:
    listen = free_port()
    secret = gateway.folder / "secret"
    secret.write_text(shared_mariadb.check_password)
    b = shared_bastion
    gateway.start(
        "--ops-listen", f"127.0.0.1:{gateway.ops_port}", "--ops-admin-socket", str(gateway.admin_socket),
        "--shutdown-delay", "0s",
        environment={
            "GATEWAY_TUNNEL_BASTION": f"ssh://{b.user}@127.0.0.1:{b.port}"
            f"?identity_files={b.client_key}&known_hosts={b.known_hosts}",
            "GATEWAY_BACKEND_ORDERS": f"mysql://127.0.0.1:{shared_mariadb.port}?via=bastion&listen=127.0.0.1:{listen}"
            f"&check.user={shared_mariadb.check_user}&check.password_file={secret}",
        },
    )  # fmt: skip
    gateway.wait_up("orders")
    assert query_mysql(shared_mariadb, listen) == 3


def test_render_authorized_keys_permits_what_is_configured(tmp_path: Path, shared_mariadb: MariaDB) -> None:
    need_sshd()
    server = Bastion(tmp_path / "bastion")
    file = tmp_path / "c.yaml"
    file.write_text(f"""
tunnels:
  bastion: {ssh_tunnel(server)}
backends:
  orders: {{kind: mysql, via: bastion, targets: ["127.0.0.1:{shared_mariadb.port}"],
            check: {database_check(shared_mariadb, tmp_path, "timeout: 30s")}}}
  other: {{kind: tcp, targets: ["elsewhere:1"]}}
""")
    rendered = command("render", "authorized-keys", "-c", str(file))
    assert rendered.returncode == 0
    lines = [line for line in rendered.stdout.splitlines() if not line.startswith("#")]
    assert len(lines) == 1
    assert lines[0].startswith(
        f'restrict,port-forwarding,permitopen="127.0.0.1:{shared_mariadb.port}",permitlisten="none.invalid:1",'
        'command="false" ssh-ed25519 '
    )
    (server.folder / "authorized_keys").write_text(rendered.stdout)
    server.start()
    try:
        assert command("check", "-c", str(file), "orders").returncode == 0
    finally:
        server.stop()


def test_render_exports_is_accepted_by_the_kernels_nfs_server(tmp_path: Path) -> None:
    """Write the rendered lines to /etc/exports in a separate mount namespace, and run exportfs there.

    The test unpacks the package of exportfs without installing it, because the package conflicts with NFS-Ganesha.
    """
    need(os.geteuid() == 0 and find("apt-get") is not None, "root, and apt-get")
    download("apt-get", "download", "-q", "-o", "Acquire::Retries=3", "nfs-kernel-server", cwd=tmp_path)
    (package,) = tmp_path.glob("nfs-kernel-server*.deb")
    subprocess.run(["dpkg", "-x", str(package), str(tmp_path / "unpacked")], check=True, timeout=30)
    backends = ("media=nfs://localhost/media", "odd=nfs://nas/a%20b%22c%23d?volume.name=odd&volume.read_only=true")
    given = [word for each in backends for word in ("--backend", each)]
    rendered = command("render", "exports", *given, "--from", "localhost", "--from", "fd00::/64")
    assert rendered.returncode == 0, rendered.stderr
    for name in ("etc", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "etc/exports").write_text(rendered.stdout)
    (tmp_path / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (tmp_path / "state/etab").touch()
    # exportfs reads /etc/exports and writes etab even if the kernel has no NFS server.
    script = (
        "mkdir -p /var/lib/nfs && mount --bind etc /etc && mount --bind state /var/lib/nfs;"
        "unpacked/usr/sbin/exportfs -ra"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "/etc/exports" not in done.stderr, done.stderr
    exported = [
        (path, client, options.split(",")[0])
        for path, client, options in re.findall(
            r"^(\S+)\t(\S+)\((.*)\)$", (tmp_path / "state/etab").read_text(), re.MULTILINE
        )
    ]
    assert sorted(exported) == sorted(
        (path, client, mode)
        for path, mode in (("/media", "rw"), ("/a\\040b\\042c\\043d", "ro"))
        for client in ("localhost", "fd00::/64")
    )


def test_notifications_for_a_service_manager(gateway: Gateway, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)

        def notification() -> bytes:
            while True:
                message = manager.recv(1000)
                if message != b"WATCHDOG=1":
                    return message

        gateway.write("backends: {a: {kind: tcp, targets: ['127.0.0.1:1']}}")
        gateway.start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"})
        assert notification() == b"READY=1"
        assert manager.recv(1000) == b"WATCHDOG=1"
        gateway.process.send(signal.SIGHUP)  # type: ignore[union-attr]
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", notification())
        assert notification() == b"READY=1"
        gateway.process.send(signal.SIGTERM)  # type: ignore[union-attr]
        assert notification() == b"STOPPING=1"


def test_a_service_manager_that_does_not_read_does_not_stop_traffic(gateway: Gateway, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        gateway.write("backends: {a: {kind: tcp, targets: ['127.0.0.1:1']}}")
        # The gateway sends several watchdog messages per second, so the queue of the socket is soon full.
        gateway.start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"})
        longest = 0.0
        for _ in range(100):
            asked = time.monotonic()
            assert gateway.http.get("/livez") == (200, "alive\n")
            longest = max(longest, time.monotonic() - asked)
            time.sleep(0.05)
        assert longest < 5  # sending to the service manager must not block the gateway
        assert gateway.command("reload").returncode == 0
        # The gateway sends `READY=1` again if the queue was full after the reload.
        manager.settimeout(10)
        ready = 0
        while ready < 2:  # one message after the start, and one after the reload
            ready += manager.recv(1000) == b"READY=1"
        last = b""
        gateway.process.send(signal.SIGHUP)  # type: ignore[union-attr]
        while not last.startswith(b"RELOADING=1"):
            last = manager.recv(1000)


def test_an_unfinished_read_of_the_configuration_does_not_delay_shutdown(gateway: Gateway) -> None:
    """The configuration is a FIFO without a writer, so a read blocks, as on a file system that hangs."""
    gateway.write("backends: {a: {kind: tcp, targets: ['127.0.0.1:1']}}")
    gateway.start("--reload-on-change", "false")
    gateway.config.unlink()
    os.mkfifo(gateway.config)
    os.kill(gateway.pid, signal.SIGHUP)
    writers: list[int] = []
    gateway.wait(lambda: _open_if_read(gateway.config, writers))
    began = time.monotonic()
    gateway.stop()
    assert time.monotonic() - began < 30
    os.close(writers[0])
    assert '"stopped"' in gateway.log


def _open_if_read(fifo: Path, writers: list[int]) -> bool:
    """Return whether a process reads the FIFO. If so, open it for writing, and add the descriptor to `writers`."""
    try:
        writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False
    return True


def test_the_demo_runs_and_ends_by_itself() -> None:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    done = command("demo", "--once", timeout=100)
    assert done.returncode == 0, done.stderr
    assert "tea, coffee, cocoa" in done.stdout
    assert "including the reconnect" in done.stdout
    assert "skipped" not in done.stdout or os.geteuid() != 0


_DEMO = (
    "from gateway.__main__ import main; from tests.support.worker_ports import use_own_ports; use_own_ports(); main()"
)


def test_the_demo_ends_with_ctrl_c(server_folder: Path) -> None:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    place = server_folder / "demo"
    place.mkdir()
    place.chmod(0o1777)  # the demo's servers run as other users, and must be able to write here
    with subprocess.Popen(
        [sys.executable, "-u", "-c", _DEMO, "demo"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PYTHON_PATH, "TMPDIR": str(place)},
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "Ctrl-C" in line:
                break
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(20) == 0
    left = subprocess.run(["pgrep", "-f", str(place)], capture_output=True, text=True, check=False, timeout=10)
    assert left.stdout == ""
