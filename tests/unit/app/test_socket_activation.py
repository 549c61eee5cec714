"""Tests the use of sockets that systemd passes to the service."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.socket_activation import PassedSockets, passed_sockets
from gateway.contracts.config_types import HostPort, unix_host_port

_PRINT = """
import os
from gateway.app.socket_activation import passed_sockets
from gateway.contracts.config_types import HostPort, unix_host_port
passed = passed_sockets()
print(passed.duplicates(HostPort("127.0.0.1", {port})) is not None, "LISTEN_FDS" in os.environ, os.get_inheritable(3))
"""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_a_listener_gets_the_socket_of_its_address(listening: socket.socket) -> None:
    passed, port = PassedSockets([listening]), listening.getsockname()[1]
    assert passed.duplicates(HostPort("127.0.0.1", port + 1)) is None
    assert passed.duplicates(unix_host_port(Path("/run/gateway/orders.sock"))) is None
    first = passed.duplicates(HostPort("127.0.0.1", port))
    assert first is not None
    first[0].close()
    # If a reload removes a listener and a later reload adds it again, the new listener gets a duplicate of the same
    # socket, and accepts the clients that connected in the meantime.
    with socket.create_connection(("127.0.0.1", port)) as client:
        (again,) = passed.duplicates(HostPort("localhost", port)) or []
        again.settimeout(5)
        accepted, address = again.accept()
        assert address == client.getsockname()
        accepted.close()
        again.close()


def test_addresses_are_compared_as_addresses(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "a.sock"))
        sock.listen()
        (found,) = PassedSockets([sock]).duplicates(unix_host_port(tmp_path / "a.sock")) or []
        assert not found.getblocking()
        found.close()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
        port = sock.getsockname()[1]
        (found,) = PassedSockets([sock]).duplicates(HostPort("0:0:0:0:0:0:0:1", port)) or []
        found.close()


def test_a_socket_without_a_backend_is_reported(listening: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    passed, port = PassedSockets([listening]), listening.getsockname()[1]
    passed.warn_unused([HostPort("127.0.0.1", port)])
    assert caplog.records == []
    passed.warn_unused([HostPort("127.0.0.1", port + 1)])
    (record,) = caplog.records
    assert f"no backend listens on 127.0.0.1:{port}" in str(vars(record)["detail"])


@pytest.mark.parametrize("pid", ["own", "other"])
def test_descriptors_are_used_only_by_the_process_in_listen_pid(listening: socket.socket, pid: str) -> None:
    """Child processes inherit neither the used descriptors nor LISTEN_FDS. Other descriptors stay unchanged."""
    port = listening.getsockname()[1]
    number = "$$" if pid == "own" else str(os.getpid())
    shell = f'export LISTEN_PID={number} LISTEN_FDS=1; exec "$0" -c "$1" 3<&{listening.fileno()}'
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable, _PRINT.format(port=port)], pass_fds=[listening.fileno()],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.split() == (["True", "False", "False"] if pid == "own" else ["False", "False", "True"])


def test_without_systemd_no_sockets_are_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert passed_sockets().duplicates(HostPort("127.0.0.1", 1)) is None
