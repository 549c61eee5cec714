"""Tests how `gateway.workers` and `data_plane: asyncssh` affect the number of threads of the native engine."""

import contextlib
import re
import signal
from pathlib import Path

import pytest

from gateway import _dataplane as data_plane
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.clients import connect, echo
from tests.support.configs import CHECK, ssh_tunnel
from tests.support.gateway_process import Gateway, command
from tests.support.servers import echoing, serving

pytestmark = pytest.mark.integration


def engine_threads(pid: int) -> int:
    """Return the number of threads of the native engine. Only these threads block SIGUSR1."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    blocked = [
        int(match[1], 16) for each in statuses if (match := re.search(r"^SigBlk:\s+(\w+)", each, re.MULTILINE))
    ]
    return sum(mask >> (signal.SIGUSR1 - 1) & 1 for mask in blocked)


@pytest.mark.skipif(not data_plane.is_built(), reason="the engine is not built")
def test_workers_are_threads_and_cause_a_warning(gateway: Gateway, shared_bastion: Bastion) -> None:
    with serving(echoing) as port, contextlib.ExitStack() as stack:
        listen = free_port()
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion, more=", connections: {min: 4, max: 4}")}
            backends:
              one: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{listen}, {CHECK}}}
        """)
        gateway.config.write_text(
            gateway.config.read_text().replace("{instance: test", "{workers: 2, instance: test")
        )
        gateway.start().wait_up("one")
        clients = [stack.enter_context(connect(listen)) for _ in range(8)]
        for number, client in enumerate(clients):
            assert echo(client, b"%d" % number * 1000) == b"%d" % number * 1000
        gateway.wait(lambda: gateway.tunnel("bastion")["connections"] == 4)
        gateway.wait(lambda: engine_threads(gateway.pid) == 2)  # a new Python thread looks the same for a moment
        assert gateway.backend("one")["connections"]["active"] == 8

    warning = (
        f"{gateway.config}:2:20: gateway.workers: is deprecated, because threads have replaced the worker processes:"
        " set gateway.threads to 2 instead"
    )
    assert gateway.status()["warnings"] == [warning]
    assert warning in gateway.log
    for arguments in (("validate",), ("check", "-o", "json")):
        assert f"warning: {warning}\n" in command(*arguments, "-c", str(gateway.config)).stderr
    # `threads` has the same effect as `workers`, so the reload changes no setting, and removes the warning.
    gateway.config.write_text(gateway.config.read_text().replace("workers: 2", "threads: 2"))
    assert gateway.client.post("/-/reload")[0] == 200
    gateway.wait(lambda: gateway.status()["warnings"] == [])
    gateway.config.write_text(gateway.config.read_text().replace("threads: 2", "threads: 2, workers: 2"))
    refused = command("validate", "-c", str(gateway.config))
    assert refused.returncode == 2
    assert f"{gateway.config}:2:32: gateway.workers: cannot be set together with gateway.threads (" in refused.stderr


@pytest.mark.skipif(not data_plane.is_built(), reason="the engine is not built")
def test_no_thread_is_used_if_the_ssh_tunnels_exclude_the_engine(gateway: Gateway, shared_bastion: Bastion) -> None:
    ports = {"tunneled": free_port(), "straight": free_port()}

    def write(data_plane: str) -> None:
        common = f"kind: tcp, targets: ['127.0.0.1:{port}'], {CHECK}"
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion, more=f", data_plane: {data_plane}")}
            backends:
              tunneled: {{{common}, via: bastion, listen: 127.0.0.1:{ports["tunneled"]}}}
              straight: {{{common}, listen: 127.0.0.1:{ports["straight"]}}}
        """)

    with serving(echoing) as port:
        write("asyncssh")
        gateway.start().wait_up(*ports)
        for _ in range(3):
            for listen in ports.values():
                with connect(listen) as client:
                    assert echo(client) == b"hello"
        gateway.wait(lambda: engine_threads(gateway.pid) == 0)
        write("auto")
        assert gateway.command("reload").returncode == 0
        with connect(ports["straight"]) as client:
            assert echo(client) == b"hello"
        assert engine_threads(gateway.pid) > 0
