"""Tests two engines in one swarm, with a real overlay network and with an agent on each node."""

import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_site import OPT_IN, SAYING
from tests.support.engines import Engine
from tests.support.files import PYTHON_PATH
from tests.support.swarm_agents import Agent, with_peers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MADE = ("mesh", "far", "one-node")
"""The names of the networks that the tests create."""


@pytest.fixture(autouse=True)
def clean(swarm: tuple[Engine, Engine]) -> Iterator[None]:
    """After each test, remove all services, all containers, and the networks in `MADE`."""
    yield
    manager = swarm[0]
    if services := manager.docker("service", "ls", "-q").stdout.split():
        manager.docker("service", "rm", *services)
    for engine in swarm:
        if ids := engine.docker("ps", "-aq").stdout.split():
            engine.docker("rm", "-f", *ids, check=False)  # the container of a task can already be removed
    deadline = time.monotonic() + 60
    for engine in reversed(swarm):
        while any(each in MADE for each in engine.docker("network", "ls", "--format", "{{.Name}}").stdout.split()):
            assert time.monotonic() < deadline, engine.docker("network", "ls").stdout
            engine.docker("network", "rm", *MADE, check=False)
            time.sleep(0.2)


def service(
    manager: Engine, name: str, *options: str, command: tuple[str, ...] = ("busybox", "sleep", "9999")
) -> None:
    """Create a swarm service."""
    own = ("--detach", "--name", name, "--stop-grace-period", "1s", "--endpoint-mode", "dnsrr", "--no-resolve-image")
    manager.docker("service", "create", *own, *options, *command)


def test_a_consumer_reaches_a_backend_through_another_node(swarm: tuple[Engine, Engine], tmp_path: Path) -> None:
    manager, worker = swarm
    # Only the manager's node can reach the database.
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
    # The worker's agent cannot create an overlay network, and can inspect one only after it attaches a container.
    other = Agent(worker, tmp_path / "two", "node-2").begin(
        '{idle: {kind: tcp, targets: ["127.0.0.1:9"], listen: 0.0.0.0:13306, hold: 2s}}'
    )
    assert other.get("/api/v1/status")["docker"]["leader"] is False
    worker.run("app", *OPT_IN)
    other.wait(lambda: worker.attached("app", "mesh"), timeout=30)
    other.wait(lambda: other.says("app") == "orders-here", timeout=60)
    # The owner alias shows that the agent of the worker attached the container.
    assert "gw-owner-node-2" in worker.aliases("app", "mesh")
    # No agent can attach a task of a swarm service. With `docker.services: true`, the leader attaches the service.
    labels = ("--label", "gateway.enable=true", "--container-label", "gateway.enable=true")
    service(manager, "jobs", "--constraint", "node.role==manager", *labels)
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
        # The first network is the default bridge. It keeps the service's route to outside addresses.
        return [each["Target"] for each in spec.get("Networks", [])][1:] == [network]

    leader.wait(attached, timeout=30)

    def task_reaches() -> bool:
        listed = manager.docker("ps", "-q", "--filter", "name=jobs", "--filter", "status=running").stdout.split()
        return any(leader.says(each) == "orders-here" for each in listed)

    leader.wait(task_reaches, timeout=40)


def test_a_labeled_service_is_shown_and_an_impossible_network_blocks_only_itself(
    swarm: tuple[Engine, Engine], tmp_path: Path
) -> None:
    manager, _ = swarm
    leader = Agent(manager, tmp_path / "one", "node-1").begin(
        '{orders: {kind: tcp, targets: ["127.0.0.1:9"], listen: 0.0.0.0:3306}}'
    )
    path = leader.folder / "gateway.yaml"
    text = path.read_text()
    path.write_text(text.replace("networks: {mesh:", "networks: {one-node: {driver: bridge}, mesh:"))
    assert leader.client.post("/-/reload")[0] == 200
    service(manager, "jobs", "--label", "gateway.enable=true", "--constraint", "node.role==manager")

    def shown() -> dict[str, tuple[str, str | None]]:
        listed = leader.get("/api/v1/plan")["attachments"]
        return {
            each["network"]: (each["state"], each["reason"]) for each in listed if each["container"] == "service jobs"
        }

    leader.wait(
        lambda: shown() == {"one-node": ("blocked", "local_network"), "mesh": ("blocked", "services_off")}, timeout=30
    )
    path.write_text(path.read_text() + "  services: true\n")
    assert leader.client.post("/-/reload")[0] == 200
    leader.wait(lambda: shown() == {"one-node": ("blocked", "local_network"), "mesh": ("attached", None)}, timeout=30)
    network = manager.docker("network", "inspect", "mesh", "-f", "{{.Id}}").stdout.strip()
    spec = manager.inspect("jobs")["Spec"]["TaskTemplate"]
    # The first network is the default bridge. It keeps the service's route to outside addresses.
    assert [each["Target"] for each in spec["Networks"]][1:] == [network]


