"""Runs the commands of docs/from-the-handbook.md on a real engine, with real servers."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gateway.demo.mariadb import MariaDB
from gateway.demo.nfs import NfsServer
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.clients import query_mysql, read_nfs
from tests.support.engines import Engine, running_engine
from tests.support.files import PYTHON_PATH, REPOSITORY
from tests.support.gateway_process import Gateway, complete_audit
from tests.support.netns import inside

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

PAGE = (REPOSITORY / "docs" / "from-the-handbook.md").read_text()
BLOCKS = dict(re.findall(r"<!-- test: (.+?) -->\n```sh\n(.+?)\n```\n", PAGE, re.DOTALL))
IMAGES = ("my-image", "my-app-image", "my-database-image", "my-openvpn-image")
QUERY = """
import os, pymysql
connection = pymysql.connect(host=os.environ["DB_HOST"], port=3306, user="app", password=os.environ["DB_PASSWORD"],
    database="shop", connect_timeout=5, read_timeout=5)
with connection.cursor() as cursor:
    cursor.execute("SELECT COUNT(*) FROM orders")
    print("rows", cursor.fetchone()[0])
"""


class Reader:
    """A simulated reader of docs/from-the-handbook.md, who runs the commands of this page in a shell.

    Args:
        engine: The engine that the commands use.
        folder: The directory in which the commands run.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.values: dict[str, str] = {}
        """Maps names and paths on the page to the values that replace them."""
        program = folder / "bin" / "gateway"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nPYTHONPATH={PYTHON_PATH} exec {sys.executable} -m gateway "$@"\n')
        program.chmod(0o755)
        self.environment = {
            **os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "DOCKER_HOST": engine.url,
            "GATEWAY_STATE_DIR": str(folder / "state"), "HOME": str(folder),
        }  # fmt: skip

    def run(self, name: str, *, fails: bool = False) -> str:
        """Run the block of commands with this name; return the output."""
        output = self.folder / "output"
        # The output is a file, because `ssh -f` continues in the background and would keep a pipe open.
        with output.open("w") as file:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", self.text(name)], cwd=self.folder, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=100, check=False,
            )  # fmt: skip
        assert (done.returncode != 0) is fails, output.read_text()
        return output.read_text()

    def text(self, name: str) -> str:
        """Return the block of commands with this name, after the replacements in `values`."""
        return self.replaced(BLOCKS[name])

    def replaced(self, text: str) -> str:
        for old, new in self.values.items():
            text = text.replace(old, new)
        return text

    def findings(self) -> str:
        """Return the output of `gateway audit`."""
        done = complete_audit(environment=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("engine"), on_device=True) as made:
        root = made.folder / "busybox"
        (root / "app").mkdir()
        (root / "app" / "main.py").write_text("the program\n")
        made.import_root(root, "busybox")
        context = tmp_path_factory.mktemp("image")
        (context / "Dockerfile").write_text('FROM busybox\nCMD ["sleep", "9999"]\n')
        made.docker("build", "-q", *(f"-t{image}" for image in IMAGES), str(context))
        yield made


@pytest.fixture
def reader(engine: Engine, tmp_path: Path) -> Iterator[Reader]:
    yield Reader(engine, tmp_path)
    engine.remove_all()
    engine.docker("volume", "prune", "-af")


@pytest.fixture
def near(engine: Engine) -> Iterator[None]:
    """Move the calling thread to the engine's network namespace."""
    with inside(engine.namespace):
        yield


@pytest.fixture
def bastion(near: None, tmp_path: Path) -> Iterator[Bastion]:
    """A bastion in the engine's network namespace."""
    made = Bastion(tmp_path / "bastion").start()
    yield made
    made.stop()


@pytest.fixture
def nfs(near: None, tmp_path: Path) -> Iterator[NfsServer]:
    """An NFS server in the engine's network namespace."""
    made = NfsServer(tmp_path / "nfs").start()
    (made.export / "hello.txt").write_text("hello over NFS\n")
    yield made
    made.stop()


@pytest.fixture
def mariadb(near: None, server_folder: Path) -> Iterator[MariaDB]:
    """A database in the engine's network namespace."""
    made = MariaDB(server_folder / "handbook").start()
    yield made
    made.stop()


def test_every_block_of_commands_is_run() -> None:
    assert PAGE.count("```sh\n") == len(BLOCKS)
    assert set(re.findall(r'reader\.run\("([\w ]+)"', Path(__file__).read_text())) == BLOCKS.keys()


