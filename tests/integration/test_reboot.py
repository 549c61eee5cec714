"""Tests reboots of a host with NFS volumes. The host is a virtual machine with an engine and a persistent disk."""

import contextlib
import datetime as dt
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.nfs import NfsServer
from gateway.demo.process import find, free_port
from gateway.demo.sshd import Bastion
from tests.support.configs import write_nfs
from tests.support.gateway_process import Gateway
from tests.support.guest import HOST, Guest, need_guest
from tests.support.guest_engine import ENGINE, ENGINE_PROGRAMS
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]

log = logging.getLogger(__name__)

ROUNDS = int(os.environ.get("REBOOT_ROUNDS", "1"))
"""The number of reboots for each order in which engine and tunnel can start."""
LIMIT = 60.0
"""The maximum time in seconds from the start of the engine and of the bastion until the gateway has requested the
starts of all containers."""
EMULATED = 300.0
"""The maximum time in seconds, from the same moment, until the containers run. QEMU emulates the processor of the
machine: while other processes use the host's processor, the engine needs up to two minutes for what takes less than a
second on a real machine."""
DEADLINE = 300.0
"""The timeout of other waits, in seconds."""
BOOT = f"""
mkdir -p /var/lib/docker && mount -t ext4 /dev/vda /var/lib/docker
{ENGINE}
until docker volume inspect halt >/dev/null 2>&1; do sleep 1; done
docker volume rm halt
kill $(cat /var/run/docker.pid); while pidof dockerd >/dev/null; do sleep 1; done
# On a busy machine, dockerd does not wait for the end of its containers.
i=0; until umount /var/lib/docker 2>/dev/null || [ $i = 20 ]; do
  kill -9 $(pidof sleep containerd-shim-runc-v2) 2>/dev/null
  for mount in $(grep -o ' /var/lib/docker/[^ ]*' /proc/mounts); do umount $mount; done
  sleep 1; i=$((i+1))
done
sync; echo HALTED
"""
"""The boot script of the machine. The script shuts the machine down when a volume named `halt` exists."""
ALIVE = ("always", "unless-stopped")


