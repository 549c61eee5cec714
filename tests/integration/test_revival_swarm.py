"""Tests a swarm worker that boots before its manager: containers on an overlay network must run again."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.server_process import free_port
from tests.support.docker_site import OPT_IN
from tests.support.engines import Engine, need_engine
from tests.support.gateway_process import Gateway
from tests.support.servers import echoing, serving
from tests.support.swarms import two_nodes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ALONE = 60
"""Seconds for which the worker runs before its manager starts."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    need_engine()
    with two_nodes(tmp_path / "swarm") as engines:
        yield engines


def running(engine: Engine, name: str) -> bool:
    return bool(engine.inspect(name)["State"]["Running"])


def test_containers_of_a_worker_run_again_when_its_manager_is_back(
    nodes: tuple[Engine, Engine], gateway: Gateway
) -> None:
    manager, worker = nodes
    manager.docker("network", "create", "-d", "overlay", "--attachable", "mesh")
    with serving(echoing) as port:
        gateway.write(f"""
            backends: {{echo: {{kind: tcp, targets: ["127.0.0.1:{port}"], listen: "0.0.0.0:{free_port()}"}}}}
            docker: {{host: "{worker.url}", revive: true, networks: {{mesh: {{driver: overlay}}}}}}
        """)
        # A worker can inspect an overlay network only while one of its containers is attached to this network.
        worker.run("joined", "--network", "mesh", "--restart=always")
        worker.run("web", *OPT_IN, "--restart=always")
        worker.run("stopped", *OPT_IN, "--restart=unless-stopped")
        gateway.start()
        gateway.wait(lambda: worker.attached("web", "mesh") and worker.attached("stopped", "mesh"))
        worker.docker("stop", "stopped")
        for node in nodes:
            node.shut_down()
        worker.boot()
        time.sleep(ALONE)
        manager.start()
        worker.wait_ready()
        gateway.wait(lambda: running(worker, "web") and running(worker, "joined"), timeout=60)
        gateway.wait(lambda: not (gateway.status()["docker"] or {})["dead_containers"], timeout=40)
        assert worker.attached("web", "mesh")
        lines = map(json.loads, gateway.log.splitlines())
        requested = {each["container"] for each in lines if each["event"] == "docker start requested"}
        assert requested == {"web", "joined"}, "the engine itself has started a container"
        assert not running(worker, "stopped"), "revival must not start a container that a user stopped"
        assert manager.docker("network", "ls", "-q", "--filter", "name=mesh").stdout.count("\n") == 1
