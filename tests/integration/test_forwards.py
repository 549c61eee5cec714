"""Tests how admission, `hold`, limits and reloads affect clients of a running gateway."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.clients import connect, echo, is_refused, is_reset
from tests.support.configs import CHECK, ssh_tunnel
from tests.support.gateway_process import Gateway
from tests.support.servers import echoing, serving

pytestmark = pytest.mark.integration


def test_limits_are_enforced_and_counted(gateway: Gateway) -> None:
    with serving(echoing) as port:
        few, narrow, privileged = free_port(), free_port(), free_port()
        gateway.write(f"""
            backends:
              few: {{kind: tcp, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{few}, max_connections: 2, {CHECK}}}
              narrow:
                kind: tcp
                targets: ["127.0.0.1:{port}"]
                listen: 127.0.0.1:{narrow}
                allow: [127.0.0.2]
                {CHECK}
              media:
                kind: nfs
                targets: ["127.0.0.1:{port}"]
                export: /x
                listen: 127.0.0.1:{privileged}
                {CHECK}
        """)
        gateway.start().wait_up("few", "narrow")
        with connect(few) as one, connect(few) as two:
            assert echo(one) == echo(two) == b"hello"
            assert is_refused(few)
        assert is_refused(narrow)
        with connect(narrow, ("127.0.0.2", 0)) as inside:
            assert echo(inside) == b"hello"
        assert is_refused(privileged)
        if os.geteuid() == 0:
            for source in range(1000, 700, -1):  # some of these ports can be in TIME_WAIT
                with contextlib.suppress(OSError), connect(privileged, ("127.0.0.1", source)) as low:
                    assert echo(low) == b"hello"
                    break
            else:
                pytest.fail("the gateway admitted no client with a source port below 1024")
        assert gateway.backend("few")["connections"]["rejected"] == {"max_connections": 1}
        assert gateway.backend("narrow")["connections"]["rejected"] == {"not_allowed": 1}
        assert gateway.backend("media")["connections"]["rejected"] == {"unprivileged_port": 1}
        _, metrics = gateway.http.get("/metrics")
        assert 'gateway_connections_rejected_total{backend="narrow",reason="not_allowed"} 1.0' in metrics


def test_a_client_is_held_while_the_path_is_down_and_then_reset(gateway: Gateway, shared_bastion: Bastion) -> None:
    listen, late, dead, no_bastion = free_port(), free_port(), free_port(), free_port()
    gateway.write(f"""
        tunnels:
          gone: {ssh_tunnel(shared_bastion).replace(f"port: {shared_bastion.port}", f"port: {no_bastion}")}
        backends:
          held: {{kind: tcp, via: gone, targets: ["127.0.0.1:1"], listen: 127.0.0.1:{listen}, hold: 1s, {CHECK}}}
          patient: {{kind: tcp, targets: ["127.0.0.1:{dead}"], listen: 127.0.0.1:{late}, {CHECK}}}
    """)
    gateway.start().wait_state("held", "blocked", "tunnel")
    started = time.monotonic()
    with connect(listen) as sock:
        sock.sendall(b"early words")
        assert is_reset(sock)
    assert 0.9 < time.monotonic() - started < 5  # the backend sets `hold` to 1 s; the default is 10 s
    assert gateway.backend("held")["connections"]["rejected"] == {"tunnel": 1}
    # A client also waits while a target without a tunnel is down. The gateway keeps the data that the client sends
    # during this time.
    with connect(late) as sock:
        sock.sendall(b"early words")
        time.sleep(0.5)
        with socket.create_server(("127.0.0.1", dead)) as server:
            server.settimeout(5)
            while True:
                accepted, _ = server.accept()
                with accepted:
                    accepted.settimeout(5)
                    said = accepted.recv(100)  # a connection without data comes from the check
                    if said:
                        assert said == b"early words"
                        accepted.sendall(b"answer")
                        assert sock.recv(100) == b"answer"
                        return


def test_a_client_that_resets_while_it_is_held_is_forgotten(gateway: Gateway) -> None:
    listen = free_port()
    gateway.write(f"""
        backends:
          held: {{kind: tcp, targets: ["127.0.0.1:{free_port()}"], listen: 127.0.0.1:{listen}, hold: 60s, {CHECK}}}
    """)
    gateway.start().wait_state("held", "down", "refused")
    before = gateway.descriptors()
    clients = [connect(listen) for _ in range(50)]
    gateway.wait(lambda: gateway.backend("held")["connections"]["active"] == 50)
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    gateway.wait(lambda: gateway.backend("held")["connections"]["active"] == 0)
    gateway.wait(lambda: gateway.descriptors() <= before + 2)
    assert gateway.backend("held")["connections"]["reset"] == {"client_reset": 50}


def test_half_close_through_the_service(gateway: Gateway, shared_bastion: Bastion) -> None:
    with serving(echoing) as port:
        direct, tunneled = free_port(), free_port()
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion)}
            backends:
              a: {{kind: tcp, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{direct}, {CHECK}}}
              b: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{tunneled}, {CHECK}}}
        """)
        gateway.start().wait_up("a", "b")
        payload = os.urandom(5_000_000)
        for listen in (direct, tunneled):
            with connect(listen) as sock:
                received = bytearray()
                sock.setblocking(False)
                view = memoryview(payload)
                while len(received) < len(payload):
                    if view:
                        with contextlib.suppress(BlockingIOError):
                            view = view[sock.send(view) :]
                            if not view:
                                sock.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(BlockingIOError):
                        received += sock.recv(1 << 20)
                sock.setblocking(True)
                assert sock.recv(1) == b""
                assert bytes(received) == payload
        for name in ("a", "b"):
            connections = gateway.backend(name)["connections"]
            assert connections["bytes_to_backend"] == connections["bytes_from_backend"] == len(payload)
            assert connections["reset"] == {}