def test_the_writable_layer_and_volumes(reader: Reader) -> None:
    engine = reader.engine
    (dockerfile,) = re.findall(r"```dockerfile\n(.+?)```", PAGE, re.DOTALL)
    (reader.folder / "Dockerfile").write_text(dockerfile)
    reader.run("layer")
    assert (reader.folder / "notes").read_text() == "text\n"
    assert engine.docker("ps", "-aq").stdout == ""
    assert len(re.findall(r"^local +[0-9a-f]{64}$", reader.run("declared volume"), re.MULTILINE)) == 2
    assert engine.docker("volume", "ls", "-q").stdout == ""
    engine.docker("run", "-d", "--name", "again", "my-data-image")
    assert "[anonymous-volume]" in reader.findings()
    reader.run("named volume")
    assert engine.inspect("first")["Mounts"][0]["Name"] == "first-data"
    reader.run("shared volume")
    assert "[several-writers]" in reader.findings()


def test_bind_mounts_and_their_limits(reader: Reader) -> None:
    for name in ("data", "empty"):
        (reader.folder / name).mkdir()
    (reader.folder / "app.conf").touch()
    reader.values = {"/srv/": f"{reader.folder}/"}
    reader.run("bind mounts")
    for name in ("reader", "strict"):
        (mount,) = reader.engine.inspect(name)["Mounts"]
        assert (mount["Source"], mount["RW"]) == (f"{reader.folder}/data", False)
    reader.run("limits")
    found = reader.findings()
    assert "hidden:/app: a mount hides files of the image [hides-image-files]" in found
    assert "[single-file]" in found


def test_nfs_through_ssh(reader: Reader, bastion: Bastion, nfs: NfsServer, tmp_path: Path) -> None:
    engine = reader.engine
    port, control = free_port(), f"-o ControlPath={reader.folder}/control"
    login = f"-i {bastion.client_key} -o UserKnownHostsFile={bastion.known_hosts} -p {bastion.port}"
    reader.values = {
        "2049:NFS_SERVER:2049": f"{port}:127.0.0.1:{nfs.port}",
        "user@NFS_SERVER": f"{login} -o ControlMaster=yes {control} {bastion.user}@127.0.0.1",
        "port=2049": f"port={port}", "/path/to/shared/folder": nfs.pseudo,
    }  # fmt: skip
    (reader.folder / "setup.sh").write_text(reader.text("nfs by hand"))
    assert "unknown flag: --opt" in reader.run("nfs by hand", fails=True)
    assert read_nfs(port) == "hello over NFS\n"
    stop = f"ssh {control} -O exit none"
    subprocess.run(stop.split(), capture_output=True, timeout=20, check=True)

    printed = reader.run("nfs with the gateway")
    assert "--opt is an option of docker volume create" in printed
    assert f"{nfs.pseudo} localhost(rw,sync,no_subtree_check,insecure)" in printed
    (volume,) = re.findall(r"^docker volume create .*", printed, re.MULTILINE)
    subprocess.run(shlex.split(volume), env=reader.environment, capture_output=True, timeout=20, check=True)
    options = engine.inspect("nfs-volume")["Options"]
    assert (options["device"], f"port={port}" in options["o"]) == (f"127.0.0.1:{nfs.pseudo}", True)
    assert "hazards: none found" in reader.findings()
    gateway = served(reader, tmp_path)
    try:
        gateway.wait_up("nfs-volume")
        # The kernel may have no NFS client, so the container reads the file with the program nfs-cat.
        url = f"nfs://127.0.0.1{nfs.pseudo}/hello.txt?version=4&nfsport={port}"
        read = engine.run_until_exit("--network", "host", "-v", "/usr:/usr:ro", "host", "nfs-cat", url)
        assert read.stdout == "hello over NFS\n"
    finally:
        gateway.stop()

    compose, _ = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    (reader.folder / "gateway.yaml").unlink()
    (reader.folder / "compose.yaml").write_text(reader.replaced(compose))
    reader.run("nfs in compose")
    document = yaml.safe_load((reader.folder / "compose.yaml").read_text())
    assert "nfsvers=4.2" in document["volumes"]["nfs-volume"]["driver_opts"]["o"]


