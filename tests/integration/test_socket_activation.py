"""Tests listeners whose sockets systemd creates.

The tests use `systemd-socket-activate`, which passes sockets to the gateway in the same way as a socket unit.
"""

import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.contracts.config_types import HostPort
from gateway.demo.server_process import find, free_port
from gateway.forwarding.listener import Listener
from tests.support.files import PYTHON_PATH, REPOSITORY
from tests.support.gateway_process import Gateway
from tests.support.netns import inside, run
from tests.support.requirements import need
from tests.support.servers import echoing, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def echo(family: socket.AddressFamily, address: tuple[str, int] | str, within: float = 60.0) -> bytes:
    """Connect as soon as the address accepts connections; send data, and return the response."""
    deadline = time.monotonic() + within
    while True:
        with socket.socket(family) as client:
            client.settimeout(within)
            try:
                client.connect(address)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                continue
            client.sendall(b"hello")
            return client.recv(16)


def test_a_client_that_connects_before_the_gateway_starts_waits_and_is_served(
    gateway: Gateway, tmp_path: Path
) -> None:
    need(find("systemd-socket-activate") is not None, "systemd-socket-activate (package systemd)")
    listener, unused, unix = ("127.0.0.1", free_port()), free_port(), str(tmp_path / "echo.sock")
    with serving(echoing) as port, ThreadPoolExecutor() as threads:

        def configure(*listen: str) -> None:
            gateway.write(f"""
                backends:
                  echo: {{kind: tcp, targets: ["127.0.0.1:{port}"], listen: [{", ".join(listen)}]}}
            """)

        tcp = f"127.0.0.1:{listener[1]}"
        configure(tcp, unix)
        gateway.wrapper = ["systemd-socket-activate", "-E", f"PYTHONPATH={PYTHON_PATH}"]
        for address in (tcp, f"127.0.0.1:{unused}", unix):
            gateway.wrapper += ["-l", address]
        # systemd-socket-activate starts the gateway when the first client connects.
        early = threads.submit(echo, socket.AF_INET, listener)
        gateway.start()
        assert early.result(60) == b"hello"
        assert f"no backend listens on 127.0.0.1:{unused}" in gateway.log
        assert echo(socket.AF_UNIX, unix) == b"hello"
        # If a reload removes the listener, systemd keeps its socket open. If another reload adds the listener, the
        # gateway uses this socket again.
        configure(unix)
        assert gateway.command("reload").returncode == 0
        gateway.wait(lambda: f"no backend listens on {tcp}" in gateway.log)
        waiting = threads.submit(echo, socket.AF_INET, listener)
        time.sleep(0.5)
        assert not waiting.done()
        configure(tcp, unix)
        assert gateway.command("reload").returncode == 0
        assert waiting.result(60) == b"hello"


@pytest.mark.parametrize(("allowed", "answer"), [("127.0.0.0/8", b"hello"), ("192.0.2.0/24", b"")])
def test_rules_for_ipv4_addresses_apply_to_ipv4_clients_of_a_socket_for_both_versions(
    gateway: Gateway, allowed: str, answer: bytes
) -> None:
    need(find("systemd-socket-activate") is not None, "systemd-socket-activate (package systemd)")
    listener = ("127.0.0.1", free_port())
    with serving(echoing) as port:
        gateway.write(f"""
            backends:
              echo:
                kind: tcp
                targets: ["127.0.0.1:{port}"]
                listen: "[::]:{listener[1]}"
                allow: [{allowed}]
        """)
        gateway.wrapper = ["systemd-socket-activate", "-E", f"PYTHONPATH={PYTHON_PATH}", "-l", f"[::]:{listener[1]}"]
        with ThreadPoolExecutor() as threads:
            early = threads.submit(first_reply, listener)
            gateway.start()
            assert early.result(60) == answer
        # The native engine accepts later clients, if it is installed.
        gateway.wait(lambda: gateway.status()["backends"]["echo"]["state"] == "up")
        assert first_reply(listener) == answer


def first_reply(address: tuple[str, int]) -> bytes:
    """Return the response; empty if the gateway resets the connection."""
    try:
        return echo(socket.AF_INET, address)
    except ConnectionError:
        return b""


def test_a_listener_on_a_bridge_serves_clients_after_the_bridge_is_created() -> None:
    need(os.geteuid() == 0 and find("ip") is not None, "root and ip (package iproute2)")
    name = f"gw-bridge-{os.getpid()}"
    run(f"ip netns add {name}")
    try:
        with inside(name):
            listener = Listener(HostPort("172.17.0.1", 3306), free_bind=True)
            run("ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up")
            run("ip link set lo up")
            socket.create_connection(("172.17.0.1", 3306), 10).close()
            listener.close()
    finally:
        run(f"ip netns del {name}")


@pytest.mark.parametrize("unit", ["gateway.service", "gateway.socket"])
def test_the_units_are_valid(unit: str, tmp_path: Path) -> None:
    need(find("systemd-analyze") is not None, "systemd-analyze (package systemd)")
    for name in ("gateway.service", "gateway.socket"):
        text = (REPOSITORY / "configs/systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/gateway", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, "gateway" in done.stderr) == (0, False), done.stderr