def test_several_targets_are_tried_in_order(gateway: Gateway) -> None:
    with serving(echoing) as port:
        listen = free_port()
        gateway.write(f"""
            backends:
              a:
                kind: tcp
                targets: ["127.0.0.1:{free_port()}", "127.0.0.1:{port}"]
                listen: 127.0.0.1:{listen}
                {CHECK}
        """)
        gateway.start().wait(lambda: gateway.state("a")[0] == "degraded")
        with connect(listen) as sock:
            assert echo(sock) == b"hello"


def test_reload_changes_only_what_differs(gateway: Gateway, shared_bastion: Bastion) -> None:
    with serving(echoing) as port:
        one, two, three = free_port(), free_port(), free_port()
        body = f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion)}
            backends:
              kept: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{one}, {CHECK}}}
              %s
        """
        backend = f'{{kind: tcp, targets: ["127.0.0.1:{port}"], {CHECK}, listen: '
        gateway.write(body % f"gone: {backend} 127.0.0.1:{two}}}")
        gateway.start("--reload-on-change", "false").wait_up("kept", "gone")
        with connect(one) as kept, connect(two) as leaving:
            assert echo(kept) == echo(leaving) == b"hello"
            gateway.write(body % f'new: {backend} ["127.0.0.1:{two}", "127.0.0.1:{three}"]}}')
            done = gateway.command("reload")
            assert (done.returncode, done.stdout) == (0, "backends added: new; backends removed: gone\n")
            gateway.wait_up("new")
            assert echo(kept) == b"hello"
            for listen in (two, three):
                with connect(listen) as fresh:
                    assert echo(fresh) == b"hello"
        assert gateway.tunnel("bastion")["connects"] == 1

        # A reload rejects an invalid configuration. The status, the metrics and the exit code report the error.
        gateway.write(body.replace("kind: tcp", "kind: tpc") % "")
        gateway.process.send(signal.SIGHUP)  # type: ignore[union-attr]
        gateway.wait(lambda: not gateway.status()["reload"]["successful"])
        reload = gateway.status()["reload"]
        assert "did you mean 'tcp'" in reload["error"]
        assert reload["failed_at"] > reload["last_success"]
        assert "gateway_config_last_reload_successful 0.0" in gateway.http.get("/metrics")[1]
        refused = gateway.command("reload")
        assert (refused.returncode, "did you mean 'tcp'" in refused.stderr) == (2, True)
        # A reload rejects an empty file, because the file can be empty while an editor writes it.
        gateway.config.write_text("")
        assert gateway.command("reload").returncode == 2
        with connect(one) as kept:
            assert echo(kept) == b"hello"
        gateway.write(body % "")
        gateway.process.send(signal.SIGHUP)  # type: ignore[union-attr]
        gateway.wait(lambda: gateway.status()["reload"]["successful"])
        assert list(gateway.status()["backends"]) == ["kept"]
        with pytest.raises(ConnectionRefusedError):
            connect(three)


def test_a_reload_that_repairs_a_path_serves_held_clients(gateway: Gateway, shared_bastion: Bastion) -> None:
    with serving(echoing) as port:
        listen = free_port()
        body = f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion)}
            backends:
              a:
                kind: tcp
                via: bastion
                targets: ["127.0.0.1:{port}"]
                listen: 127.0.0.1:{listen}
                hold: 30s
                {CHECK}
        """
        gateway.write(body.replace(f"port: {shared_bastion.port}", f"port: {free_port()}"))
        gateway.start("--reload-on-change", "false").wait_state("a", "blocked", "tunnel")
        with connect(listen) as waiting:
            waiting.sendall(b"early")
            gateway.wait(lambda: gateway.backend("a")["connections"]["active"] == 1)
            gateway.write(body)
            assert gateway.command("reload").returncode == 0
            assert waiting.recv(100) == b"early"
        gateway.wait_up("a")


