"""Runs a virtual machine with a Docker engine. Tests can shut the virtual machine down, and boot it again."""

import contextlib
import datetime as dt
import json
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.nfs import NfsServer
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.gateway_disk import GatewayDisk
from tests.support.guest import HOST, Guest
from tests.support.guest_engine import ENGINE, ENGINE_PROGRAMS

log = logging.getLogger(__name__)

BOOT_DEADLINE = 900.0
"""The timeout for a boot of the virtual machine, in seconds."""
ALIVE = ("always", "unless-stopped")
"""The names of the containers that must run after a reboot. Each name is also the container's restart policy."""
_GATEWAY_DISK = "/gateway"
_BOOT = f"""
mkdir -p /var/lib/docker {_GATEWAY_DISK} && mount -t ext4 /dev/ubda /var/lib/docker
mount -t ext4 -o ro /dev/ubdb {_GATEWAY_DISK}
{ENGINE}
# The command `docker` takes a second in the guest.
until [ -d /var/lib/docker/volumes/halt ]; do sleep 1; done
docker volume rm halt
kill $(cat /var/run/docker.pid); while pidof dockerd >/dev/null; do sleep 1; done
# On a busy machine, dockerd does not wait for the end of its containers.
i=0; until umount /var/lib/docker 2>/dev/null || [ $i = 20 ]; do
  kill -9 $(pidof sleep python3 containerd-shim-runc-v2) 2>/dev/null
  for mount in $(grep -o ' /var/lib/docker/[^ ]*' /proc/mounts); do umount $mount; done
  sleep 1; i=$((i+1))
done
sync; echo HALTED
"""
"""The script that the virtual machine runs after boot. When a Docker volume `halt` exists, the script shuts the
virtual machine down."""

_CONFIG = """
gateway: {{instance: container, state_dir: /state}}
ops: {{listen: 127.0.0.1:9090, admin_socket: /state/admin.sock}}
tunnels:
  bastion: {{kind: ssh, host: {host}, port: {bastion.port}, user: {bastion.user},
    identity_files: [/config/tunnel_key], known_hosts: [/config/known_hosts]}}
backends:
  files: {{kind: nfs, via: bastion, targets: ["127.0.0.1:{server.port}"], export: /media, listen: 127.0.0.1:20490,
    volume: {{name: files}}}}
docker: {{host: unix:///host/run/docker.sock, revive: true}}
"""
"""The configuration of the gateway, which runs in a container of the virtual machine."""


