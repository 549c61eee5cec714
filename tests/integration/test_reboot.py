"""Tests reboots of a host with NFS volumes. The host is a virtual machine with an engine and a persistent disk."""

import datetime as dt
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.nfs import NfsServer
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from tests.support.configs import write_nfs
from tests.support.gateway_process import Gateway
from tests.support.guest import HOST, need_guest
from tests.support.guest_engine import ENGINE_PROGRAMS
from tests.support.reboot_host import ALIVE, BOOT_DEADLINE, RebootHost
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

log = logging.getLogger(__name__)

ROUNDS = int(os.environ.get("REBOOT_ROUNDS", "0"))
"""Number of reboots for each start time of the bastion: before the engine, with the engine, and 60 s later. If 0, the
test uses only the last start time, once, and does not reboot without revival."""
LIMIT = 60.0
"""The maximum time in seconds from the start of the engine and of the bastion until the gateway has requested the
starts of all containers."""
RUN_LIMIT = 300.0
"""The maximum time in seconds from the start of the engine and of the bastion until the containers run. The engine
runs in User-Mode Linux, which is slow while other processes use the host's processor."""
DEADLINE = 300.0
"""The maximum time in seconds for which the test waits for one condition."""


@pytest.fixture
def server(nfs_server: NfsServer) -> NfsServer:
    need_guest()
    programs = (*ENGINE_PROGRAMS, "mkfs.ext4")
    need(all(find(program) for program in programs), "a Docker Engine (packages docker.io docker-cli e2fsprogs)")
    (nfs_server.export / "hello").write_text("hello over NFS\n")
    return nfs_server


