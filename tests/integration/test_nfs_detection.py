"""Tests how soon checks with default settings detect an NFS server that hangs, stops, is full, or is read-only."""

import contextlib
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.demo.nfs import NfsServer
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.configs import write_nfs
from tests.support.gateway_process import Gateway
from tests.support.lateness import Lateness

pytestmark = pytest.mark.integration

SOON = 12.0
"""The maximum seconds until the gateway detects a failure: 10, and 2 more for a busy machine."""


@pytest.fixture
def server(tmp_path: Path, small_export: Path) -> Iterator[NfsServer]:
    made = NfsServer(tmp_path / "nfs", export=small_export).start()
    yield made
    made.stop()


def start(gateway: Gateway, bastion: Bastion, server: NfsServer, check: str, *arguments: str) -> int:
    port = free_port()
    write_nfs(gateway, bastion, server, port, check)
    gateway.start(*arguments).wait_up("media")
    return port


def wait_down(gateway: Gateway, reason: str) -> None:
    """Check that the backend is down within `SOON` seconds plus the measured delays of this machine."""
    with Lateness() as machine:
        took = gateway.wait(lambda: gateway.state("media") == ("down", reason))
    assert took < SOON + machine.sum, gateway.log


@contextlib.contextmanager
def in_use(port: int, *, waits: bool) -> Iterator[None]:
    """Run a client that repeatedly calls the RPC procedure NULL (RFC 5531), and reconnects when its connection ends.

    Args:
        port: The port of the gateway.
        waits: Whether the client waits for each response before the next request. A mount that many processes use
            does not wait.
    """
    done = threading.Event()

    def ask() -> None:
        number = 0
        while not done.wait(0.1):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as sock:
                answer = b"."
                while answer and not done.wait(0.1):
                    number += 1
                    sock.settimeout(60)
                    sock.sendall(struct.pack(">11I", 0x80000028, number, 0, 2, 100003, 4, 0, 0, 0, 0, 0))
                    if not waits:
                        sock.settimeout(0.2)
                    with contextlib.nullcontext() if waits else contextlib.suppress(TimeoutError):
                        answer = sock.recv(4096)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        time.sleep(0.5)
        yield
    finally:
        done.set()
        thread.join(70)


FAILURES: dict[str, tuple[Callable[[NfsServer], None], Callable[[NfsServer], object], str]] = {
    "hangs": (lambda server: server.send(signal.SIGSTOP), lambda server: server.send(signal.SIGCONT), "timeout"),
    "has ended": (lambda server: server.stop(signal.SIGKILL), NfsServer.start, "refused"),
}


@pytest.mark.parametrize("waits", [True, False], ids=["one at a time", "many at once"])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.timeout(600)
def test_a_hanging_server_in_use_is_down_quickly(
    gateway: Gateway, shared_bastion: Bastion, server: NfsServer, failure: str, waits: bool
) -> None:
    break_it, repair, reason = FAILURES[failure]
    port = start(gateway, shared_bastion, server, "{}")
    with in_use(port, waits=waits):
        break_it(server)
        wait_down(gateway, reason)
        repair(server)
        gateway.wait_up("media", timeout=30)


def test_a_full_and_a_read_only_export_are_down_at_the_next_check(
    gateway: Gateway, shared_bastion: Bastion, server: NfsServer
) -> None:
    start(gateway, shared_bastion, server, "{interval: 1s, write: true}")

    def has_failed(reason: str) -> bool:
        seen = gateway.backend("media")
        if not seen["targets"][0]["failures"].get(reason):
            return False
        assert (seen["state"], seen["reason"]) == ("down", reason)
        return True

    filler = server.export / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    gateway.wait(lambda: has_failed("no_space"))
    filler.unlink()
    gateway.wait_up("media")
    subprocess.run(["mount", "-o", "remount,ro", server.export], check=True, timeout=20)
    gateway.wait(lambda: has_failed("read_only"))
    subprocess.run(["mount", "-o", "remount,rw", server.export], check=True, timeout=20)
    gateway.wait_up("media")


@pytest.mark.timeout(600)
def test_a_recreated_directory_is_reported_until_checks_are_resumed(
    gateway: Gateway, shared_bastion: Bastion, server: NfsServer
) -> None:
    shared = server.export / "shared"
    shared.mkdir()
    write_nfs(gateway, shared_bastion, server, free_port(), "{interval: 1s}")
    gateway.config.write_text(gateway.config.read_text().replace("export: /media", "export: /media/shared"))
    gateway.start().wait_up("media")
    server.stop()
    shared.rename(server.export / "kept")
    shared.mkdir()
    server.start()
    gateway.wait_state("media", "degraded", "export", timeout=30)
    before = gateway.backend("media")["targets"][0]["attempts"]
    gateway.wait(lambda: gateway.backend("media")["targets"][0]["attempts"] > before + 2)
    # The backend stays degraded, because existing mounts are stale.
    assert gateway.state("media") == ("degraded", "export")
    assert gateway.command("resume", "media").returncode == 0
    gateway.wait_up("media")
    assert gateway.backend("media")["targets"][0]["attempts"] > before  # `resume` does not reset the number of probes