def test_a_reload_of_an_outer_tunnel_drains_clients_of_the_inner_one(
    gateway: Gateway, shared_bastion: Bastion
) -> None:
    with serving(echoing) as port:
        listen = free_port()
        body = f"""
            tunnels:
              outer: {ssh_tunnel(shared_bastion, more=", dial_timeout: %s")}
              inner: {ssh_tunnel(shared_bastion, via="outer")}
            backends:
              a: {{kind: tcp, via: inner, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
        """
        gateway.write(body % "10s", shutdown="{delay: 0s, drain: 8s}")
        gateway.start("--reload-on-change", "false").wait_up("a")
        with connect(listen) as client:
            assert echo(client) == b"hello"
            gateway.write(body % "9s", shutdown="{delay: 0s, drain: 8s}")
            done = gateway.command("reload")
            assert done.stdout == "tunnels opened: inner, outer; backends changed: a\n"
            for _ in range(4):
                time.sleep(0.5)
                assert echo(client) == b"hello"
            gateway.wait(lambda: gateway.backend("a")["connections"]["active"] == 0, 20)
            assert is_reset(client)
        with connect(listen) as client:
            assert echo(client) == b"hello"


def test_a_removed_backend_drains_even_when_the_service_stops(gateway: Gateway) -> None:
    with serving(echoing) as port:
        one, two = free_port(), free_port()
        keep = f'kept: {{kind: tcp, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{one}, {CHECK}}}'
        gone = f'gone: {{kind: tcp, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{two}, {CHECK}}}'
        gateway.write(f"backends:\n  {keep}\n  {gone}\n", shutdown="{delay: 0s, drain: 20s}")
        gateway.start().wait_up("kept", "gone")
        with connect(two) as client:
            assert echo(client) == b"hello"
            gateway.write(f"backends:\n  {keep}\n", shutdown="{delay: 0s, drain: 20s}")
            assert gateway.command("reload").returncode == 0
            assert f"listener   127.0.0.1:{one}  open" in gateway.command("explain", "kept").stdout
            child = gateway.process._child  # type: ignore[union-attr]
            gateway.process.send(signal.SIGTERM)  # type: ignore[union-attr]
            gateway.wait(lambda: not gateway.status()["accepting"])
            assert f"listener   127.0.0.1:{one}  closed" in gateway.command("explain", "kept").stdout
            time.sleep(0.5)
            assert echo(client) == b"hello"
            client.close()
            assert child is not None
            assert child.wait(8) == 0
        assert "Traceback" not in gateway.log


def test_the_start_fails_with_the_address_that_is_in_use(gateway: Gateway) -> None:
    from tests.support.gateway_process import command  # noqa: PLC0415 - only here

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway.write(f"backends: {{a: {{kind: tcp, targets: ['127.0.0.1:1'], listen: 127.0.0.1:{port}}}}}")
        done = command("run", "-c", str(gateway.config))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


