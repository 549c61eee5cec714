"""Tests the gateway with a real Docker engine: restarts, the allowlist of the socket proxy, and TLS."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.docker_proxy import DockerProxy, allowlist
from tests.support.docker_site import OPT_IN, Site
from tests.support.engines import Engine, need_engine, running_engine
from tests.support.files import PYTHON_PATH, REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Site]:
    yield Site(engine, tmp_path)
    engine.remove_all()


def _serves(site: Site) -> bool:
    """Start the containers `gateway` and `db`; return whether the container `web` reaches the database.

    Call this function repeatedly, because the engine at first can report stopped containers as running.
    """
    site.engine.docker("start", "gateway", "db", check=False)
    return site.says("web") == "orders-here"


@pytest.mark.timeout(600)
def test_containers_are_attached_again_after_the_engine_is_killed(site: Site) -> None:
    site.start()
    for at in range(4):
        site.engine.kill()
        time.sleep(0.5 * (at % 3))
        site.wait(lambda: not site.get("/api/v1/status")["docker"]["reachable"])
        site.engine.start()
        # Without live-restore, the engine stops all containers when it starts again.
        site.engine.docker("start", "gateway", "db")
        site.engine.docker("rm", "-f", "web", check=False)
        site.engine.run("web", *OPT_IN)
        site.wait(lambda: _serves(site), timeout=120)


def test_the_shipped_allowlist_is_sufficient_and_minimal(site: Site, tmp_path: Path) -> None:
    rules = allowlist(REPOSITORY / "configs/docker/socket-proxy-leader.yaml")
    with DockerProxy(tmp_path / "proxy.sock", site.engine.socket, rules) as proxy:
        site.start(host=f"unix://{tmp_path}/proxy.sock", docker="attach: [{names: ['batch-*']}]")
        site.engine.run("web", *OPT_IN)
        site.engine.run("batch-1")
        site.reaches("web")
        site.wait(lambda: site.engine.attached("batch-1", "apps"))
        text = (site.folder / "gateway.yaml").read_text()
        (site.folder / "gateway.yaml").write_text(
            text.replace("batch-*", "else").replace("{apps: {}}", "{apps: {}, old: {}}")
        )
        assert site.client.post("/-/reload")[0] == 200
        site.wait(lambda: not site.engine.attached("batch-1", "apps") and site.engine.attached("web", "old"))
        (site.folder / "gateway.yaml").write_text(text)
        assert site.client.post("/-/reload")[0] == 200
        site.wait(lambda: "old" not in site.engine.docker("network", "ls", "--format", "{{.Name}}").stdout.split())
        assert proxy.refused == []
        superfluous = {(method, each) for method, patterns in rules.items() for each in patterns} - proxy.used
        assert {each for _, each in superfluous} <= {
            r"/v1\..{1,2}/nodes/[a-z0-9]+",
            r"/v1\..{1,2}/services",
            "/_ping",
        }  # the gateway sends these requests only in a swarm, or while it is idle
    for name in ("agent", "leader"):
        shipped = yaml.safe_load((REPOSITORY / f"configs/docker/socket-proxy-{name}.yaml").read_text())
        service = shipped["services"]["socket-proxy"]
        # The user must specify the image, because the tag of a default image can later point to another image.
        assert service["image"].startswith("${SOCKET_PROXY_IMAGE:?")
        assert [shipped["networks"][each] for each in service["networks"]] == [{"internal": True}]
    agent = allowlist(REPOSITORY / "configs/docker/socket-proxy-agent.yaml")
    assert all(set(agent[method]) <= set(rules[method]) for method in agent)


def test_an_engine_on_tcp_requires_client_certificates(tmp_path: Path) -> None:
    need_engine()
    certificates = tmp_path / "tls"
    certificates.mkdir()
    make = f"""
        cd {certificates}
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem \\
          -addext keyUsage=critical,keyCertSign,cRLSign
        for name in server client; do
          openssl req -newkey rsa:2048 -nodes -subj /CN=$name -keyout $name.key -out $name.csr
          printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > ext
          openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $name.pem
        done
    """
    subprocess.run(["sh", "-ec", make], check=True, timeout=60, capture_output=True)
    engine = Engine(
        tmp_path / "engine", None, "-H", "tcp://127.0.0.1:2376", "--tlsverify", f"--tlscacert={certificates}/ca.pem",
        f"--tlscert={certificates}/server.pem", f"--tlskey={certificates}/server.key",
    ).start()  # fmt: skip
    try:
        config = tmp_path / "gateway.yaml"

        def planned(tls: str) -> subprocess.CompletedProcess[str]:
            config.write_text(
                f"gateway: {{state_dir: {tmp_path}/state}}\n"
                "backends: {a: {kind: tcp, targets: [h:1], listen: 0.0.0.0:1}}\n"
                f"docker: {{host: 'tcp://127.0.0.1:2376', networks: {{apps: {{}}}}, {tls}}}\n"
            )
            return subprocess.run(
                ["nsenter", f"--net=/var/run/netns/{engine.namespace}", sys.executable, "-m", "gateway", "plan", "-c",
                 str(config)],
                capture_output=True, text=True, timeout=30, check=False,
                env={**os.environ, "PYTHONPATH": PYTHON_PATH},
            )  # fmt: skip

        ours = f"ca_file: {certificates}/ca.pem, "
        ours += f"cert_file: {certificates}/client.pem, key_file: {certificates}/client.key"
        good = planned(f"tls: {{{ours}}}")
        assert (good.returncode, "create_network" in good.stdout) == (0, True), good.stderr
        # The engine requires a client certificate.
        assert planned(f"tls: {{ca_file: {certificates}/ca.pem}}").returncode == 1
        # The gateway verifies the engine's certificate.
        assert planned("tls: {ca_file: /etc/ssl/certs/ca-certificates.crt}").returncode == 1
        refused = planned("tls: {}")
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    finally:
        engine.stop()
