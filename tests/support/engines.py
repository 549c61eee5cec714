"""Runs real Docker engines as child processes, with images that this module builds."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.demo.server_process import find
from tests.support.files import PYTHON_PATH, REPOSITORY
from tests.support.requirements import need

_DIE = 10.0
_NUMBERS = itertools.count(1)
_READY = 40.0
PLUGINS = Path("/run/docker/plugins")
"""The directory in which the engines of a host look for plugins. If an engine has found a plugin that
later exits, many requests to the engine wait 15 s for the plugin."""
_MEMORY = 8 << 30
"""The available memory, in bytes, that an engine needs to keep its data in memory."""
_DEVICE_SIZE = 16 << 30
"""The size in bytes of a block device in memory. The device is a sparse file, so only written data uses memory."""


def available() -> bool:
    """Return whether this machine can run an engine."""
    return os.geteuid() == 0 and find("dockerd") is not None and find("busybox") is not None


def need_engine() -> None:
    """If this machine cannot run an engine, skip the test; in CI, fail the test."""
    need(available(), "root and a Docker Engine (packages docker.io docker-cli busybox-static)")


@contextlib.contextmanager
def running_engine(folder: Path, *, on_device: bool = False, plugins: Path | None = None) -> Iterator["Engine"]:
    """Run an engine with the images `busybox` and `host` until the block ends.

    If this machine cannot run an engine, skip the test; in CI, fail the test.

    Args:
        folder: The directory for the engine's data.
        on_device: Whether the file system in memory for the engine's data is ext4 on a block device, instead of a
            tmpfs. Tests of `gateway audit` need the block device, because `gateway audit` reports volumes on a tmpfs.
        plugins: See `Engine`.
    """
    need_engine()
    engine = Engine(folder, on_device=on_device, plugins=plugins).start()
    try:
        engine.load_busybox()
        engine.load_host()
        yield engine
    finally:
        engine.stop()


class Engine:
    """A dockerd with separate data and a separate network namespace.

    The removal of the network namespace also removes the bridges and packet filter rules of dockerd.

    Args:
        folder: The directory for the engine's data.
        namespace: The network namespace in which dockerd starts; None creates a new namespace.
        options: Additional options of dockerd.
        on_device: Whether the file system in memory for the engine's data is ext4 on a block device, instead of a
            tmpfs.
        plugins: The directory in which the engine looks for plugins. None means the host's directory, `PLUGINS`.
    """

    def __init__(
        self,
        folder: Path,
        namespace: str | None = None,
        *options: str,
        on_device: bool = False,
        plugins: Path | None = None,
    ) -> None:
        self.folder = folder
        # The paths of containerd's sockets are limited to 104 bytes, and paths in pytest's directories are longer.
        self._runtime = Path(tempfile.mkdtemp(prefix="gw-"))
        self.socket = folder / "docker.sock"
        self._own_namespace = namespace is None
        self.namespace = namespace or f"gw-{os.getpid()}-{next(_NUMBERS)}"
        self._options = options
        self._on_device = on_device
        self._plugins = plugins
        self._child: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """The engine's URL, as a value of DOCKER_HOST."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The process ID of the daemon."""
        assert self._child is not None
        return self._child.pid

    def start(self) -> "Engine":
        """Start the daemon, and wait until it responds."""
        self.boot()
        self.wait_ready()
        return self

    def boot(self) -> None:
        """Start the daemon without waiting for its first response."""
        if self._own_namespace and not Path(f"/var/run/netns/{self.namespace}").exists():
            subprocess.run(["ip", "netns", "add", self.namespace], check=True, timeout=10)
            subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True, timeout=10)
        self._mount_data()
        prefix = ["nsenter", f"--net=/var/run/netns/{self.namespace}"]
        if self._plugins is not None:
            PLUGINS.mkdir(parents=True, exist_ok=True)
            bind = f'mount --bind "{self._plugins}" {PLUGINS} && exec "$@"'
            prefix = ["unshare", "--mount", "sh", "-c", bind, "sh", *prefix]
        with (self.folder / "log").open("ab") as log:
            self._child = subprocess.Popen(
                [*prefix, find("dockerd") or "dockerd", "--data-root", str(self.folder / "data"), "--exec-root",
                 str(self._runtime), "-H", self.url, "-p", str(self.folder / "pid"), *self._options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def _mount_data(self) -> None:
        """Mount a file system in memory for the engine's data, if enough memory is available.

        On a disk, each change of a container can take seconds, because the engine waits for the disk, and other tests
        write to the disk at the same time.
        """
        data = self.folder / "data"
        if data.exists():
            return
        data.mkdir(mode=0o710)
        if _available_memory() < _MEMORY:
            return
        place = self.folder / "memory" if self._on_device else data
        place.mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", "mode=710", "gateway-test-engine", str(place))
        if self._on_device:
            with (place / "device").open("wb") as device:
                device.truncate(_DEVICE_SIZE)
            _run("mkfs.ext4", "-q", "-O", "^has_journal", device.name)
            _run("mount", "-o", "loop", device.name, str(data))

    def wait_ready(self) -> None:
        """Wait until the daemon responds."""
        deadline = time.monotonic() + _READY
        while self.docker("version", check=False).returncode:
            assert self._child is not None
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dockerd does not answer: {(self.folder / 'log').read_text()[-1500:]}")
            time.sleep(0.1)

    def shut_down(self) -> None:
        """Stop the daemon and its containers, as a shutdown of the host does."""
        assert self._child is not None
        self._child.terminate()
        self._child.wait(60)

    def kill(self) -> None:
        """Kill the daemon with SIGKILL. Its containers continue to run until the daemon starts again."""
        assert self._child is not None
        self._child.kill()
        self._child.wait(_DIE)
        (self.folder / "pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop the daemon, its containers and its other child processes."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(subprocess.SubprocessError):
            listed = subprocess.run(
                ["docker", "-H", self.url, "ps", "-q"], capture_output=True, text=True, timeout=10, check=False
            )
            if ids := listed.stdout.split():
                subprocess.run(["docker", "-H", self.url, "kill", *ids], capture_output=True, timeout=60, check=False)
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(_DIE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        for folder in (self.folder, self._runtime):
            for mounted in _mounts_below(folder):
                subprocess.run(["umount", "-l", mounted], check=False, capture_output=True, timeout=10)
            shutil.rmtree(folder, ignore_errors=True)
        if self._own_namespace:
            subprocess.run(["ip", "netns", "del", self.namespace], check=False, timeout=10)

    def docker(self, *arguments: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `docker …` against this engine."""
        done = subprocess.run(
            ["docker", "-H", self.url, *arguments], capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr}")
        return done

    def run_until_exit(
        self, *arguments: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a container until it exits, and remove it; return its exit status and output.

        The output comes from the container's log. If the machine is busy, `docker run` can lose the output of a
        container that exits at once.

        Args:
            arguments: The arguments of `docker create`.
            check: Whether an exit status other than 0 fails the test.
            timeout: Maximum seconds until the container exits.
        """
        container = self.docker("create", *arguments).stdout.strip()
        try:
            self.docker("start", container)
            status = int(self.docker("wait", container, timeout=timeout).stdout)
            logs = self.docker("logs", container)
        finally:
            self.docker("rm", "--force", "--volumes", container)
        if check and status:
            raise AssertionError(f"{' '.join(arguments)} has exit status {status}: {logs.stderr}")
        return subprocess.CompletedProcess(arguments, status, logs.stdout, logs.stderr)

    def inspect(self, what: str) -> Any:
        """Return the output of `docker inspect` for one object."""
        return json.loads(self.docker("inspect", what).stdout)[0]

    def state(self) -> list[str]:
        """Return the output of `docker inspect` for all containers, volumes and networks."""
        listed = {
            "container": self.docker("ps", "-aq", "--no-trunc").stdout.split(),
            "volume": self.docker("volume", "ls", "-q").stdout.split(),
            "network": self.docker("network", "ls", "-q", "--no-trunc").stdout.split(),
        }
        return [
            self.docker(kind, "inspect", *sorted(names)).stdout if names else "" for kind, names in listed.items()
        ]

    def aliases(self, container: str, network: str) -> list[str]:
        """Return the aliases of a container on a network, or an empty list if the container is not on the network."""
        endpoint = self.inspect(container)["NetworkSettings"]["Networks"].get(network)
        return list(endpoint["Aliases"] or []) if endpoint else []

    def attached(self, container: str, network: str) -> bool:
        """Return whether a container is attached to a network."""
        return network in self.inspect(container)["NetworkSettings"]["Networks"]

    def remove_all(self) -> None:
        """Remove every container, and then every unused network."""
        if ids := self.docker("ps", "-aq").stdout.split():
            self.docker("rm", "-f", *ids)
        self.docker("network", "prune", "-f")

    def load_busybox(self) -> None:
        """Create an image `busybox` with the program busybox and links for some of its commands."""
        root = self.folder / "busybox"
        (root / "bin").mkdir(parents=True, exist_ok=True)
        for folder in ("etc", "tmp", "proc", "dev", "sys"):
            (root / folder).mkdir(exist_ok=True)
        (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
        shutil.copy(find("busybox") or "", root / "bin/busybox")
        for applet in [
            "sh",
            "sleep",
            "nc",
            "nslookup",
            "ping",
            "wget",
            "cat",
            "echo",
            "ip",
            "hostname",
            "httpd",
            "timeout",
            "seq",
        ]:
            with contextlib.suppress(FileExistsError):
                (root / "bin" / applet).symlink_to("busybox")
        self.import_root(root, "busybox")

    def load_host(self) -> None:
        """Create an image `host` without programs. Its containers mount the programs of this machine."""
        root = self.folder / "host"
        for name in ("usr", "etc", "tmp", "proc", "dev", "sys", "root", "run", "var/run"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            with contextlib.suppress(FileExistsError):
                (root / name).symlink_to(f"usr/{name}")
        (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
        self.import_root(root, "host")

    def import_root(self, root: Path, image: str) -> None:
        """Create an image from a directory."""
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["docker", "-H", self.url, "import", "-", image], stdin=tar.stdout, check=True, timeout=60,
                capture_output=True,
            )  # fmt: skip

    def run_python(self, name: str, program: str, *options: str) -> str:
        """Start a container that runs a Python program."""
        volumes = [f"-v{path}:{path}:ro" for path in self.python()]
        return self.run(name, *volumes, *options, image="host", command=(sys.executable, "-c", program))

    def python(self) -> set[Path]:
        """Return the directories that a container must mount to run this Python interpreter and the gateway."""
        python = Path(sys.base_prefix)
        return {Path("/usr"), REPOSITORY, Path(sys.prefix)} | (
            {python} if not python.is_relative_to("/usr") else set()
        )

    def run_gateway(self, name: str, folder: Path, *options: str) -> str:
        """Start the gateway in a container that mounts the engine's socket and `folder`.

        The file `gateway.yaml` in `folder` contains the gateway's configuration.
        """
        volumes = [f"-v{path}:{path}" for path in (folder, self.folder)]
        volumes += [f"-v{path}:{path}:ro" for path in self.python()]
        return self.run(
            name, *volumes, "-e", f"PYTHONPATH={PYTHON_PATH}", *options, image="host",
            command=(sys.executable, "-m", "gateway", "run", "-c", str(folder / "gateway.yaml")),
        )  # fmt: skip

    def run(
        self, name: str, *options: str, image: str = "busybox", command: tuple[str, ...] = ("sleep", "9999")
    ) -> str:
        """Start a container, and return the container's ID."""
        own = ("--name", name, "--init=false", "--stop-timeout=1")
        return self.docker("run", "-d", *own, *options, image, *command).stdout.strip()


def _available_memory() -> int:
    """Return the available memory of this machine in bytes (`MemAvailable`, see proc_meminfo(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60)


def _mounts_below(folder: Path) -> Iterator[str]:
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        place = line.split()[1]
        if place.startswith(str(folder)):
            yield place