def test_access_by_label_and_grant_holds_for_containers_and_tasks_of_another_node(
    swarm: tuple[Engine, Engine], tmp_path: Path
) -> None:
    manager, worker = swarm
    manager.docker("network", "create", "--subnet", "10.77.1.0/24", "far")
    manager.run_python("db", SAYING.format(words="orders-here", seconds=0), "--network", "far", "--ip", "10.77.1.10")
    asks = "allow: {label: gateway.backends}"
    here = with_peers(Agent(manager, tmp_path / "one", "node-1")).begin(
        f'{{orders: {{kind: tcp, targets: ["10.77.1.10:3306"], listen: 0.0.0.0:3306, hold: 5s, {asks}}}}}',
        "grants: [{swarm_service: jobs, backends: [orders]}, {container: 'batch-*', backends: [orders]}]",
    )
    manager.docker("network", "connect", "far", "gateway")
    there = with_peers(Agent(worker, tmp_path / "two", "node-2"))
    there.begin('{idle: {kind: tcp, targets: ["127.0.0.1:9"], listen: 0.0.0.0:13306}}')
    here.wait(lambda: here.heard() == {"node-2": 1}, timeout=60)
    there.wait(lambda: there.heard() == {"node-1": 1}, timeout=60)
    labeled = ("--network", "mesh", "--label", "gateway.backends=orders")
    worker.run("app", *labeled)
    here.wait(lambda: here.says_in(worker, "app") == "orders-here", timeout=60)
    worker.run("batch-1", "--network", "mesh")
    here.wait(lambda: here.says_in(worker, "batch-1") == "orders-here", timeout=60)
    worker.run("plain", "--network", "mesh")
    here.wait(lambda: "plain@node-2" in here.get("/api/v1/consumers")["consumers"], timeout=60)
    assert here.says_in(worker, "plain") == ""
    service(manager, "jobs", "--constraint", "node.role==worker", "--network", "mesh")

    def task() -> str:
        return worker.docker("ps", "-q", "--filter", "name=jobs", "--filter", "status=running").stdout.strip()

    here.wait(lambda: task() != "" and here.says_in(worker, task()) == "orders-here", timeout=60)
    used = here.get("/api/v1/consumers")["consumers"]
    assert used["plain@node-2"]["backends"]["orders"]["rejected"] == {"not_allowed": 1}
    assert used["app@node-2"]["backends"]["orders"]["total"] >= 1
    # A new container with the address of `app` does not get the access rights of `app`.
    address = worker.inspect("app")["NetworkSettings"]["Networks"]["mesh"]["IPAddress"]
    worker.docker("rm", "-f", "app")
    worker.run("thief", "--network", "mesh", "--ip", address)
    assert here.says_in(worker, "thief") == ""
    # The agent discards the reports of a stopped peer, and rejects a peer with a wrong secret.
    worker.run("app", *labeled)
    here.wait(lambda: here.says_in(worker, "app") == "orders-here", timeout=60)
    worker.docker("kill", "gateway")
    here.wait(lambda: here.heard() == {}, timeout=60)
    assert here.says_in(worker, "app") == ""
    with_peers(there, "f" * 32)
    worker.docker("start", "gateway")
    here.wait(
        lambda: any("TLS handshake failed" in line for line in here.get("/api/v1/status")["docker"]["warnings"]),
        timeout=60,
    )
    assert here.says_in(worker, "app") == ""
    with_peers(there)
    worker.docker("restart", "-t", "1", "gateway")
    here.wait(lambda: here.says_in(worker, "app") == "orders-here", timeout=60)