def served(reader: Reader, folder: Path) -> Gateway:
    """Start a gateway with the configuration that the page's commands have written."""
    (folder / "gateway").mkdir()
    gateway = Gateway(folder / "gateway")
    gateway.write((reader.folder / "gateway.yaml").read_text())
    return gateway.start(environment=reader.environment)


def test_a_database(reader: Reader, bastion: Bastion, mariadb: MariaDB, tmp_path: Path) -> None:
    engine = reader.engine
    (reader.folder / ".ssh").mkdir()
    (reader.folder / ".ssh" / "known_hosts").write_text(bastion.known_hosts.read_text())
    (reader.folder / "secret").write_text(mariadb.check_password)
    (reader.folder / "secret").chmod(0o600)
    port, control = free_port(), f"-o ControlPath={reader.folder}/control"
    login = f"-i {bastion.client_key} -o UserKnownHostsFile={bastion.known_hosts} -p {bastion.port}"
    reader.values = {
        "SSH_HOST=bastion.example.com -e SSH_USER=user": f"SSH_HOST=127.0.0.1 -e SSH_PORT={bastion.port} "
        f"-e SSH_USER={bastion.user}",
        "DB_HOST=remote-db.internal -e DB_PORT=3306": f"DB_HOST=127.0.0.1 -e DB_PORT={mariadb.port}",
        "-e DB_PASSWORD=mypassword": f"-e DB_PASSWORD_FILE={reader.folder}/secret",
        "DB_USER=myuser": f"DB_USER={mariadb.check_user}", "DB_NAME=mydatabase": f"DB_NAME={mariadb.database}",
        "/path/to/private_key": str(bastion.client_key),
        "3306:remote-db.internal:3306": f"{port}:127.0.0.1:{mariadb.port}",
        "user@bastion.example.com": f"{login} -o ControlMaster=yes {control} {bastion.user}@127.0.0.1",
    }  # fmt: skip
    (reader.folder / "app.sh").write_text(reader.text("database by hand"))
    reader.run("database by hand")
    assert "[private-key]" in reader.findings()
    reader.run("database with the gateway")
    file = reader.folder / "gateway.yaml"
    # The database runs on the same host as the gateway, so the gateway cannot listen on the port of the database.
    file.write_text(file.read_text().replace(f"0.0.0.0:{mariadb.port}", "0.0.0.0:3306"))
    (name,) = yaml.safe_load(file.read_text())["backends"]
    gateway = served(reader, tmp_path)
    try:
        gateway.wait_up(name)
        host = engine.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge").stdout
        mounts = [f"-v{path}:{path}:ro" for path in engine.python()]
        variables = ("-e", f"DB_HOST={host.strip()}", "-e", f"DB_PASSWORD={mariadb.password}")
        queried = engine.run_until_exit(*mounts, *variables, "host", sys.executable, "-c", QUERY)
        assert queried.stdout.startswith("rows ")
    finally:
        gateway.stop()

    reader.run("database by ssh")
    assert query_mysql(mariadb, port) > 0
    stop = f"ssh {control} -O exit none"
    subprocess.run(stop.split(), capture_output=True, timeout=20, check=True)
    reader.run("database by ssh with the gateway")


def test_a_vpn_container(reader: Reader) -> None:
    file = reader.folder / "config.ovpn"
    file.write_text("client\nremote vpn.example.com 1194\n")
    reader.values = {"/path/config.ovpn": str(file)}
    (reader.folder / "vpn.sh").write_text(reader.text("vpn"))
    reader.run("vpn")
    reader.run("vpn with the gateway")
    tunnels = yaml.safe_load((reader.folder / "gateway.yaml").read_text())["tunnels"]
    assert tunnels == {"vpn-container": {"kind": "openvpn", "config": str(file)}}


def test_an_overlay(reader: Reader) -> None:
    engine = reader.engine
    _, configuration = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    host = f"docker:\n  host: {engine.url}\n"
    (reader.folder / "gateway.yaml").write_text(configuration.replace("docker:\n", host))
    try:
        reader.run("overlay")
        lookup = ("exec", "app-container", "nslookup", "-type=a", "database-container")
        assert "Address: 10." in engine.docker(*lookup, check=False).stdout
        planned = reader.run("overlay with the gateway")
        assert "nothing to change" in planned
        assert "my-overlay-network" not in planned  # the plan contains no warning about this network
        assert "labeled" in engine.docker("ps").stdout
    finally:
        engine.remove_all()
        engine.docker("swarm", "leave", "--force")
