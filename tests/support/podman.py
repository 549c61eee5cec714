"""Runs real Podman engines. Each engine has separate network, mount and PID namespaces."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from gateway.demo.server_process import find
from tests.support.engines import Engine
from tests.support.requirements import need

_READY = 40.0
_DIE = 10.0
_INIT = """
set -e
mount -t tmpfs none /run/containers && mount -t tmpfs none /dev/shm
[ ! -e /usr/bin/dpkg ] || mount --bind /bin/false /usr/bin/dpkg
echo ready
while :; do sleep 3600; done
"""
"""The script of the first process of the PID namespace. The script mounts a separate /run/containers and /dev/shm,
because Podman stores data there that all engines of a host share, such as addresses and locks. The script also
disables dpkg. For each request to /version, Podman runs dpkg six times, and dpkg uses more CPU time than Podman."""
_ROOTLESS = """
set -e
mount --bind "$1/subid" /etc/subuid && mount --bind "$1/subid" /etc/subgid
mknod -m 666 "$1/tun" c 10 200 && mount --bind "$1/tun" /dev/net/tun
"""
"""Additional commands for a rootless engine. They configure the user IDs for containers, and give all users access to
/dev/net/tun, as udev does."""
NOBODY = 65534
_CONF = """
[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
default_subnet = "10.90.0.0/16"
"""


def need_podman() -> None:
    """If this machine cannot run Podman, skip the test; in CI, fail the test."""
    programs = all(find(each) is not None for each in ("podman", "runc", "docker", "busybox", "nft"))
    helpers = all(Path("/usr/lib/podman", each).exists() for each in ("netavark", "aardvark-dns"))
    what = "root and Podman (packages podman netavark aardvark-dns runc nftables catatonit docker-cli busybox-static)"
    need(os.geteuid() == 0 and programs and helpers, what)


@contextlib.contextmanager
def running_podman(folder: Path) -> Iterator["Podman"]:
    """Run a Podman engine with the images `busybox` and `host` until the block ends.

    If this machine cannot run Podman, skip the test; in CI, fail the test.
    """
    need_podman()
    podman = Podman(folder)
    with mock.patch.dict(os.environ, DOCKER_BUILDKIT="0"):  # Podman's API does not support BuildKit
        try:
            podman.start()
            podman.load_busybox()
            podman.load_host()
            yield podman
        finally:
            podman.stop()


class Podman(Engine):
    """A Podman engine. Its API server implements Docker's API.

    Args:
        folder: The directory for the engine's data.
        namespace: The network namespace in which Podman runs; None creates a new namespace.
        rootless: Whether the user nobody runs Podman, instead of root. This user must have access to `folder`.
    """

    def __init__(self, folder: Path, namespace: str | None = None, *, rootless: bool = False) -> None:
        super().__init__(folder, namespace)
        self._rootless = rootless
        if rootless:
            (folder / "subid").write_text(f"nobody:{1 << 20}:65536\n")
            for each in (folder, self._runtime):
                os.chown(each, NOBODY, NOBODY)
        self._init: subprocess.Popen[str] | None = None
        self._api: subprocess.Popen[bytes] | None = None
        (folder / "containers.conf").write_text(_CONF)

    def start(self) -> "Podman":
        """Start the API server, and wait until it responds."""
        if self._init is None:
            self._begin()
        with (self.folder / "log").open("ab") as log:
            self._api = subprocess.Popen(
                self._command("system", "service", "--time", "0", self.url),
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment(),
            )  # fmt: skip
        deadline = time.monotonic() + _READY
        while self.docker("version", check=False).returncode:
            if self._api.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"podman does not answer: {(self.folder / 'log').read_text()[-1500:]}")
            time.sleep(0.1)
        return self

    def remove_all(self) -> None:
        """Remove every pod and container, and then every unused network.

        Each pod must have an infra container whose name ends in `-infra`. This is Podman's default.
        """
        if self._api is not None and self._api.poll() is not None:  # the test has killed the API server
            self.start()
        names = self.docker("ps", "-a", "--format", "{{.Names}}").stdout.split()
        if any(name.endswith("-infra") for name in names):
            self._remove("pod")
        if names:
            self._remove()
        self.docker("network", "prune", "-f")

    def _begin(self) -> None:
        if self._own_namespace:
            subprocess.run(["ip", "netns", "add", self.namespace], check=True, timeout=10)
            subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True, timeout=10)
        Path("/run/containers").mkdir(exist_ok=True)
        self._init = subprocess.Popen(
            ["nsenter", f"--net=/var/run/netns/{self.namespace}", "unshare", "--mount", "--pid", "--fork",
             "--kill-child", "--mount-proc", "sh", "-c", (_ROOTLESS if self._rootless else "") + _INIT, "sh",
             str(self.folder)],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._init.stdout is not None
        if self._init.stdout.readline() != "ready\n":
            raise RuntimeError("unshare failed")

    def _first(self) -> int:
        """Return the process ID of the first process of the PID namespace."""
        assert self._init is not None
        return _children(self._init.pid)[0]

    def _command(self, *arguments: str) -> list[str]:
        """Return the command line that runs `podman …` in the engine's namespaces."""
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if self._rootless else []
        return [
            "nsenter", "-t", str(self._first()), "--net", "--mount", "--pid", *user, "podman",
            "--root", str(self.folder / "storage"), "--runroot", str(self._runtime / "run"),
            "--tmpdir", str(self._runtime / "tmp"), "--network-config-dir", str(self.folder / "networks"), *arguments,
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        own = {"CONTAINERS_CONF": str(self.folder / "containers.conf"), "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}
        return {**os.environ, **own, "HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self._runtime)}

    def podman(
        self, *arguments: str, check: bool = True, timeout: float = 60, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `podman …` directly, without the API server."""
        command = self._command(*arguments)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self._environment(), process_group=0,
        ) as process:  # fmt: skip
            try:
                output, errors = process.communicate(text, timeout)
            except BaseException:
                # nsenter has started podman as a child. If podman continued, it could hold locks of the engine.
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if check and process.returncode:
            raise AssertionError(f"podman {' '.join(arguments)}: {errors}")
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def _remove(self, *kind: str, check: bool = True) -> None:
        """Remove all containers, or all pods if `kind` is `pod`. Repeat the removal once after an error or a timeout.

        When a container has exited, Podman starts `podman container cleanup`. If this process removes the container's
        addresses at the same time, the removal fails. The two processes can also deadlock. The timeout then kills the
        removal, so that the other process gets its locks.
        """
        arguments = (*kind, "rm", "-fa", "-t", "0")
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.podman(*arguments, check=False).returncode == 0:
                return
        self.podman(*arguments, check=check)

    @property
    def pid(self) -> int:
        """The process ID of the API server."""
        assert self._api is not None
        return _children(self._api.pid)[0]

    def aliases(self, container: str, network: str) -> list[str]:
        """Return the aliases of a container on a network, except the container's short ID, which Podman adds."""
        short = self.inspect(container)["Id"][:12]
        return [each for each in super().aliases(container, network) if each != short]

    def kill(self) -> None:
        """Kill the API server with SIGKILL. Containers continue to run."""
        assert self._api is not None
        os.kill(self.pid, signal.SIGKILL)
        self._api.wait(_DIE)

    def stop(self) -> None:
        """Stop the engine, its containers and its other processes."""
        init = self._init
        if init is None:
            return
        with contextlib.suppress(subprocess.SubprocessError):
            self._remove("pod", check=False)
            self._remove(check=False)  # this also removes the containers' cgroups
        self._init = None
        init.kill()
        init.wait(_DIE)
        if init.stdout is not None:
            init.stdout.close()
        if self._api is not None:
            self._api.wait(_DIE)
        for folder in (self.folder, self._runtime):
            shutil.rmtree(folder, ignore_errors=True)
        if self._own_namespace:
            subprocess.run(["ip", "netns", "del", self.namespace], check=False, timeout=10)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
