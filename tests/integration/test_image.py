"""Builds the gateway's image on a Debian base image that the test creates, and runs the examples with this image."""

import contextlib
import datetime as dt
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.demo import mariadb, postgres
from gateway.demo.mariadb import MariaDB
from gateway.demo.nfs import NfsServer
from gateway.demo.postgres import Postgres
from gateway.demo.server_process import ServerProcess, find, free_port
from gateway.demo.sshd import Bastion
from gateway.vpn import openvpn_privileges
from tests.support import kube
from tests.support.certificates import Authority
from tests.support.engines import Engine, need_engine
from tests.support.files import PYTHON_PATH, REPOSITORY
from tests.support.gateway_process import command
from tests.support.guest import HOST, Guest, need_guest
from tests.support.guest_engine import ENGINE, ENGINE_PROGRAMS
from tests.support.helm import CHART, VPN_CAPABILITIES, helm
from tests.support.lateness import Lateness
from tests.support.netns import BEHIND, inside, run
from tests.support.podman import Podman, need_podman
from tests.support.requirements import download, need
from tests.support.swarms import BRIDGE, SPACES
from tests.support.vpn import OpenVpnServer
from tests.support.wireguard_peer import WireGuardPeer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(2400)]

Record = Callable[[str, object], None]
COMPOSE = REPOSITORY / "configs" / "compose"
_SOME = 5
APP_EXAMPLES = ("sidecar", "labels", "vpn", "legacy")
"""The Compose examples whose only app is the service `app`."""
EPOCH = 1_700_000_000
REMOTE = "10.66.0.1"
"""The address at which containers reach servers on 127.0.0.1 in the engine's network namespace."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
QUERY = """
import os, pymysql
connection = pymysql.connect(host=os.environ["DB_HOST"], port=int(os.environ["DB_PORT"]), user="app",
    password=os.environ["DB_PASSWORD"], database="shop", connect_timeout=5, read_timeout=5)
with connection.cursor() as cursor:
    cursor.execute("SELECT COUNT(*) FROM orders")
    print("rows", cursor.fetchone()[0])
"""
QUERY_POSTGRES = """
import os, psycopg
with psycopg.connect(host=os.environ["DB_HOST"], port=os.environ["DB_PORT"], user="app", dbname="shop",
    password=os.environ["DB_PASSWORD"], connect_timeout=5) as connection:
    print("rows", connection.execute("SELECT COUNT(*) FROM reports").fetchone()[0])
"""
QUERY_SOCKET = QUERY.replace(
    'host=os.environ["DB_HOST"], port=int(os.environ["DB_PORT"])', 'unix_socket=os.environ["DB_SOCKET"]'
)
QUERY_POSTGRES_SOCKET = QUERY_POSTGRES.replace(
    'host=os.environ["DB_HOST"], port=os.environ["DB_PORT"]', 'host=os.environ["PGHOST"]'
)
STREAM = """
import os, time, pymysql
connection = pymysql.connect(host="127.0.0.1", port=3306, user="app", password=os.environ["DB_PASSWORD"],
    database="shop", connect_timeout=5, read_timeout=20)
began = time.monotonic()
with connection.cursor() as cursor:
    while time.monotonic() - began < float(os.environ["SECONDS"]):
        cursor.execute("SELECT SLEEP(0.1), 42")
        assert cursor.fetchone() == (0, 42)
        print("answered", flush=True)
