"""Defines fixtures for the integration tests: real servers on loopback, and the gateway as a separate process."""

import gc
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo import mariadb, nfs, postgres
from gateway.demo.sshd import Bastion
from tests.support import helm
from tests.support.engines import Engine, need_engine
from tests.support.files import scratch
from tests.support.gateway_process import Gateway
from tests.support.requirements import need, need_sshd
from tests.support.servers import echoing, serving
from tests.support.swarms import two_nodes

_LONGEST_FIRST = (
    "test_reboot", "test_image", "test_nfs_hold", "test_vpn", "test_interop", "test_systemd",
    # pytest-xdist assigns the next module in this list to a process that has at most two tests left. If these tests
    # are long, the assigned module starts late. The following three modules can start late, because they are short.
    "test_strict", "test_tls", "test_traces",
    "test_docker", "test_audit", "test_networks", "test_relay_contract", "test_outages", "test_revival",
    "test_docker_stable", "test_docker_engine", "test_nfs_mounts", "test_swarm_stable", "test_names",
    "test_revival_swarm", "test_commands", "test_chart", "test_hostile_words", "test_swarm", "test_status_page",
    "test_slow_paths", "test_command", "test_ssh", "test_paths", "test_handbook", "test_monitoring",
    "test_nfs_volumes", "test_podman", "test_native_fuzzer", "test_nfs_detection", "test_abort_budget",
    "test_proxy", "test_check_logins", "test_patroni", "test_redis", "test_site",
)  # fmt: skip
"""The test modules that start first: the modules that take more than 30 s, and three short modules.

Long modules start first, so that all test processes finish at about the same time.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the modules in `_LONGEST_FIRST` first. Keep the order of the tests inside each module."""
    rank = {name: at for at, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="module", autouse=True)
def _collect_garbage() -> Iterator[None]:
    """Collect garbage after each module, so that an unclosed socket fails a test of the module that created it."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Yield a directory that the users of the database servers can access.

    Only the user that runs pytest can access the directories that pytest creates.
    """
    with scratch() as folder:
        yield folder


@pytest.fixture(scope="session")
def shared_bastion(server_folder: Path) -> Iterator[Bastion]:
    need_sshd()
    bastion = Bastion(server_folder / "bastion").start()
    yield bastion
    bastion.stop()


@pytest.fixture
def bastion(tmp_path: Path) -> Iterator[Bastion]:
    """Yield an SSH server for one test only. The test is allowed to break the server."""
    need_sshd()
    server = Bastion(tmp_path / "bastion").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def echo_port() -> Iterator[int]:
    with serving(echoing) as port:
        yield port


@pytest.fixture(scope="session")
def shared_mariadb(server_folder: Path) -> Iterator[mariadb.MariaDB]:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    server = mariadb.MariaDB(server_folder / "mariadb").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_postgres(server_folder: Path) -> Iterator[postgres.Postgres]:
    need(postgres.available(), "postgres (package postgresql)")
    server = postgres.Postgres(server_folder / "postgres").start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_nfs(server_folder: Path) -> Iterator[nfs.NfsServer]:
    need(nfs.available(), "root, and ganesha.nfsd (packages nfs-ganesha nfs-ganesha-vfs)")
    server = nfs.NfsServer(server_folder / "nfs").start()
    (server.export / "hello.txt").write_text("hello over NFS\n")
    yield server
    server.stop()


@pytest.fixture
def nfs_server(tmp_path: Path) -> Iterator[nfs.NfsServer]:
    """Yield an NFS server with a world-writable export for one test only. The test is allowed to break the server."""
    need(nfs.available(), "root, and ganesha.nfsd (packages nfs-ganesha nfs-ganesha-vfs)")
    server = nfs.NfsServer(tmp_path / "nfs").start()
    server.export.chmod(0o777)
    yield server
    server.stop()


@pytest.fixture
def small_export(tmp_path: Path) -> Iterator[Path]:
    """Yield the mount point of a small file system: ext4 with 4 MiB, or tmpfs with 2 MiB if ext4 is not available."""
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


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def helms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the paths of the Helm programs by major version."""
    return {version: helm.fetch(version, tmp_path_factory.mktemp(f"helm{version}")) for version in helm.PACKAGES}


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """Yield the two engines of a swarm: the manager and the worker."""
    need_engine()
    with two_nodes(tmp_path_factory.mktemp("swarm")) as nodes:
        yield nodes
