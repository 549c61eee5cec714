"""Two engines in one swarm with a real overlay between them, and an agent on each."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Engine, need_engine
from swarms import two_nodes
from test_docker import OPT_IN, SAYING, Site

pytestmark = [pytest.mark.rig, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """A manager and a worker."""
    need_engine()
    with two_nodes(tmp_path_factory.mktemp("swarm")) as nodes:
        yield nodes


class Agent(Site):
    """A node's agent; the database is a container on the overlay itself."""

    def __init__(self, engine: Engine, folder: Path, instance: str) -> None:
        self.engine, self.folder = engine, folder
        self.instance = instance
        self.database = "db"
        from gateway.ops.client import Client  # noqa: PLC0415 - as in the class above

        self.peers = ""
        self.client = Client(None, str(folder / "admin.sock"))
        folder.mkdir(exist_ok=True)

    def knows(self, name: str) -> bool:
        """Whether a container is known as a consumer."""
        return name in self.get("/api/v1/consumers")["consumers"]

    def says_in(self, engine: Engine, container: str) -> str:
        """What `orders` says to a container of any node."""
        client = "timeout 5 nc -w 5 orders 3306 </dev/null"
        return engine.docker("exec", container, "sh", "-c", client, check=False, timeout=20).stdout.strip()

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
            + textwrap.indent(self.peers + textwrap.dedent(docker), "  ")
        )
        self.engine.run_gateway("gateway", self.folder)
        self.wait(lambda: self.attachment("gateway") == ("attached", None), timeout=40)
        return self


def with_peers(agent: Agent, secret: str = "0123456789abcdef" * 2) -> Agent:
    """The agent, who knows the others."""
    (agent.folder / "peers").write_text(secret)
    (agent.folder / "peers").chmod(0o600)
    agent.peers = f"peers: {{secret_file: {agent.folder}/peers}}\n"
    return agent


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
        return [each["Target"] for each in spec.get("Networks", [])] == [network]

    leader.wait(attached, timeout=30)

    def task_reaches() -> bool:
        listed = manager.docker("ps", "-q", "--filter", "name=jobs", "--filter", "status=running").stdout.split()
        return any(leader.says(each) == "orders-here" for each in listed)

    leader.wait(task_reaches, timeout=40)
    manager.docker("service", "rm", "jobs")