connection.close()
print("every query was answered", flush=True)
"""


@dataclass
class ImageTestSite:
    """An engine with the image of the gateway, and servers that the engine's containers can reach."""

    engine: Engine
    folder: Path
    bastion: Bastion
    mariadb: MariaDB
    postgres: Postgres
    place: Path
    """A directory for the files of servers that run as other users."""

    def compose(
        self, example: str, *arguments: str, timeout: float = 120, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` on the copy of an example that `prepare` has made."""
        return subprocess.run(
            ["docker", "-H", self.engine.url, "compose", *self.files(example), *arguments],
            cwd=self.folder / example, env={**os.environ, **self.variables(example), **(environment or {})},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def files(self, example: str) -> list[str]:
        """Return the `-f` options of Compose.

        An override file replaces the image of each app with the gateway's image, because this image has Python.
        """
        override = self.folder / example / "override.json"
        app = {
            "image": "gateway", "entrypoint": ["python3", "-c", "import time; time.sleep(9999)"], "command": [],
            "healthcheck": {"test": ["CMD", "python3", "-c", "pass"], "interval": "1s"},
            "environment": {"DB_PASSWORD": self.mariadb.password},
        }  # fmt: skip
        apps = {"shared": ["shop"], "sockets": ["shop"]}.get(example, ["app"] if example in APP_EXAMPLES else [])
        services = dict.fromkeys(apps, app)
        if example in ("shared", "sockets"):
            services["analysis"] = {**app, "environment": {"DB_PASSWORD": self.postgres.password}}
        override.write_text(json.dumps({"services": services}))
        return ["-f", "compose.yaml", "-f", str(override)] if services else ["-f", "compose.yaml"]

    def prepare(self, example: str) -> None:
        """Copy an example, and add its secrets."""
        shutil.copytree(COMPOSE / example, self.folder / example, dirs_exist_ok=True)
        secrets = self.folder / example / "secrets"
        secrets.mkdir(exist_ok=True)
        shutil.copy(self.bastion.client_key, secrets / "tunnel_key")
        known = self.bastion.known_hosts.read_text().replace("127.0.0.1", REMOTE)
        (secrets / "known_hosts").write_text(known)
        (secrets / "orders_check").write_text(self.mariadb.check_password)
        (secrets / "reports_check").write_text(self.postgres.check_password)
        for path in secrets.iterdir():
            path.chmod(0o600)
            os.chown(path, self.user(example), -1)

    @staticmethod
    def user(example: str) -> int:
        """Return the user ID with which the gateway of an example runs."""
        return 0 if example == "vpn" else 10001 if example in ("shared", "swarm") else 4321

    def variables(self, example: str) -> dict[str, str]:
        shared = {
            "ORDERS": f"127.0.0.1:{self.mariadb.port}", "REPORTS": f"127.0.0.1:{self.postgres.port}",
            "REPORTS_DATABASE": "shop", "BASTION_HOST": REMOTE, "BASTION_PORT": str(self.bastion.port),
            "BASTION_USER": self.bastion.user, "COMPOSE_PROJECT_NAME": f"gw{example}",
        }  # fmt: skip
        shared["GATEWAY_USER"] = str(self.user(example))
        shared["DOCKER_SOCKET_FOLDER"] = str(self.engine.folder)
        shared["DOCKER_GROUP"] = str(self.engine.socket.stat().st_gid)
        return {**shared, "BASTION": f"{self.bastion.user}@{REMOTE}:{self.bastion.port}"}


def build(engine: Engine) -> tuple[str, ...]:
    """Return the start of a `docker build` command. The caller appends the tag and the context."""
    base, epoch = "BASE=debian-base", f"SOURCE_DATE_EPOCH={EPOCH}"
    return ("docker", "-H", engine.url, "build", "-q", "--build-arg", base, "--build-arg", epoch)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, server_folder: Path) -> Iterator[ImageTestSite]:
    need_engine()
    for program in ("mmdebstrap", "slirp4netns"):
        need(find(program) is not None, f"{program} (package of this name)")
    need(Path("/usr/libexec/docker/cli-plugins/docker-compose").exists() or find("docker-compose") is not None,
         "docker-compose, docker-buildx")  # fmt: skip
    need(mariadb.available() and postgres.available(), "mariadbd, postgres")
    folder = tmp_path_factory.mktemp("site")
    engine = Engine(folder / "engine").start()
    with contextlib.ExitStack() as stack:
        stack.callback(engine.stop)
        netns = f"/run/netns/{engine.namespace}"
        # The build downloads packages. slirp4netns gives the engine's network namespace access to the internet,
        # without changes to the network of the host.
        egress = ServerProcess(
            [find("slirp4netns") or "", "--netns-type=path", "--configure", "--mtu=65520", netns, "tap0"],
            folder / "egress.log",
        )
        egress.spawn()
        stack.callback(egress.stop)
        base, packages = folder / "base", "python3,python3-venv,ca-certificates"
        download("mmdebstrap", "--variant=minbase", f"--include={packages}", "trixie", str(base), creates=base)
        if CERTIFICATES.exists():
            shutil.copy(CERTIFICATES, base / CERTIFICATES.relative_to("/"))
        engine.import_root(base, "debian-base")
        shutil.rmtree(base)
        download(*build(engine), "-t", "gateway", ".", cwd=REPOSITORY)
        place = server_folder / "site"
        with inside(engine.namespace):
            run(
                f"set -e; ip addr add {REMOTE}/32 dev lo; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet;"
                f"iptables -t nat -I PREROUTING -p tcp -d {REMOTE} -j DNAT --to-destination 127.0.0.1"
            )
            servers = Bastion(place / "bastion"), MariaDB(place / "mariadb"), Postgres(place / "postgres")
            for server in servers:
                stack.callback(server.stop)
                server.start()
        yield ImageTestSite(engine, folder, *servers, place)


def test_the_image_is_small_and_has_no_shell(site: ImageTestSite, record_property: Record) -> None:
    size = int(site.engine.docker("image", "inspect", "gateway", "-f", "{{.Size}}").stdout)
    record_property("bytes", size)
    assert size < 120_000_000
    config = json.loads(site.engine.docker("image", "inspect", "gateway", "-f", "{{json .Config}}").stdout)
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.title"] == "gateway"
    for program in ("/bin/sh", "sh", "/usr/bin/apt-get", "pip", "/usr/bin/gcc"):
        assert site.engine.docker("run", "--rm", "--entrypoint", program, "gateway", check=False).returncode == 127
    version = site.engine.run_until_exit("gateway", "--version").stdout
    assert re.search(r"OpenSSL 3\.", version), version  # the library that the native engine uses


def sbom(site: ImageTestSite, image: str) -> dict[str, dict[str, Any]]:
    """Return the components in the SBOM of an image, by name."""
    show = "print(open('/opt/gateway/sbom.cdx.json').read())"
    text = site.engine.run_until_exit("--entrypoint", "/opt/gateway/bin/python3", image, "-c", show).stdout
    return {each["name"]: each for each in json.loads(text)["components"]}


def test_every_file_of_the_image_belongs_to_a_component_of_its_sbom(site: ImageTestSite, tmp_path: Path) -> None:
    site.engine.docker("save", "-o", str(tmp_path / "image.tar"), "gateway")
    there: set[str] = set()
    times: set[float] = set()
    with tarfile.open(tmp_path / "image.tar") as image:
        manifest = json.load(image.extractfile("manifest.json") or io.BytesIO())
        for name in manifest[0]["Layers"]:
            with tarfile.open(fileobj=image.extractfile(name)) as layer:
                there |= {f"/{each.name}" for each in layer if not each.isdir()}
                times |= {each.mtime for each in layer}
    components = sbom(site, "gateway")
    places = [
        at["location"] for each in components.values() for at in each.get("evidence", {}).get("occurrences", ())
    ]
    assert sorted(places) == sorted(there)
    assert times == {EPOCH}
    assert {"gateway", "asyncssh", "cryptography", "psycopg"} <= components.keys()
    # The SBOM must list the Python interpreter, system packages, and the libraries inside Python wheels.
    assert components.keys() & {"python3.13-minimal", "python"}
    for package in ("libc6", "ca-certificates"):
        version = site.engine.run_until_exit("debian-base", "dpkg-query", "-W", "-f=${Version}", package).stdout
        assert components[package]["version"] == version
    inside = {each["name"] for name in ("cryptography", "psycopg-binary") for each in components[name]["components"]}
    assert "openssl" in inside
    assert any(name.startswith("libpq-") for name in inside)


def test_builds_of_the_image_are_reproducible(site: ImageTestSite) -> None:
    download(*build(site.engine), "--no-cache", "-t", "again", ".", cwd=REPOSITORY)
    first, again = (
        json.loads(site.engine.docker("image", "inspect", name, "-f", "{{json .}}").stdout)
        for name in ("gateway", "again")
    )
    assert first["RootFS"] == again["RootFS"]
    assert first["Id"] == again["Id"]


def test_the_digest_of_the_base_is_looked_up_and_written(site: ImageTestSite, tmp_path: Path) -> None:
    need(find("docker-registry") is not None, "docker-registry (package of this name)")
    for name in ("Dockerfile", "tools/pin-base.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    config, base = tmp_path / "registry.yml", f"127.0.0.1:{(port := free_port())}/base:1"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": f"127.0.0.1:{port}"}}))
    registry = ServerProcess([find("docker-registry") or "", "serve", str(config)], tmp_path / "registry.log")

    def pin(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["tools/pin-base.sh", *arguments], cwd=tmp_path, env={**os.environ, "DOCKER_HOST": site.engine.url},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    site.engine.load_busybox()
    with inside(site.engine.namespace):
        try:
            registry.start(port)
            for change in ("A=1", "A=2"):
                context = tmp_path / "changed"
                context.mkdir(exist_ok=True)
                (context / "Dockerfile").write_text(f"FROM busybox\nENV {change}\n")
                site.engine.docker("build", "-q", "-t", base, str(context))
                pushed = site.engine.docker("push", base).stdout
                digest = re.findall(r"digest: (sha256:[0-9a-f]{64})", pushed)[-1]
                assert pin("--check" if change == "A=2" else "127.0.0.1:1/none").returncode == 1
                done = pin(base if change == "A=1" else "")
                assert (done.returncode, done.stdout) == (0, f"{base}@{digest}\n"), done.stderr
                assert f"\nARG BASE={base}@{digest}\n" in (tmp_path / "Dockerfile").read_text()
                assert pin("--check").returncode == 0
        finally:
            registry.stop()


def test_the_image_trusts_the_certificate_authorities_of_debian(site: ImageTestSite) -> None:
    ask = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'])"
    assert int(site.engine.run_until_exit("--entrypoint", "python3", "gateway", "-c", ask).stdout) > 50


@pytest.mark.parametrize("user", ["10001", "4321"], ids=["its user", "one's own"])
def test_the_image_runs_read_only_without_privileges_and_is_ready_quickly(
    site: ImageTestSite, user: str, record_property: Record
) -> None:
    try:
        with Lateness() as machine:
            site.engine.docker(
                "run", "-d", "--name", "alone", "--user", user, "--read-only", "--cap-drop", "ALL",
                "--security-opt", "no-new-privileges", "--ulimit", "core=0", "--memory", "1g", "--pids-limit", "256",
                "-e", f"GATEWAY_BACKEND_A=tcp://{REMOTE}:{site.mariadb.port}?listen=127.0.0.1:3306", "gateway",
            )  # fmt: skip
            site.engine.docker("exec", "alone", "gateway", "wait", "--max", "60s", timeout=90)
        pid = site.engine.inspect("alone")["State"]["Pid"]
        # The second number in schedstat is the time that the main thread waited for a processor, in nanoseconds.
        starved = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
        deadline = time.monotonic() + 60
        while site.engine.inspect("alone")["State"]["Health"]["Status"] != "healthy":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        logs = site.engine.docker("logs", "alone")
        listening = next(line for line in (logs.stdout + logs.stderr).splitlines() if '"listening"' in line)
        live = dt.datetime.fromisoformat(json.loads(listening)["timestamp"])
        started = dt.datetime.fromisoformat(site.engine.inspect("alone")["State"]["StartedAt"])
        took = (live - started).total_seconds()
        record_property("seconds_until_live", took)
        assert took < 3 + starved + machine.sum  # on an idle machine, the start takes 0.24 s
        site.engine.docker("stop", "-t", "30", "alone", timeout=60)
        assert site.engine.inspect("alone")["State"]["ExitCode"] == 0
    finally:
        site.engine.docker("rm", "-f", "-v", "alone", check=False)


def test_a_tunnel_and_four_checks_use_little_memory(site: ImageTestSite, record_property: Record) -> None:
    site.prepare("shared")
    secrets, database = site.folder / "shared" / "secrets", site.mariadb.port
    key = "via=bastion&check.interval=1s"
    urls = {
        "TUNNEL_BASTION": f"ssh://{site.bastion.user}@{REMOTE}:{site.bastion.port}"
        "?identity_files=/run/secrets/tunnel_key&known_hosts=/run/secrets/known_hosts",
        "BACKEND_ORDERS": f"mysql://127.0.0.1:{database}?{key}&listen=127.0.0.1:3306"
        f"&check.user={site.mariadb.check_user}&check.password_file=/run/secrets/orders_check",
        "BACKEND_REPORTS": f"postgres://127.0.0.1:{site.postgres.port}?{key}&listen=127.0.0.1:5432&check.database=shop"
        f"&check.user={site.postgres.check_user}&check.password_file=/run/secrets/reports_check",
        "BACKEND_PLAIN": f"tcp://127.0.0.1:{database}?{key}&listen=127.0.0.1:1000",
        "BACKEND_NEAR": f"tcp://{REMOTE}:{database}?listen=127.0.0.1:1001",
    }
    options = [part for name, url in urls.items() for part in ("-e", f"GATEWAY_{name}={url}")]
    site.engine.docker("run", "-d", "--name", "small", "-v", f"{secrets}:/run/secrets:ro", *options, "gateway")
    try:
        names = [name.removeprefix("BACKEND_").lower() for name in urls if name.startswith("BACKEND")]
        site.engine.docker("exec", "small", "gateway", "wait", "--max", "20s", *names)
        time.sleep(5)  # let the checks run several times
        status = Path(f"/proc/{site.engine.inspect('small')['State']['Pid']}/status").read_text()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.endswith(" kB")}
        resident, own = sizes["VmRSS"], sizes["RssAnon"]
        record_property("resident_kib", resident)
        record_property("own_kib", own)
        # VmRSS varies, because it includes pages of libraries, which the kernel can discard.
        assert (resident < 84 * 1024, own < 54 * 1024) == (True, True), sizes
    finally:
        site.engine.docker("rm", "-f", "-v", "small", check=False)


def test_the_image_with_vpn_clients_and_the_charts_capabilities_runs_openvpn_without_root(
    site: ImageTestSite,
) -> None:
    """OpenVPN and WireGuard tunnels carry traffic in a container that has only the capabilities of the Helm chart."""
    download(*build(site.engine), "-t", "gateway-vpn", "--target", "vpn", ".", cwd=REPOSITORY)
    installed = site.engine.run_until_exit(
        "--entrypoint", "dpkg-query", "gateway-vpn", "-W", "-f=${Package} ${Version}\\n"
    ).stdout.split("\n")[:-1]
    listed = {f"{name} {each['version']}" for name, each in sbom(site, "gateway-vpn").items()}
    assert set(installed) <= listed
    labels = json.loads(site.engine.docker("image", "inspect", "gateway-vpn", "-f", "{{json .Config.Labels}}").stdout)
    assert labels["org.opencontainers.image.title"] == "gateway-vpn"
    folder, namespace = site.folder / "vpn-clients", site.engine.namespace
    folder.mkdir()
    tun = folder / "tun"
    os.mknod(tun, stat.S_IFCHR, os.makedev(10, 200))
    tun.chmod(0o666)  # udev gives /dev/net/tun the same mode
    with contextlib.ExitStack() as stack:
        with inside(namespace):
            run(
                f"set -e; ip addr add {BEHIND}/32 dev lo;"
                f"iptables -t nat -I PREROUTING -p tcp -d {BEHIND} -j DNAT --to-destination 127.0.0.1;"
                # This rule makes the address unreachable for containers without a VPN.
                f"iptables -t raw -I PREROUTING -i docker0 -d {BEHIND} -j DROP"
            )
        authority = Authority(folder / "certificates")
        servers: dict[str, OpenVpnServer | WireGuardPeer] = {
            "office.ovpn": OpenVpnServer(folder / "openvpn", authority, more="multihome", namespace=namespace),
            "lab.conf": WireGuardPeer(folder / "wireguard", namespace=namespace),
        }
        for name, server in servers.items():
            stack.callback(server.stop)
            server.start()
            server.client(folder / name, host=REMOTE)
        stack.callback(site.engine.docker, "rm", "-f", "-v", "site", check=False)
        site.engine.docker(
            "run", "-d", "--name", "site", "--read-only", "--cap-drop", "ALL",
            *(f"--cap-add={capability}" for capability in VPN_CAPABILITIES),
            "--device", f"{tun}:/dev/net/tun", "--security-opt", "no-new-privileges",
            "-v", f"{folder}:/run/secrets:ro", "-e", f"DB_PASSWORD={site.mariadb.password}",
            "-e", "DB_HOST=127.0.0.1",
            "-e", "GATEWAY_TUNNEL_OFFICE=openvpn:///run/secrets/office.ovpn?isolation=device",
            "-e", "GATEWAY_TUNNEL_LAB=wireguard:///run/secrets/lab.conf?isolation=device",
            "-e", f"GATEWAY_BACKEND_ONE=tcp://{BEHIND}:{site.mariadb.port}?via=office&listen=127.0.0.1:3301",
            "-e", f"GATEWAY_BACKEND_TWO=tcp://{BEHIND}:{site.mariadb.port}?via=lab&listen=127.0.0.1:3302",
            "gateway-vpn",
        )  # fmt: skip
        waited = site.engine.docker("exec", "site", "gateway", "wait", "--max", "30s", "one", "two", check=False)
        assert waited.returncode == 0, site.engine.docker("logs", "site").stderr
        for port in (3301, 3302):
            ask = ("exec", "-e", f"DB_PORT={port}", "site", "/opt/gateway/bin/python3", "-c", QUERY)
            assert site.engine.docker(*ask).stdout.startswith("rows ")
        running = site.engine.docker("top", "site", "-eo", "pid,uid,comm").stdout
        assert re.findall(r"^\d+ +(\d+) +openvpn$", running, re.MULTILINE) == [str(openvpn_privileges.USER)], running


@pytest.fixture
def up(site: ImageTestSite, request: pytest.FixtureRequest) -> Iterator[str]:
    """Start an example with `docker compose up`; yield the name of the example."""
    example: str = request.param
    site.prepare(example)
    done = site.compose(example, "up", "-d", "--wait", "--wait-timeout", "60")
    try:
        assert done.returncode == 0, done.stderr + site.compose(example, "logs").stdout
        yield example
    finally:
        site.compose(example, "down", "-v", "-t", "5")


@pytest.mark.parametrize("up", ["sidecar"], indirect=True)
def test_an_app_with_the_gateway_beside_it(site: ImageTestSite, up: str) -> None:
    done = site.compose(up, "exec", "-T", "app", "python3", "-c", QUERY)
    assert done.stdout.startswith("rows "), done.stderr
    assert done.stdout != "rows 0\n"


@pytest.mark.parametrize("up", ["sidecar"], indirect=True)
def test_a_stop_under_load_interrupts_no_query(site: ImageTestSite, up: str) -> None:
    """A client sends queries before SIGTERM, during `shutdown.delay`, and some seconds longer. No query fails."""
    command = [
        "docker",
        "-H",
        site.engine.url,
        "compose",
        *site.files(up),
        "exec",
        "-T",
        "-e",
        "SECONDS=12",
        "app",
        "python3",
        "-c",
        STREAM,
    ]
    gateway = site.engine.docker("ps", "-q", "--filter", "name=gwsidecar-gateway").stdout.strip()
    answers: list[float] = []
    finished: list[str] = []
    with subprocess.Popen(
        command, cwd=site.folder / up, env={**os.environ, **site.variables(up)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as client:  # fmt: skip

        def read() -> None:
            for line in client.stdout or ():
                if line.startswith("answered"):
                    answers.append(time.monotonic())
                else:
                    finished.append(line)

        reader = threading.Thread(target=read)
        reader.start()
        while len(answers) < _SOME:
            time.sleep(0.05)
            assert client.poll() is None, client.stderr.read() if client.stderr else ""
        began = time.monotonic()
        site.engine.docker("kill", "-s", "TERM", gateway)
        while site.engine.inspect(gateway)["State"]["Running"] and time.monotonic() - began < 40:
            time.sleep(0.2)
        state = site.engine.inspect(gateway)["State"]
        assert client.wait(30) == 0, client.stderr.read() if client.stderr else ""
        reader.join(10)
    assert state["ExitCode"] == 0
    # The client still gets responses after `shutdown.delay`, which is 5 s.
    assert len([at for at in answers if at > began + 6]) > 3
    assert finished


@pytest.mark.parametrize("up", ["shared"], indirect=True)
def test_one_gateway_for_several_apps(site: ImageTestSite, up: str) -> None:
    assert site.compose(up, "exec", "-T", "shop", "python3", "-c", QUERY).stdout.startswith("rows ")
    assert site.compose(up, "exec", "-T", "analysis", "python3", "-c", QUERY_POSTGRES).stdout.startswith("rows ")


@pytest.mark.parametrize("up", ["sockets"], indirect=True)
def test_a_unix_socket_for_each_app(site: ImageTestSite, up: str) -> None:
    def ask(service: str, query: str, *more: str) -> subprocess.CompletedProcess[str]:
        return site.compose(up, "exec", "-T", *more, service, "python3", "-c", query)

    for service, query in (("shop", QUERY_SOCKET), ("analysis", QUERY_POSTGRES_SOCKET)):
        done = ask(service, query)
        assert done.stdout.startswith("rows "), done.stderr
    # The gateway admits this container, but not the user 1001.
    assert ask("shop", QUERY_SOCKET, "-u", "1001:1001").returncode == 1
    assert ask("analysis", "import os; print(os.listdir('/run/databases'))").stdout == "['.s.PGSQL.5432']\n"
    reported = site.compose(up, "exec", "-T", "gateway", "gateway", "status", "-o", "json").stdout
    assert json.loads(reported)["backends"]["orders"]["connections"]["rejected"] == {"not_allowed": 1}
    site.compose(up, "restart", "gateway")
    site.compose(up, "up", "-d", "--wait", "--wait-timeout", "60")
    assert ask("shop", QUERY_SOCKET).stdout.startswith("rows ")


@pytest.mark.parametrize("up", ["labels"], indirect=True)
def test_apps_with_labels_on_one_engine(site: ImageTestSite, up: str) -> None:
    engine = site.engine

    def at_once() -> subprocess.CompletedProcess[str]:
        """Run a query in a new container of the app, immediately after the start of the container."""
        return site.compose(up, "run", "--rm", "-T", "--no-deps", "--entrypoint", "python3", "app", "-c", QUERY)

    def address() -> str:
        networks = engine.inspect("gwlabels-gateway-1")["NetworkSettings"]["Networks"]
        return str(networks["apps"]["IPAddress"])

    for _ in range(3):
        assert at_once().stdout.startswith("rows "), site.compose(up, "logs", "gateway").stdout
    before = address()
    assert before in {f"10.201.0.{at}" for at in range(2, 128)}
    assert query(site).returncode == 1
    reported = site.compose(up, "exec", "-T", "gateway", "gateway", "status", "-o", "json").stdout
    assert json.loads(reported)["backends"]["orders"]["connections"]["rejected"] == {"not_allowed": 1}
    # All containers are stopped, so `network prune` removes their networks.
    site.compose(up, "stop")
    engine.docker("network", "prune", "-f")
    assert site.compose(up, "up", "-d").returncode == 1
    done = site.compose(up, "up", "-d", "--force-recreate", "--wait", "--wait-timeout", "60")
    assert done.returncode == 0, done.stderr
    assert at_once().stdout.startswith("rows ")
    assert address() == before
    # After a crash of the engine, the containers of the gateway and the app start automatically.
    engine.kill()
    engine.start()
    deadline = time.monotonic() + 60
    while not site.compose(up, "exec", "-T", "app", "python3", "-c", QUERY).stdout.startswith("rows "):
        assert time.monotonic() < deadline, engine.docker("ps", "-a").stdout
        time.sleep(0.5)
    assert address() == before


def test_apps_with_labels_on_a_swarm(site: ImageTestSite) -> None:
    engine = site.engine
    site.prepare("labels")
    folder = site.folder / "labels"
    with contextlib.ExitStack() as stack:
        engine.load_busybox()
        engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
        stack.callback(engine.docker, "swarm", "leave", "--force")
        for name in ("tunnel_key", "known_hosts", "orders_check"):
            engine.docker("secret", "create", name, str(folder / "secrets" / name))
        (folder / "gateway_peers").write_text("ab" * 32)
        engine.docker("secret", "create", "gateway_peers", str(folder / "gateway_peers"))
        environment = {**os.environ, **site.variables("labels"), "APP_IMAGE": "busybox"}
        done = subprocess.run(
            ["docker", "-H", engine.url, "stack", "deploy", "-c", "stack.yaml", "site"], cwd=folder, env=environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        stack.callback(_remove_stack, engine, "site")
        deadline = time.monotonic() + 90
        for filters in (("name=site_gateway", "health=healthy"), ("name=site_app", "status=running")):
            listed = [word for each in filters for word in ("--filter", each)]
            while not (found := engine.docker("ps", "-q", *listed).stdout.split()):
                reported = engine.docker("service", "ps", "--no-trunc", filters[0].removeprefix("name=")).stdout
                assert time.monotonic() < deadline, reported
                time.sleep(0.5)
        greeting = engine.docker("exec", found[0], "sh", "-c", "timeout 5 nc -w 5 orders 3306 </dev/null | cat -v")
        assert "MariaDB" in greeting.stdout, engine.docker("service", "logs", "site_gateway").stderr
        labeled = query(site, "--label", "gateway.enable=true", "--label", "gateway.backends=orders")
        assert labeled.stdout.startswith("rows "), labeled.stderr
        assert query(site).returncode == 1
        node = engine.docker("info", "-f", "{{.Name}}").stdout.strip()
        (gateway,) = engine.docker("ps", "-q", "--filter", "name=site_gateway").stdout.split()
        reported = engine.docker("exec", gateway, "gateway", "status", "-o", "json").stdout
        assert json.loads(reported)["instance"] == node
        attachments = json.loads(reported)["docker"]["attachments"]
        assert attachments
        assert [each for each in attachments if each["state"] == "drifted"] == []  # The service has all aliases.
        assert json.loads(reported)["backends"]["orders"]["connections"]["rejected"] == {"not_allowed": 1}


def query(site: ImageTestSite, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a query in a new container on the network `apps` of the examples."""
    environment = {"DB_HOST": "orders", "DB_PORT": "3306", "DB_PASSWORD": site.mariadb.password}
    given = [f"--env={name}={value}" for name, value in environment.items()]
    return site.engine.run_until_exit(
        "--network", "apps", "--entrypoint", "python3", *given, *options, "gateway", "-c", QUERY, check=False
    )


def _remove_stack(engine: Engine, name: str) -> None:
    engine.docker("stack", "rm", name)
    deadline = time.monotonic() + 60
    while engine.docker("ps", "-aq", "--filter", f"name={name}_").stdout.strip():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.parametrize("up", ["nfs"], indirect=True)
def test_the_volume_of_the_example_equals_that_of_the_gateway(site: ImageTestSite, up: str) -> None:
    """The test compares only the options of the volume, because the kernel may have no NFS client.

    `test_the_nfs_example_with_its_mount` mounts the volume in a virtual machine.
    """
    config = json.loads(site.compose(up, "--profile", "mount", "config", "--format", "json").stdout)
    options = config["volumes"]["media"]["driver_opts"]
    rendered = site.compose(
        up, "exec", "-T", "gateway", "gateway", "render", "compose", "-c", "/etc/gateway/gateway.yaml"
    )
    for part in options["o"].split(","):
        assert part in rendered.stdout, rendered


@pytest.mark.timeout(2400)
def test_the_vpn_example(site: ImageTestSite) -> None:
    download(*build(site.engine), "-t", "gateway-vpn", "--target", "vpn", ".", cwd=REPOSITORY)
    site.prepare("vpn")
    tun = site.folder / "vpn" / "tun"
    os.mknod(tun, stat.S_IFCHR, os.makedev(10, 200))
    tun.chmod(0o666)
    server = OpenVpnServer(
        site.folder / "vpn-server",
        Authority(site.folder / "authority"),
        more="multihome",
        namespace=site.engine.namespace,
    )
    behind = "10.66.1.1"
    with contextlib.ExitStack() as stack:
        with inside(site.engine.namespace):
            run(
                f"set -e; ip addr add {behind}/32 dev lo;"
                f"iptables -t nat -I PREROUTING -p tcp -d {behind} -j DNAT --to-destination 127.0.0.1;"
                # This rule makes the address unreachable for containers without the VPN.
                f"iptables -t raw -I PREROUTING -i br+ -d {behind} -j DROP"
            )
        stack.callback(server.stop)
        server.start()
        file = site.folder / "vpn" / "secrets" / "office.ovpn"
        server.client(file, host=REMOTE)
        file.chmod(0o600)
        environment = {"TUN": str(tun), "ORDERS": f"{behind}:{site.mariadb.port}"}
        stack.callback(site.compose, "vpn", "down", "-v", "-t", "5", environment=environment)
        done = site.compose("vpn", "up", "-d", "--wait", "--wait-timeout", "60", environment=environment)
        assert done.returncode == 0, done.stderr + site.compose("vpn", "logs", environment=environment).stdout
        waited = site.compose(
            "vpn", "exec", "-T", "gateway", "gateway", "wait", "--max", "30s", environment=environment
        )
        assert waited.returncode == 0, waited.stdout + site.compose("vpn", "logs", environment=environment).stdout
        asked = site.compose("vpn", "exec", "-T", "app", "python3", "-c", QUERY, environment=environment)
        assert asked.stdout.startswith("rows "), asked.stderr


def test_the_legacy_example_before_and_after_its_import(site: ImageTestSite, tmp_path: Path) -> None:
    """The test runs the files of the example, but uses the addresses and keys of the test's servers.

    The kernel may have no NFS client. The volumes are therefore created but not mounted, and nfs-cat reads the file.
    """
    need(shutil.which("patch") is not None, "patch (package patch)")
    site.prepare("legacy")
    folder = site.folder / "legacy"
    document = yaml.safe_load((folder / "before.yaml").read_text())
    document["services"]["app"]["environment"] |= {
        "SSH_HOST": "127.0.0.1", "SSH_PORT": site.bastion.port, "SSH_USER": site.bastion.user,
        "DB_HOST": "127.0.0.1", "DB_PORT": site.mariadb.port, "DB_USER": site.mariadb.check_user, "DB_NAME": "shop",
    }  # fmt: skip
    server = NfsServer(tmp_path / "nfs")
    (server.export / "hello.txt").write_text("hello over NFS\n")
    document["volumes"]["nfs-volume"]["driver_opts"]["device"] = f":{server.pseudo}"
    secrets = folder / "secrets"
    (secrets / "orders_check").rename(secrets / "db_password")
    (folder / "compose.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    (folder / "gateway.yaml").unlink()
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    shutil.copy(site.bastion.known_hosts, home / ".ssh" / "known_hosts")
    shutil.copy(site.bastion.client_key, home / ".ssh" / "tunnel_key")
    for path in (home / ".ssh").iterdir():
        os.chown(path, site.user("legacy"), -1)
    environment = {"HOME": str(home), "FILES_IMAGE": "gateway"}

    def compose(*arguments: str) -> str:
        done = site.compose("legacy", *arguments, environment=environment)
        assert done.returncode == 0, done.stderr + site.compose("legacy", "logs", environment=environment).stdout
        return done.stdout

    def volume() -> dict[str, str]:
        return dict(site.engine.inspect("gwlegacy_nfs-volume")["Options"])

    ssh = (
        f"ssh -i ~/.ssh/tunnel_key -N -f -p {site.bastion.port} -L 2049:127.0.0.1:{server.port}"
        f" {site.bastion.user}@127.0.0.1"
    )
    removal = re.search(r"docker compose -f before.yaml down\ndocker volume rm legacy_nfs-volume\n",
                        (folder / "README.md").read_text())  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(site.compose, "legacy", "down", "-v", "-t", "5", environment=environment)
        stack.callback(server.stop)
        with inside(site.engine.namespace):
            server.start()
        compose("up", "-d", "--wait", "--wait-timeout", "60", "app")
        compose("create", "files")
        assert volume()["o"] == "addr=localhost,port=2049,rw"
        alone = site.compose("legacy", "exec", "-T", "app", "python3", "-c", QUERY, environment=environment)
        assert alone.returncode != 0
        assert removal is not None
        compose("down", "-t", "5")
        site.engine.docker("volume", "rm", "gwlegacy_nfs-volume")

        imported = subprocess.run(
            [sys.executable, "-m", "gateway", "import", "--diff", ssh, "compose.yaml"], cwd=folder,
            env={**os.environ, "PYTHONPATH": PYTHON_PATH}, capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
        subprocess.run(["patch", "-p0"], input=imported.stdout, cwd=folder, text=True, timeout=10, check=True)
        compose("up", "-d", "--wait", "--wait-timeout", "60", "app", "gateway")
        assert compose("exec", "-T", "app", "python3", "-c", QUERY).startswith("rows ")
        compose("create", "files")
        options = dict(each.partition("=")[::2] for each in volume()["o"].split(","))
        assert (volume()["device"], options["nfsvers"]) == (f"127.0.0.1:{server.pseudo}", "4.2")
        site.engine.load_host()
        url = f"nfs://{options['addr']}{server.pseudo}/hello.txt?version=4&nfsport={options['port']}"
        read = site.engine.run_until_exit("--network", "host", "-v", "/usr:/usr:ro", "host", "nfs-cat", url)
        assert read.stdout == "hello over NFS\n"


@pytest.mark.timeout(2400)
def test_the_nfs_example_with_its_mount(site: ImageTestSite, tmp_path: Path) -> None:
    """The example runs in a virtual machine, because its kernel has an NFS client."""
    need_guest()
    site.prepare("nfs")
    bastion, server = Bastion(site.place / "near"), NfsServer(tmp_path / "nfs")
    (server.export / "hello").write_text("hello over NFS\n")
    secrets = site.folder / "nfs/secrets"
    (secrets / "tunnel_key").write_bytes(bastion.client_key.read_bytes())
    (secrets / "known_hosts").write_text(bastion.known_hosts.read_text().replace("127.0.0.1", HOST))
    variables = {
        "GATEWAY_USER": str(site.user("nfs")), "APP_IMAGE": "box", "MEDIA": f"127.0.0.1:{server.port}",
        "BASTION_HOST": HOST, "BASTION_PORT": str(bastion.port), "BASTION_USER": bastion.user, "DOCKER_GROUP": "0",
        "COMPOSE_PROJECT_NAME": "files",
    }  # fmt: skip
    app = {"network_mode": "none"}  # a container network needs additional kernel modules
    slow = {"healthcheck": {"timeout": "60s", "start_period": "120s"}}  # the virtual machine can be slow
    (site.folder / "nfs/override.json").write_text(json.dumps({"services": {"app": app, "gateway": slow}}))
    image = tmp_path / "gateway.tar"
    site.engine.docker("save", "-o", str(image), "gateway")
    script = f"""{ENGINE}
docker load -q -i /gateway.tar && rm /gateway.tar
cd /example
export {" ".join(f"{name}={value}" for name, value in variables.items())}
compose() {{ docker-compose -f compose.yaml -f override.json --profile mount "$@"; }}
compose up -d --wait --wait-timeout 120 && echo EXAMPLE-UP
compose exec -T app cat /media/hello
compose logs gateway
"""
    with contextlib.ExitStack() as stack:
        for each in (bastion, server):
            stack.callback(each.stop)
            each.start()
        guest = stack.enter_context(
            Guest(
                tmp_path / "guest", script, memory=3072, programs=(*ENGINE_PROGRAMS, "docker-compose"),
                files={"gateway.tar": image, "example": site.folder / "nfs"},
            )
        )  # fmt: skip
        guest.wait_for("ENGINE-READY", 600)
        guest.wait_for("EXAMPLE-UP", 600)
        guest.wait_for("hello over NFS", 600)


def test_a_swarm_with_a_gateway_on_every_node(site: ImageTestSite, swarm: tuple[Engine, Engine]) -> None:
    """A container on each node queries a database outside both nodes by the name of the backend."""
    site.prepare("swarm")
    folder = site.folder / "swarm"
    manager, _ = swarm
    with contextlib.ExitStack() as stack:
        for node in swarm:
            node.load_busybox()
            copy = f"docker -H {site.engine.url} save gateway | docker -H {node.url} load"
            subprocess.run(["sh", "-c", copy], check=True, timeout=120, capture_output=True)
        with inside(SPACES[0]):
            run(
                f"set -e; ip addr add 10.77.0.254/24 dev {BRIDGE}; ip addr add {REMOTE}/32 dev lo;"
                "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet;"
                f"iptables -t nat -I PREROUTING -p tcp -d {REMOTE} -j DNAT --to-destination 127.0.0.1"
            )
            bastion, database = Bastion(folder / "bastion"), MariaDB(site.place / "far")
            for server in (bastion, database):
                stack.callback(server.stop)
                server.start()
        secrets = {
            "tunnel_key": bastion.client_key.read_text(), "orders_check": database.check_password,
            "known_hosts": bastion.known_hosts.read_text().replace("127.0.0.1", REMOTE),
        }  # fmt: skip
        for name, text in secrets.items():
            (folder / "secrets" / name).write_text(text)
            manager.docker("secret", "create", name, str(folder / "secrets" / name))
        environment = {
            **os.environ, "APP_IMAGE": "busybox", "BASTION_HOST": REMOTE, "BASTION_PORT": str(bastion.port),
            "BASTION_USER": bastion.user, "ORDERS": f"127.0.0.1:{database.port}",
        }  # fmt: skip
        done = subprocess.run(
            ["docker", "-H", manager.url, "stack", "deploy", "-c", "stack.yaml", "site"], cwd=folder, env=environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        stack.callback(manager.docker, "stack", "rm", "site", check=False)
        deadline = time.monotonic() + 90
        for node in swarm:
            healthy = ("ps", "--filter", "name=site_gateway", "--filter", "health=healthy", "-q")
            while not node.docker(*healthy).stdout.strip():
                assert time.monotonic() < deadline, manager.docker(
                    "service", "ps", "--no-trunc", "site_gateway"
                ).stdout
                time.sleep(0.5)
        while "1/1" not in manager.docker("service", "ls", "--filter", "name=site_app").stdout:
            assert time.monotonic() < deadline, manager.docker("service", "ps", "--no-trunc", "site_app").stdout
            time.sleep(0.5)
        for node in swarm:
            found = node.run_until_exit(
                "--network", "site_data", "--entrypoint", "python3", "-e", "DB_HOST=orders", "-e",
                "DB_PORT=3306", "-e", f"DB_PASSWORD={database.password}", "gateway", "-c", QUERY, check=False,
            )  # fmt: skip
            assert found.stdout.startswith("rows "), found.stderr


@pytest.fixture(scope="module")
def pods(site: ImageTestSite) -> Iterator[Podman]:
    """A Podman engine with the gateway's image. Podman uses the network namespace of the Docker engine."""
    need_podman()
    engine = Podman(site.folder / "podman", site.engine.namespace)
    try:
        engine.start()
        with inside(site.engine.namespace):
            run("iptables -I FORWARD -i podman+ -j ACCEPT")  # Docker sets the policy of this chain to DROP
        kube.load(engine, site.engine.url)
        yield engine
    finally:
        engine.stop()


def kube_config(site: ImageTestSite) -> dict[str, Any]:
    """Return a configuration with a database behind a bastion."""
    bastion = {
        "kind": "ssh", "host": REMOTE, "port": site.bastion.port, "user": site.bastion.user,
        "identity_files": ["/run/secrets/tunnel_key"], "known_hosts": ["/run/secrets/known_hosts"],
    }  # fmt: skip
    orders = {
        "kind": "mysql", "via": "bastion", "targets": [f"127.0.0.1:{site.mariadb.port}"], "listen": "0.0.0.0:3306",
        "check": {"user": site.mariadb.check_user, "password_file": "/run/secrets/orders_check"},
    }  # fmt: skip
    return {"tunnels": {"bastion": bastion}, "backends": {"orders": orders}}


def kube_secret(site: ImageTestSite, name: str) -> dict[str, Any]:
    """Return a Kubernetes secret with the files that `kube_config` refers to."""
    files = {
        "tunnel_key": site.bastion.client_key.read_text(), "orders_check": site.mariadb.check_password,
        "known_hosts": site.bastion.known_hosts.read_text().replace("127.0.0.1", REMOTE),
    }  # fmt: skip
    return kube.secret(name, files)


def serves(site: ImageTestSite, pods: Podman, name: str) -> None:
    """Check that the HTTP probes, Podman's health check, and a query to the pod succeed."""
    networks = pods.inspect(
        pods.podman("pod", "inspect", f"{name}-pod", "-f", "{{.InfraContainerID}}").stdout.strip()
    )
    address = networks["NetworkSettings"]["Networks"]["podman-default-kube-network"]["IPAddress"]
    with inside(site.engine.namespace):
        for path in ("/startupz", "/livez", "/readyz?require=orders"):
            kube.probe(address, 9091, path)
    assert pods.podman("healthcheck", "run", f"{name}-pod-gateway").returncode == 0
    found = pods.podman(
        "run", "--rm", "--network", "podman-default-kube-network", "--entrypoint", "python3", "-e",
        f"DB_HOST={name}-pod", "-e", "DB_PORT=3306", "-e", f"DB_PASSWORD={site.mariadb.password}", kube.IMAGE, "-c",
        QUERY, check=False,
    )  # fmt: skip
    assert re.fullmatch(r"rows [1-9]\d*\n", found.stdout), found.stderr


def test_podman_plays_what_render_kubernetes_prints(site: ImageTestSite, pods: Podman, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump({**kube_config(site), "ops": {"listen": "0.0.0.0:9090", "hosts": ["any"]}}))
    rendered = command("render", "kubernetes", "--podman", "--image", kube.IMAGE, "-c", str(file))
    assert rendered.returncode == 0, rendered.stderr
    kube.play(pods, [kube_secret(site, "gateway"), *yaml.safe_load_all(rendered.stdout)])
    try:
        serves(site, pods, "gateway")
    finally:
        pods.podman("pod", "rm", "-f", "-t", "5", "gateway-pod")


def test_podman_plays_what_the_chart_prints(
    site: ImageTestSite, pods: Podman, helms: dict[str, Path], tmp_path: Path
) -> None:
    repository, tag = kube.IMAGE.split(":")
    values = tmp_path / "values.yaml"
    settings = {
        "config": kube_config(site), "image": {"repository": repository, "tag": tag},
        "secrets": [{"name": "gateway-files", "mountPath": "/run/secrets"}],
    }  # fmt: skip
    values.write_text(yaml.safe_dump(settings))
    printed = helm(helms["4"], "template", "site", str(CHART), "-f", str(values))
    assert printed.returncode == 0, printed.stderr
    documents = [each for each in yaml.safe_load_all(printed.stdout) if each]
    kube.play(pods, [kube_secret(site, "gateway-files"), *kube.playable(documents)])
    try:
        name = next(each["metadata"]["name"] for each in documents if each["kind"] == "Deployment")
        serves(site, pods, name)
    finally:
        pods.podman("pod", "rm", "-f", "-t", "5", f"{name}-pod")
