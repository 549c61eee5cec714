"""Two engines in one swarm with a real overlay between them, and an agent on each."""

import contextlib
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Engine, need_engine
from netns import inside, run
from pyroute2 import netns  # type: ignore[import-untyped]
from test_docker import OPT_IN, SAYING, Site

pytestmark = [pytest.mark.rig, pytest.mark.timeout(180)]

BRIDGE = "gw-swbr"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10, capture_output=True)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """A manager and a worker, each in a namespace of its own, joined by a bridge in a third."""
    need_engine()
    engines: list[Engine] = []
    spaces = ["gw-sw0", "gw-sw1", "gw-sw2"]
    left_over = netns.listnetns()
    for space in spaces:
        if space in left_over:
            ip("netns", "del", space)
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
    try:
        ip("-n", "gw-sw0", "link", "add", BRIDGE, "type", "bridge")
        ip("-n", "gw-sw0", "link", "set", BRIDGE, "up")
        for at in (1, 2):
            ip(
                "link",
                "add",
                f"gw-v{at}",
                "netns",
                "gw-sw0",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                f"gw-sw{at}",
            )
            ip("-n", "gw-sw0", "link", "set", f"gw-v{at}", "master", BRIDGE, "up")
            ip("-n", f"gw-sw{at}", "addr", "add", f"10.77.0.{at}/24", "dev", "eth0")
            ip("-n", f"gw-sw{at}", "link", "set", "eth0", "up")
            ip("-n", f"gw-sw{at}", "route", "add", "default", "via", "10.77.0.254")
            with inside(f"gw-sw{at}"):
                # No name server and no registry are there, and that shall show at once.
                for proto in ("udp", "tcp"):
                    run(f"iptables -A OUTPUT -o eth0 -p {proto} --dport 53 -j REJECT")
        for at in (1, 2):
            engine = Engine(tmp_path_factory.mktemp(f"node{at}"), f"gw-sw{at}").start()
            engines.append(engine)
            engine.load_busybox()
            engine.load_host()
        manager, worker = engines
        manager.docker("swarm", "init", "--advertise-addr", "10.77.0.1")
        token = manager.docker("swarm", "join-token", "-q", "worker").stdout.strip()
        worker.docker("swarm", "join", "--token", token, "10.77.0.1:2377")
        yield manager, worker
    finally:
        for engine in reversed(engines):
            engine.docker("swarm", "leave", "--force", check=False)
            engine.stop()
        for space in spaces:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", space)


class Agent(Site):
    """A node's agent; the database is a container on the overlay itself."""

    def __init__(self, engine: Engine, folder: Path, instance: str) -> None:
        self.engine, self.folder = engine, folder
        self.instance = instance
        self.database = "db"
        from gateway.ops.client import Client  # noqa: PLC0415 - as in the class above

        self.client = Client(None, str(folder / "admin.sock"))
        folder.mkdir(exist_ok=True)

    def begin(self, backends: str, docker: str = "") -> "Agent":
        (self.folder / "gateway.yaml").write_text(
            textwrap.dedent(f"""
            gateway: {{instance: {self.instance}, state_dir: {self.folder}/state}}
            ops: {{listen: "127.0.0.1:9090", admin_socket: {self.folder}/admin.sock}}
            shutdown: {{delay: 0s, drain: 1s}}
            backends: {backends}
            docker:
              host: {self.engine.url}
              networks: {{mesh: {{driver: overlay, subnet: 10.99.0.0/22}}}}
            """)
            + textwrap.indent(textwrap.dedent(docker), "  ")
        )
        self.engine.run_gateway("gateway", self.folder)
        self.wait(lambda: self.attachment("gateway") == ("attached", None), timeout=40)
        return self


def test_a_consumer_on_one_node_uses_what_the_other_reaches(swarm: tuple[Engine, Engine], tmp_path: Path) -> None:
    manager, worker = swarm
    # The database can be reached from the manager's node only.
    manager.docker("network", "create", "--subnet", "10.77.1.0/24", "far")
    manager.run_python("db", SAYING.format(words="orders-here", seconds=0), "--network", "far", "--ip", "10.77.1.10")
    here = Agent(manager, tmp_path / "one", "node-1")
    leader = here.begin('{orders: {kind: tcp, targets: ["10.77.1.10:3306"], listen: 0.0.0.0:3306, hold: 2s}}')
    manager.docker("network", "connect", "far", "gateway")
    assert leader.get("/api/v1/status")["docker"]["leader"] is True
    assert (
        manager.docker("network", "inspect", "mesh", "-f", "{{.Driver}} {{.Attachable}}").stdout.strip()
        == "overlay true"
    )
    # The worker's agent sees no overlay until it attaches something to it, and cannot create one.
    other = Agent(worker, tmp_path / "two", "node-2").begin(
        '{idle: {kind: tcp, targets: ["127.0.0.1:9"], listen: 0.0.0.0:13306, hold: 2s}}'
    )
    assert other.get("/api/v1/status")["docker"]["leader"] is False
    worker.run("app", *OPT_IN)
    other.wait(lambda: worker.attached("app", "mesh"), timeout=30)
    other.wait(lambda: other.says("app") == "orders-here", timeout=60)
    # Each acts on its own engine only.
    assert "gw-owner-node-2" in worker.aliases("app", "mesh")
    # An ordinary task cannot be attached, and its service can, where that is asked for.
    manager.docker(
        "service", "create", "--detach", "--name", "jobs", "--stop-grace-period", "1s", "--endpoint-mode", "dnsrr",
        "--constraint", "node.role==manager", "--no-resolve-image", "--label", "gateway.enable=true",
        "--container-label", "gateway.enable=true", "busybox", "sleep", "9999",
    )  # fmt: skip
    leader.wait(
        lambda: any(
            each["container"].startswith("jobs.") and each["reason"] == "swarm_task"
            for each in leader.get("/api/v1/plan")["attachments"]
        ),
        timeout=30,
    )
    text = (leader.folder / "gateway.yaml").read_text()
    (leader.folder / "gateway.yaml").write_text(text + "  services: true\n")
    assert leader.client.post("/-/reload")[0] == 200
    network = manager.docker("network", "inspect", "mesh", "-f", "{{.Id}}").stdout.strip()

    def attached() -> bool:
        spec = manager.inspect("jobs")["Spec"]["TaskTemplate"]
        # It had no network, so that the default bridge is its way out.
        return [each["Target"] for each in spec.get("Networks", [])][1:] == [network]

    leader.wait(attached, timeout=30)

    def task_reaches() -> bool:
        listed = manager.docker("ps", "-q", "--filter", "name=jobs", "--filter", "status=running").stdout.split()
        return any(leader.says(each) == "orders-here" for each in listed)

    leader.wait(task_reaches, timeout=40)
    manager.docker("service", "rm", "jobs")