AS_USER = """
import os, socket, sys
path, user, group, wait = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.setgroups([])
os.setgid(group)
os.setuid(user)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(path)
    try:
        sock.sendall(b"hello")
        print("answered" if sock.recv(5) == b"hello" else "refused", flush=True)
    except OSError:
        print("refused", flush=True)
    if wait == "wait":
        sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run clients as several users")
def test_a_unix_socket_admits_listed_users_and_counts_as_one_consumer(gateway: Gateway) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gw-"))  # the clients run as other users, who cannot access tmp_path
    folder.chmod(0o755)
    path, plain = folder / "shop.sock", folder / "plain.sock"

    def write(port: int, *users: int) -> None:
        shop = f"{{unix: {path}, consumer: shop, uid: {list(users)}, gid: [2000]}}"
        limits = f"max_connections_per_consumer: 1, allow: [10.0.0.0/8], {CHECK}"
        gateway.write(
            f"backends: {{a: {{kind: tcp, targets: ['127.0.0.1:{port}'], listen: [{plain}, {shop}], {limits}}}}}"
        )

    def ask(where: Path, user: int, group: int = 2000) -> str:
        arguments = [sys.executable, "-c", AS_USER, str(where), str(user), str(group), "go"]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip() or done.stderr.splitlines()[-1]

    with serving(echoing) as port, contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        write(port, 1000)
        gateway.start().wait_up("a")
        assert [ask(path, 1000), ask(path, 1001), ask(path, 1000, 2001)] == ["answered", "refused", "refused"]
        assert [ask(plain, 0, 0), ask(plain, 1000)] == ["answered", "PermissionError: [Errno 13] Permission denied"]
        arguments = [sys.executable, "-c", AS_USER, str(path), "1000", "2000", "wait"]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout
            assert client.stdout.readline() == "answered\n"
            assert ask(path, 1000) == "refused"  # the consumer already has one client, which is its maximum
        time.sleep(1.1)  # the service caches responses for one second
        used = gateway.http.get("/api/v1/consumers")[1]["consumers"]["shop"]["backends"]["a"]
        assert (used["total"], used["rejected"], used["bytes_to_backend"]) == (2, {"consumer_quota": 1}, 10)
        rejected = gateway.http.get("/api/v1/status")[1]["backends"]["a"]["connections"]["rejected"]
        assert rejected == {"not_allowed": 2, "consumer_quota": 1}
        assert "shop" in gateway.command("status", "-o", "wide").stdout
        write(port, 1001)
        assert gateway.command("reload").returncode == 0
        assert [ask(path, 1000), ask(path, 1001)] == ["refused", "answered"]


def test_a_refused_reload_does_not_change_the_modes_of_unix_sockets(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "shop.sock"

    def write(listen: str, more: str = "") -> None:
        gateway.write(f"backends: {{a: {{kind: tcp, targets: ['127.0.0.1:1'], listen: [{listen}{more}], {CHECK}}}}}")

    def mode() -> int:
        return path.stat().st_mode & 0o777

    write(str(path))
    gateway.start()
    assert mode() == 0o660
    listed = f"{{unix: {path}, uid: 1000}}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        write(listed, f", '127.0.0.1:{taken.getsockname()[1]}'")
        assert "Address already in use" in gateway.command("reload").stderr
    assert mode() == 0o660
    for listen, wanted in ((listed, 0o666), (str(path), 0o660)):
        write(listen)
        assert gateway.command("reload").returncode == 0
        assert mode() == wanted


def test_a_stale_unix_socket_is_replaced_but_a_regular_file_is_not(gateway: Gateway, tmp_path: Path) -> None:
    from tests.support.gateway_process import command  # noqa: PLC0415 - only here

    path = tmp_path / "listen.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with serving(echoing) as port:
        gateway.write(f"backends: {{a: {{kind: tcp, targets: ['127.0.0.1:{port}'], listen: {path}, {CHECK}}}}}")
        gateway.start().wait_up("a")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert echo(sock) == b"hello"
        gateway.stop()
        assert not path.exists()
        path.write_text("precious")
        done = command("run", "-c", str(gateway.config))
        assert done.returncode == 1
        assert "a file that is not a socket has this path: remove the file" in done.stderr
        assert path.read_text() == "precious"
