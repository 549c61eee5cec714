"""Real servers on loopback, shared by the whole run, and the gateway as a separate process."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from gateway.demo import mariadb, nfs, postgres, process
from gateway.demo.process import Process, find, free_port
from gateway.demo.sshd import Bastion
from gateway.ops.client import Client
from tests.chaos.rig import scratch, write_secret

_LONGEST_FIRST = (
    "test_reboot", "test_nfs_mounts", "test_nfs_volumes", "test_image", "test_podman", "test_systemd",
    "test_revival_swarm", "test_networks", "test_docker", "test_docker_stable", "test_vpn", "test_outages",
    "test_names", "test_swarm", "test_interop", "test_chart", "test_revival",
)  # fmt: skip
"""Modules that take more than half a minute: one that starts last would run alone while another worker is idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first; the order inside a module stays."""
    rank = {name: at for at, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


REPOSITORY = Path(__file__).parents[2]

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Two workers must not use the same port: a test may expect that no server listens on one.
    number, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    process.PORTS = process.PORTS[number::count]


def need(condition: bool, what: str) -> None:
    """Skip with a reason that names what is missing; in CI, fail."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(f"missing: {what}")


@pytest.fixture(scope="session")
def rig_folder() -> Iterator[Path]:
    """Create a directory that the database servers' users can access, unlike those of pytest."""
    with scratch() as folder:
        yield folder


@pytest.fixture(scope="session")
def shared_bastion(rig_folder: Path) -> Iterator[Bastion]:
    need(find("sshd") is not None, "sshd (package openssh-server)")
    bastion = Bastion(rig_folder / "bastion").start()
    yield bastion
    bastion.stop()


@pytest.fixture(scope="session")
def shared_mariadb(rig_folder: Path) -> Iterator[mariadb.MariaDB]:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    server = mariadb.MariaDB(rig_folder / "mariadb").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_postgres(rig_folder: Path) -> Iterator[postgres.Postgres]:
    need(postgres.available(), "postgres (package postgresql)")
    server = postgres.Postgres(rig_folder / "postgres").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_nfs(rig_folder: Path) -> Iterator[nfs.NfsServer]:
    need(nfs.available(), "root, and ganesha.nfsd (packages nfs-ganesha nfs-ganesha-vfs)")
    server = nfs.NfsServer(rig_folder / "nfs").start()
    (server.export / "hello.txt").write_text("hello over NFS\n")
    yield server
    server.stop()


@pytest.fixture
def small_export(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    need(nfs.available(), "root, and ganesha.nfsd (packages nfs-ganesha nfs-ganesha-vfs)")
    folder = tmp_path / "small"
    image = tmp_path / "image"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 20)
    mounted = subprocess.run(["mkfs.ext4", "-q", "-N", "16", image], check=False, timeout=20).returncode == 0 and (
        subprocess.run(["mount", "-o", "loop", image, folder], check=False, timeout=20).returncode == 0
    )
    if not mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True, timeout=20)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True, timeout=20)