def _requested_starts(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the epoch time at which the gateway first requested the start of each container, from its log."""
    starts = [each for each in events if each["event"] == "docker start requested"]
    return {each["container"]: _time(each) for each in reversed(starts)}


def _time(event: Mapping[str, Any]) -> float:
    """Return the epoch time of a log event."""
    return dt.datetime.fromisoformat(event["timestamp"]).timestamp()


def _events(gateway: Gateway) -> list[dict[str, Any]]:
    """Return the log events of the current gateway process."""
    return [json.loads(line) for line in gateway.log.splitlines()]


def _revived(gateway: Gateway) -> float:
    name = 'gateway_containers_revived_total{reason="volume"} '
    _, metrics = gateway.http.get("/metrics")
    return float(next(line for line in str(metrics).splitlines() if line.startswith(name)).removeprefix(name))


def _unavailable(gateway: Gateway) -> dict[str, str]:
    """Return the containers that do not run because of their volumes, each with the command that starts it."""
    found = (gateway.status()["docker"] or {}).get("dead_containers", [])
    return {each["container"]: each["command"] for each in found}


def _all_run(host: RebootHost) -> bool:
    states = host.states()
    return all(states[name] == "running" for name in ALIVE)


def _reboot_without_revival(host: RebootHost, gateway: Gateway) -> None:
    """Boot the machine without revival, and check that the gateway shows the commands that start the containers.

    Args:
        host: The machine, which does not run.
        gateway: The gateway, which does not run.
    """
    with host.boot() as guest:
        gateway.start().wait_up("media")
        gateway.wait(lambda: set(_unavailable(gateway)) == set(ALIVE), timeout=DEADLINE)
        time.sleep(20)
        assert {host.states()[name] for name in ALIVE} == {"exited"}
        assert _unavailable(gateway) == {name: f"docker start {name}" for name in ALIVE}
        host.docker("start", *ALIVE)
        host.halt(guest)
    gateway.stop()


def _reboot_and_revive(host: RebootHost, gateway: Gateway, bastion: Bastion, delay: float | None) -> None:
    """Boot the machine, and check that the gateway starts the containers.

    Args:
        host: The machine, which does not run.
        gateway: The gateway, which does not run.
        bastion: The server of the tunnel.
        delay: The seconds from the start of the engine to the start of the bastion; None if the bastion already runs.
    """
    if delay is not None:
        bastion.stop()
    (gateway.folder / "gateway.log").unlink()
    with host.boot() as guest:
        gateway.start()
        up_at = host.engine_started(guest)
        if delay is not None:
            time.sleep(delay)
            bastion.start()
            up_at = max(up_at, time.time())
        gateway.wait(lambda: _requested_starts(_events(gateway)).keys() == set(ALIVE), timeout=DEADLINE)
        requested = max(_requested_starts(_events(gateway)).values()) - up_at
        gateway.wait(lambda: _all_run(host), timeout=DEADLINE)
        ran = host.started(*ALIVE) - up_at
        log.info("tunnel at %s: starts requested after %.1f s, containers ran after %.1f s", delay, requested, ran)
        assert requested < LIMIT
        assert 0 < ran < RUN_LIMIT
        gateway.wait(lambda: _revived(gateway) == len(ALIVE), timeout=DEADLINE)
        host.check_states()
        gateway.wait(lambda: not _unavailable(gateway), timeout=DEADLINE)
        host.halt(guest)
    gateway.stop()


def _reboot_after_the_gateway(host: RebootHost, gateway: Gateway, bastion: Bastion, delay: float) -> None:
    """Boot the machine after the start of the gateway, and check that the engine itself starts the containers.

    Then, stop the gateway, and start another gateway in a container of the machine.

    Args:
        host: The machine, which does not run.
        gateway: The gateway, which does not run.
        bastion: The server of the tunnel.
        delay: The seconds from the engine's first attempt to mount the volume to the start of the bastion.
    """
    bastion.stop()
    (gateway.folder / "gateway.log").unlink()
    gateway.start()
    with host.boot(wait=False) as guest:
        gateway.wait(lambda: gateway.backend("media")["connections"]["waiting"] > 0, timeout=BOOT_DEADLINE)
        time.sleep(delay)
        assert not guest.said("^(ENGINE-STARTED)")  # the engine waits for the mount
        up_at = time.time()
        bastion.start()
        guest.wait_for("ENGINE-READY", BOOT_DEADLINE)
        gateway.wait(lambda: _all_run(host), timeout=DEADLINE)
        ran = host.started(*ALIVE) - up_at
        log.info("gateway before the engine: containers ran %.1f s after the tunnel", ran)
        assert 0 < ran < RUN_LIMIT
        host.check_states()
        gateway.wait(lambda: not _unavailable(gateway), timeout=DEADLINE)
        assert not _requested_starts(_events(gateway))
        host.remove_containers()
        gateway.stop()
        _run_gateway_and_containers(host)
        host.halt(guest)


def _run_gateway_and_containers(host: RebootHost) -> None:
    """Start the gateway in a container of the machine, and containers with a volume through this gateway."""
    host.run_gateway()
    host.wait(lambda: bool(_up_at(host)), timeout=BOOT_DEADLINE)
    host.wait(lambda: "files" in host.docker("volume", "ls", "-q"), timeout=DEADLINE)
    host.run_containers("files")


def _up_at(host: RebootHost) -> list[float]:
    """Return the epoch time of each event `target up` in the log of the gateway in the container."""
    return [_time(each) for each in host.gateway_events() if each["event"] == "target up"]


def _reboot_with_the_gateway_in_a_container(host: RebootHost) -> None:
    """Boot the machine, and check that the gateway in a container starts the other containers."""
    with host.boot() as guest:
        host.wait(lambda: bool(_up_at(host)), timeout=BOOT_DEADLINE)
        up_at = max(host.engine_started(guest), _up_at(host)[0])
        host.wait(lambda: _requested_starts(host.gateway_events()).keys() == set(ALIVE), timeout=DEADLINE)
        host.wait(lambda: _all_run(host), timeout=DEADLINE)
        requested = max(_requested_starts(host.gateway_events()).values()) - up_at
        ran = host.started(*ALIVE) - up_at
        log.info(
            "gateway in a container: up %.1f s after the engine, starts requested after %.1f s, containers ran after"
            " %.1f s", up_at - host.engine_started(guest), requested, ran,
        )  # fmt: skip
        assert requested < LIMIT
        assert 0 < ran < RUN_LIMIT
        host.check_states()


def test_containers_with_nfs_volumes_run_after_a_reboot(
    gateway: Gateway, bastion: Bastion, server: NfsServer, tmp_path: Path
) -> None:
    """Reboot the machine, and check that its containers run again.

    The gateway starts after the engine, before the engine, or in a container of this engine.
    """
    host, port = RebootHost(tmp_path, bastion, server), free_port()

    def configure(*, revive: bool) -> None:
        write_nfs(
            gateway, bastion, server, port,
            volume=f"{{name: media, address: {HOST}}}",
            docker=f'{{host: "tcp://127.0.0.1:{host.port}", revive: {str(revive).lower()}}}',
        )  # fmt: skip

    configure(revive=False)
    gateway.start().wait_up("media")
    with host.boot() as guest:
        gateway.wait(lambda: "media" in host.docker("volume", "ls", "-q"), timeout=DEADLINE)
        host.run_containers("media")
        host.halt(guest)
    gateway.stop()

    if ROUNDS:
        _reboot_without_revival(host, gateway)
    configure(revive=True)
    for delay in [None, 0.0, 60.0] * ROUNDS or [60.0]:
        _reboot_and_revive(host, gateway, bastion, delay)
    _reboot_after_the_gateway(host, gateway, bastion, delay=60.0)
    _reboot_with_the_gateway_in_a_container(host)