def test_a_gateway_as_a_global_service_is_not_drifted_and_knows_the_clients_of_every_node(
    swarm: tuple[Engine, Engine], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # The name of the directory is short, because the path of a unix socket has at most 107 bytes (unix(7)).
    tmp_path = tmp_path_factory.mktemp("g")
    manager, _ = swarm
    manager.docker("network", "create", "-d", "overlay", "--attachable", "--subnet", "10.99.0.0/24", "mesh")
    manager.run_python("db", SAYING.format(words="orders-here", seconds=0), "--network", "mesh", "--ip", "10.99.0.99")
    agents = []
    for engine in swarm:
        node = engine.docker("info", "-f", "{{.Swarm.NodeID}}").stdout.strip()
        agents.append(Agent(engine, tmp_path / node, node))
        (tmp_path / node / "engine").symlink_to(engine.folder)
    (tmp_path / "peers").write_text("0123456789abcdef" * 2)
    (tmp_path / "peers").chmod(0o600)
    path = tmp_path / "gateway.yaml"
    path.write_text(
        textwrap.dedent(f"""
        gateway: {{instance: "${{NODE}}", state_dir: "{tmp_path}/${{NODE}}/state"}}
        ops: {{listen: "127.0.0.1:9090", admin_socket: "{tmp_path}/${{NODE}}/admin.sock"}}
        shutdown: {{delay: 0s, drain: 1s}}
        backends:
          orders:
            {{kind: tcp, targets: ["10.99.0.99:3306"], listen: 0.0.0.0:3306, allow: {{label: gateway.backends}}}}
        docker:
          host: "unix://{tmp_path}/${{NODE}}/engine/docker.sock"
          networks: {{mesh: {{create: false}}}}
          peers: {{secret_file: {tmp_path}/peers}}
        """)
    )
    mounts = [f"type=bind,src={each},dst={each}" for each in (tmp_path, *(engine.folder for engine in swarm))]
    mounts += [f"type=bind,src={each},dst={each},readonly" for each in manager.python()]
    service(
        manager, "gateway", "--mode", "global", *(f"--mount={each}" for each in mounts), "--env", "NODE={{.Node.ID}}",
        "--env", f"PYTHONPATH={PYTHON_PATH}", "--network", "name=mesh,alias=orders,alias=gw-peers",
        command=("host", sys.executable, "-m", "gateway", "run", "-c", str(path)),
    )  # fmt: skip
    for agent, other in zip(agents, reversed(agents), strict=True):
        agent.wait(lambda agent=agent: agent.own() == ("attached", ""), timeout=180)  # type: ignore[misc]
        agent.wait(lambda agent=agent, other=other: other.instance in agent.heard(), timeout=60)  # type: ignore[misc]
    for engine in swarm:
        engine.run("app", "--network", "mesh", "--label", "gateway.backends=orders")
        engine.run("plain", "--network", "mesh")
    # The backend's name resolves to both gateways, so each container connects several times.
    for engine in swarm:
        agents[0].wait(lambda engine=engine: agents[0].says_in(engine, "app") == "orders-here", timeout=60)  # type: ignore[misc]
        assert {agents[0].says_in(engine, "app") for _ in range(10)} == {"orders-here"}
        assert {agents[0].says_in(engine, "plain") for _ in range(4)} == {""}
    for agent in agents:
        used = agent.get("/api/v1/consumers")["consumers"]
        assert {name.partition("@")[0] for name, each in used.items() if "orders" in each["backends"]} >= {"app"}
    # Only a manager can inspect services, so only its agent reports that the gateway's service lacks an alias.
    text = path.read_text()
    path.write_text(
        text.replace(
            "backends:\n", 'backends:\n  media: {kind: tcp, targets: ["127.0.0.1:9"], listen: 0.0.0.0:2049}\n'
        )
    )
    for agent in agents:
        assert agent.client.post("/-/reload")[0] == 200
    lacks = "service gateway lacks the aliases media on network mesh: add them to the service"
    agents[0].wait(lambda: agents[0].own() == ("drifted", lacks), timeout=30)
    assert agents[1].own() == ("attached", "")