class RebootHost:
    """A virtual machine with a Docker engine and persistent disks.

    Args:
        folder: The directory for the disk images.
        bastion: The SSH server to which the gateway in the container connects.
        server: The NFS server that the gateway reaches through this SSH server.
    """

    def __init__(self, folder: Path, bastion: Bastion, server: NfsServer) -> None:
        self._folder = folder
        files = {
            "gateway.yaml": _CONFIG.format(host=HOST, bastion=bastion, server=server),
            "tunnel_key": bastion.client_key.read_text(),
            "known_hosts": bastion.known_hosts.read_text().replace("127.0.0.1", HOST),
        }
        self._gateway = GatewayDisk(folder / "gateway-disk", files)
        self._disk = folder / "disk.img"
        self.port = free_port()
        self._boots = 0
        self._booted = 0.0
        """The time of the last boot, in seconds since the epoch."""
        with self._disk.open("wb") as file:
            file.truncate(1 << 30)
        subprocess.run(["mkfs.ext4", "-q", str(self._disk)], check=True, timeout=60)

    @contextlib.contextmanager
    def boot(self, *, wait: bool = True) -> Iterator[Guest]:
        """Boot the virtual machine, and run it until the block ends.

        Args:
            wait: Whether to wait until the engine responds.
        """
        self._boots += 1
        self._booted = time.time()
        folder = self._folder / f"boot{self._boots}"
        with Guest(
            folder, _BOOT, memory=2048, programs=ENGINE_PROGRAMS, forwards={self.port: 2375},
            disks=(self._disk, self._gateway.image),
        ) as guest:  # fmt: skip
            try:
                if wait:
                    guest.wait_for("ENGINE-READY", BOOT_DEADLINE)
                yield guest
            except BaseException:
                log.error("the last output of the machine:\n%s", "\n".join(guest.lines[-60:]))
                raise
        shutil.rmtree(folder)  # hundreds of megabytes

    def halt(self, guest: Guest) -> None:
        """Stop the engine and its containers, and wait until the virtual machine has synced its disks."""
        self.docker("volume", "create", "halt")
        guest.wait_for("HALTED", 300)

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run `docker …` against the engine of the virtual machine, and return the output on stdout."""
        done = self._run(*arguments)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "-H", f"tcp://127.0.0.1:{self.port}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def run_containers(self, volume: str) -> None:
        """Create the containers `always`, `unless-stopped`, `no`, `stopped` and `faulty`.

        The first three containers have the restart policy in their name. The other two containers have the restart
        policy `unless-stopped`. `stopped` is stopped after its start. `faulty` cannot start, because its program does
        not exist.
        """
        run = ("run", "-d", "--network", "none", "--stop-timeout", "1")
        reads = ("-v", f"{volume}:/media", "box", "sh", "-c", "cat /media/hello && sleep 99999")
        for policy in (*ALIVE, "no"):
            self.docker(*run, "--name", policy, "--restart", policy, *reads)
        self.docker(*run, "--name", "stopped", "--restart", "unless-stopped", *reads)
        self.docker(*run, "--name", "faulty", "--restart", "unless-stopped", "box", "/nonexistent", check=False)
        self.docker("stop", "stopped")

    def remove_containers(self) -> None:
        """Remove the containers that `run_containers` created."""
        self.docker("rm", "-f", *ALIVE, "no", "stopped", "faulty")

    def run_gateway(self) -> None:
        """Start the gateway in a container of the virtual machine. The gateway creates the volume `files`."""
        self.docker(
            "run", "-d", "--name", "gateway", "--network", "host", "--restart", "always", "--stop-timeout", "30",
            "-v", "/var/run:/host/run", "-v", "state:/state", *self._gateway.options(_GATEWAY_DISK), "box",
            self._gateway.python, "-m", "gateway", "run", "-c", "/config/gateway.yaml",
        )  # fmt: skip

    def gateway_events(self) -> list[dict[str, Any]]:
        """Return the JSON lines that the gateway has logged since the last boot."""
        done = self._run("logs", "--since", str(self._booted), "gateway")
        return [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]

    def wait(self, condition: Callable[[], bool], timeout: float) -> None:
        """Wait until the condition is true. Fail after `timeout` seconds, with the log of the gateway's container."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"the condition does not hold within {timeout} s: {self.gateway_events()}")
            time.sleep(1.0)

    @staticmethod
    def engine_started(guest: Guest) -> float:
        """Return the epoch time at which the engine completed its initialization, according to the engine's log."""
        (time_of_log,) = guest.said(r"^ENGINE-STARTED (\S+)")
        return dt.datetime.fromisoformat(time_of_log).timestamp()

    def started(self, *names: str) -> float:
        """Return the latest start time of these containers, in seconds since the epoch."""
        times = self.docker("inspect", "-f", "{{.State.StartedAt}}", *names).split()
        return max(dt.datetime.fromisoformat(each).timestamp() for each in times)

    def states(self) -> dict[str, str]:
        """Return the state of each container."""
        lines = self.docker("ps", "-a", "--format", "{{.Names}} {{.State}}").splitlines()
        return {name: state for name, _, state in (line.partition(" ") for line in lines)}

    def check_states(self) -> None:
        """Check that the containers in `ALIVE` run, and that the other containers of `run_containers` do not run.

        Wait until `always` has read the volume after the boot.
        """
        states = self.states()
        assert {states[name] for name in ALIVE} == {"running"}
        assert (states["stopped"], states["no"], states["faulty"]) == ("exited", "exited", "created")
        logs = ("logs", "--since", str(self._booted), "always")
        # On a busy machine, the container needs a long time to read the file.
        self.wait(lambda: self.docker(*logs).endswith("hello over NFS"), timeout=300.0)