class Host:
    """The virtual machine that reboots.

    Args:
        folder: The directory of the disk image.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._disk = folder / "disk.img"
        self.port = free_port()
        self._boots = 0
        with self._disk.open("wb") as disk:
            disk.truncate(1 << 30)
        subprocess.run(["mkfs.ext4", "-q", str(self._disk)], check=True, timeout=60)

    @contextlib.contextmanager
    def boot(self) -> Iterator[Guest]:
        """Start the machine, wait until its engine responds, and run it until the block ends."""
        self._boots += 1
        with Guest(
            self._folder / f"boot{self._boots}", BOOT, memory=2048, programs=ENGINE_PROGRAMS,
            forwards={self.port: 2375}, disk=self._disk,
        ) as guest:  # fmt: skip
            guest.wait_for("ENGINE-READY", 900)
            yield guest

    def halt(self, guest: Guest) -> None:
        """Shut the machine down cleanly."""
        self.docker("volume", "create", "halt")
        guest.wait_for("HALTED", 300)

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run `docker …` against the engine of the machine."""
        url = f"tcp://127.0.0.1:{self.port}"
        done = subprocess.run(
            ["docker", "-H", url, *arguments], capture_output=True, text=True, timeout=300, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    @staticmethod
    def engine_started(guest: Guest) -> float:
        """Return the epoch time at which the engine was ready, according to its log."""
        (time_of_log,) = guest.said(r"^ENGINE-STARTED (\S+)")
        return dt.datetime.fromisoformat(time_of_log).timestamp()

    def started(self, *names: str) -> float:
        """Return the epoch time at which the last of these containers started, according to the engine."""
        times = self.docker("inspect", "-f", "{{.State.StartedAt}}", *names).split()
        return max(dt.datetime.fromisoformat(each).timestamp() for each in times)

    def states(self) -> dict[str, str]:
        """Return the state of each container."""
        lines = self.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines()
        return {name: state for name, _, state in (line.partition(" ") for line in lines)}


@pytest.fixture
def server(nfs_server: NfsServer) -> NfsServer:
    need_guest()
    programs = (*ENGINE_PROGRAMS, "mkfs.ext4")
    need(all(find(program) for program in programs), "a Docker Engine (packages docker.io docker-cli e2fsprogs)")
    (nfs_server.export / "hello").write_text("hello over NFS\n")
    return nfs_server


def _requested_starts(gateway: Gateway) -> set[str]:
    """Return the containers whose start the current process of the gateway has requested."""
    lines = map(json.loads, gateway.log.splitlines())
    return {each["container"] for each in lines if each["event"] == "docker start requested"}


def _revived(gateway: Gateway) -> float:
    name = 'gateway_containers_revived_total{reason="volume"} '
    _, metrics = gateway.http.get("/metrics")
    return float(next(line for line in str(metrics).splitlines() if line.startswith(name)).removeprefix(name))


def _dead(gateway: Gateway) -> dict[str, str]:
    """Return the command for each container that does not run because of its volume."""
    found = (gateway.status()["docker"] or {}).get("dead_containers", [])
    return {each["container"]: each["command"] for each in found}


def _reboot_and_revive(host: Host, gateway: Gateway, bastion: Bastion, delay: float | None) -> None:
    """Boot the machine, and check that the gateway starts the containers.

    Args:
        host: The machine, which does not run.
        gateway: The gateway, which does not run.
        bastion: The server of the tunnel.
        delay: The seconds after the start of the engine at which the tunnel can open; None if it can open before.
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
        gateway.wait(lambda: _requested_starts(gateway) == set(ALIVE), timeout=DEADLINE)
        requested = time.time() - up_at
        gateway.wait(lambda: all(host.states()[name] == "running" for name in ALIVE), timeout=DEADLINE)
        ran = host.started(*ALIVE) - up_at
        log.info("tunnel at %s: starts requested after %.1f s, containers ran after %.1f s", delay, requested, ran)
        assert requested < LIMIT
        assert 0 < ran < EMULATED
        gateway.wait(lambda: _revived(gateway) == len(ALIVE), timeout=DEADLINE)
        states = host.states()
        assert (states["stopped"], states["no"], states["faulty"]) == ("exited", "exited", "created")
        assert host.docker("logs", "--since", "5m", "always").endswith("hello over NFS")
        gateway.wait(lambda: not _dead(gateway), timeout=DEADLINE)
        host.halt(guest)
    gateway.stop()


def test_containers_with_nfs_volumes_run_after_a_reboot(
    gateway: Gateway, bastion: Bastion, server: NfsServer, tmp_path: Path
) -> None:
    """The engine mounts the volumes before the gateway listens, as if the gateway were a container of this engine."""
    host, port = Host(tmp_path), free_port()

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
        run = ("run", "-d", "--network", "none", "--stop-timeout", "1")
        reads = ("box", "sh", "-c", "cat /media/hello && sleep 99999")
        for policy in (*ALIVE, "no"):
            host.docker(*run, "--name", policy, "--restart", policy, "-v", "media:/media", *reads)
        host.docker(*run, "--name", "stopped", "--restart", "unless-stopped", "-v", "media:/media", *reads)
        host.docker(*run, "--name", "faulty", "--restart", "unless-stopped", "box", "/nonexistent", check=False)
        host.docker("stop", "stopped")
        host.halt(guest)
    gateway.stop()

    with host.boot() as guest:  # no gateway revives the containers
        gateway.start().wait_up("media")
        gateway.wait(lambda: set(_dead(gateway)) == set(ALIVE), timeout=DEADLINE)
        time.sleep(20)
        assert {host.states()[name] for name in ALIVE} == {"exited"}
        assert _dead(gateway) == {name: f"docker start {name}" for name in ALIVE}
        host.docker("start", *ALIVE)
        host.halt(guest)
    gateway.stop()

    configure(revive=True)
    for delay in [None, 0.0, 60.0] * ROUNDS:
        _reboot_and_revive(host, gateway, bastion, delay)