@dataclass
class Gateway:
    """A `gateway run` in a separate directory.

    Args:
        folder: Where its files go.
    """

    folder: Path
    ops_port: int = field(default_factory=free_port)
    process: Process | None = None
    started: float = 0.0
    wrapper: list[str] = field(default_factory=list)
    """Prefix of its command line."""

    @property
    def config(self) -> Path:
        return self.folder / "gateway.yaml"

    @property
    def admin_socket(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def client(self) -> Client:
        return Client(None, str(self.admin_socket))

    @property
    def http(self) -> Client:
        return Client(f"http://127.0.0.1:{self.ops_port}", "")

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    def write(self, body: str, shutdown: str = "{delay: 0s, drain: 3s}") -> None:
        head = f"""
            gateway: {{instance: test, state_dir: {self.folder}/state}}
            ops: {{listen: 127.0.0.1:{self.ops_port}, admin_socket: {self.admin_socket}}}
            shutdown: {shutdown}
        """
        self.config.write_text(textwrap.dedent(head) + textwrap.dedent(body))

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> "Gateway":
        config = ["-c", str(self.config)] if self.config.exists() else []
        self.process = Process(
            [*self.wrapper, sys.executable, "-m", "gateway", "run", *config, *arguments],
            self.folder / "gateway.log",
            environment={"PYTHONPATH": str(REPOSITORY), **(environment or {})},
        )
        self.started = time.monotonic()
        self.process.start(self.ops_port)
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(signal.SIGTERM)

    def status(self) -> dict[str, Any]:
        code, body = self.client.get("/api/v1/status")
        assert code == 200
        return dict(body)

    def backend(self, name: str) -> dict[str, Any]:
        return dict(self.status()["backends"][name])

    def state(self, name: str) -> tuple[str, str | None]:
        backend = self.backend(name)
        return backend["state"], backend["reason"]

    def tunnel(self, name: str) -> dict[str, Any]:
        return dict(self.status()["tunnels"][name])

    def wait(self, condition: Callable[[], bool], timeout: float = 30.0) -> float:
        """Wait until the condition holds; return how many seconds this took."""
        started = time.monotonic()
        while True:
            late = time.monotonic() - started > timeout  # before the check: this machine may pause between the two
            if condition():
                return time.monotonic() - started
            if late:
                pytest.fail(f"not within {timeout} s; status: {json.dumps(self.status(), indent=1)}\n{self.log}")
            time.sleep(0.02)

    def wait_up(self, *names: str, timeout: float = 30.0) -> float:
        return self.wait(lambda: all(self.state(name)[0] == "up" for name in names), timeout)

    def wait_state(self, name: str, state: str, reason: str | None, timeout: float = 30.0) -> float:
        return self.wait(lambda: self.state(name) == (state, reason), timeout)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return command(*arguments, "--admin-socket", str(self.admin_socket))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def command(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a gateway command, and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})},
    )


class Lateness:
    """How late this process is on a machine that has other things to do; in a thread, which a blocked loop is not."""

    def __init__(self) -> None:
        self.worst = self.sum = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        done = False
        while not done:
            due = time.monotonic() + 0.01
            done = self._done.wait(0.01)
            late = max(0.0, time.monotonic() - due)
            self.worst = max(self.worst, late)
            self.sum += late


def download(*command: str, cwd: Path | None = None, within: float = 180) -> None:
    """Run a command that downloads something, and retry it once: the network is not under test.

    Raises:
        SubprocessError: It failed both times; with what it said.
    """
    try:
        subprocess.run(command, cwd=cwd, capture_output=True, timeout=within, check=True)
    except subprocess.SubprocessError:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=within, check=False)
        if done.returncode:
            raise subprocess.SubprocessError(f"{command[0]}: {done.stderr[-3000:]}") from None


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.stop()


def ssh_tunnel(bastion: Bastion, via: str | None = None, more: str = "") -> str:
    """Return the keys of a tunnel through `bastion`, as a flow mapping."""
    through = f"via: {via}, " if via else ""
    return (
        f"{{kind: ssh, {through}host: 127.0.0.1, port: {bastion.port}, user: {bastion.user}, "
        f"identity_files: [{bastion.client_key}], known_hosts: [{bastion.known_hosts}]{more}}}"
    )


def database_check(server: "mariadb.MariaDB | postgres.Postgres", folder: Path, more: str = "interval: 1s") -> str:
    """Return the keys of a database's check, as a flow mapping."""
    secret = folder / f"{type(server).__name__}.secret"
    write_secret(secret, server.check_password)
    return f"{{user: {server.check_user}, password_file: {secret}, database: {server.database}, {more}}}"


def write_nfs(
    gateway: Gateway,
    bastion: Bastion,
    server: "nfs.NfsServer",
    port: int,
    check: str = "{interval: 2s}",
    volume: str = "",
    docker: str = "",
) -> None:
    """Write a configuration with an export behind a bastion, for clients with any source port."""
    gateway.write(f"""
        tunnels:
          bastion: {ssh_tunnel(bastion)}
        backends:
          media:
            kind: nfs
            via: bastion
            targets: ["127.0.0.1:{server.port}"]
            export: /media
            listen: 127.0.0.1:{port}
            allow_unprivileged_ports: true
            check: {check}
            volume: {volume or "null"}
        docker: {docker or "null"}
    """)
