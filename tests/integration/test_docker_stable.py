"""Tests with a real engine whether the gateway keeps its IP address, for example in a new container."""

import ipaddress
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_site import OPT_IN, Patient, Site, address, warnings
from tests.support.engines import Engine, running_engine
from tests.support.files import REPOSITORY
from tests.support.gateway_process import command

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PAGE = REPOSITORY / "docs" / "docker.md"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("stable")) as made:
        made.docker("tag", "busybox", "my-app")
        yield made


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Site]:
    yield Patient(engine, tmp_path)
    engine.remove_all()


def as_documented(engine: Engine, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the commands of the block `name` in docs/docker.md. Append the arguments `more` to the last command."""
    (block,) = re.findall(rf"<!-- test: {name} -->\n```sh\n(.+?)\n```\n", PAGE.read_text(), re.DOTALL)
    return subprocess.run(
        ["sh", "-ec", f"{block} {' '.join(more)}".rstrip()], env={**os.environ, "DOCKER_HOST": engine.url},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("lose", ["nothing", "state"])
def test_a_recreated_gateway_gets_its_address_back_although_other_containers_joined(site: Site, lose: str) -> None:
    engine = site.engine
    site.start()
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    before = address(engine, "gateway")
    assert ipaddress.ip_address(before) in ipaddress.ip_network("10.201.0.0/23")
    (pool,) = engine.inspect("apps")["IPAM"]["Config"]
    assert (pool["Subnet"], pool["IPRange"]) == ("10.201.0.0/22", "10.201.2.0/23")
    engine.run("web", *OPT_IN)
    site.reaches("web")
    engine.docker("rm", "-f", "gateway")
    if lose == "state":
        (site.folder / "state/docker.json").unlink()
    for at in range(8):
        engine.run(f"intruder-{at}", "--network", "apps")
    there = {address(engine, f"intruder-{at}") for at in range(8)}
    assert before not in there
    engine.run_gateway("gateway", site.folder, "--network", "far")
    site.reaches("web")
    assert address(engine, "gateway") == before
    assert "may change" not in str(warnings(site))


def test_a_network_of_an_earlier_version_is_kept_until_it_is_replaced_as_documented(site: Site) -> None:
    engine = site.engine
    ours = ("--label", "gateway.managed-by=gateway", "--label", "gateway.instance=site-a")
    engine.docker("network", "create", "--subnet", "10.91.0.0/24", *ours, "apps")
    site.start()
    engine.run("web", *OPT_IN)
    site.reaches("web")
    (line,) = [each for each in warnings(site) if "--ip-range" in each]
    assert line.startswith("network apps has no --ip-range: the gateway's address may change")
    assert "The gateway's address" in line
    assert "### The gateway's address" in PAGE.read_text()
    planned = command("plan", "-c", str(site.folder / "gateway.yaml"))
    assert planned.returncode == 0, planned.stderr
    before = engine.inspect("apps")["Id"]
    time.sleep(1)
    assert engine.inspect("apps")["Id"] == before  # the gateway never recreates a network automatically
    done = as_documented(engine, "replace the network")
    assert done.returncode == 0, done.stderr
    site.reaches("web")
    assert engine.inspect("apps")["IPAM"]["Config"][0]["IPRange"]
    site.wait(lambda: "--ip-range" not in str(warnings(site)))


def test_a_container_reaches_its_backend_immediately_after_its_start(site: Site) -> None:
    site.start(backend=", allow: {label: gateway.backends}")
    results = [as_documented(site.engine, "join at once", "nc -w 5 orders 3306") for _ in range(10)]
    failed = [done for done in results if (done.returncode, done.stdout.strip()) != (0, "orders-here")]
    # On a busy machine, the engine can need more than the three seconds that the gateway waits for its report.
    assert len(failed) <= 1, failed
    assert all(done.stdout == "" for done in failed), failed


def test_startup_is_complete_when_the_backend_names_resolve(site: Site) -> None:
    """/startupz succeeds when containers can resolve the backends' names.

    If the engine cannot be reached, /startupz also succeeds.
    """
    engine = site.engine
    site.write_network("")
    engine.docker("network", "create", "--subnet", "10.92.0.0/24", "--ip-range", "10.92.0.128/25", "apps")
    engine.run("web", "--network", "apps")
    gateway = (sys.executable, "-m", "gateway", "healthcheck", "--started")
    for _ in range(3):
        engine.run_gateway("gateway", site.folder, "--network", "far")
        started = ("exec", "gateway", *gateway, "--admin-socket", f"{site.folder}/admin.sock")
        site.wait(lambda: engine.docker(*started, check=False).returncode == 0)  # noqa: B023 - called at once
        assert site.says("web", within=10) == "orders-here"
        engine.docker("rm", "-f", "gateway")
        (site.folder / "admin.sock").unlink(missing_ok=True)
    site.write(host="unix:///nowhere.sock")
    engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.get("/startupz") == "started\n")


def test_a_pruned_network_is_repaired_as_documented(site: Site) -> None:
    engine = site.engine
    site.start()
    engine.run("web", *OPT_IN)
    site.reaches("web")
    before = address(engine, "gateway")
    engine.run("batch", "--network", "apps", *OPT_IN)  # attached by the user, not by the gateway
    engine.docker("stop", "-t", "5", "gateway", "web", "batch")
    assert "apps" in engine.docker("network", "prune", "-f").stdout
    engine.docker("network", "create", "--subnet", "10.77.1.0/24", "far", check=False)
    for name in ("gateway", "web", "batch"):
        started = engine.docker("start", name, check=False)
        assert (started.returncode, "not found" in started.stderr) == (1, True), name
    planned = command("plan", "-c", str(site.folder / "gateway.yaml"))
    assert "docker network disconnect apps gateway" in planned.stdout
    assert "docker network disconnect apps batch && docker network connect apps batch" in planned.stdout
    engine.docker("start", "db")
    done = as_documented(engine, "after a prune")
    assert done.returncode == 0, done.stderr
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    assert address(engine, "gateway") == before
    site.wait(lambda: engine.docker("start", "web", check=False).returncode == 0)
    site.reaches("web")
    assert site.attachment("batch") == ("drifted", None)
    engine.docker("rename", "web", "old")
    engine.docker("rename", "batch", "web")
    done = as_documented(engine, "an app after a prune")
    assert done.returncode == 0, done.stderr
    assert site.says("web", within=10) == "orders-here"


def test_apply_repairs_pruned_networks(site: Site) -> None:
    engine = site.engine
    site.start()
    engine.run("web", *OPT_IN)
    site.reaches("web")
    before = address(engine, "gateway")
    engine.docker("stop", "-t", "5", "gateway", "web")
    engine.docker("network", "rm", "apps")
    config = ("-c", str(site.folder / "gateway.yaml"))
    done = command("apply", *config)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    engine.docker("start", "web")
    engine.docker("start", "gateway")
    site.reaches("web")
    assert address(engine, "gateway") == before


def unnamed(site: Site) -> None:
    site.write()
    path = site.folder / "gateway.yaml"
    path.write_text(path.read_text().replace("instance: site-a, ", ""))


def test_a_gateway_named_by_its_container_id_is_refused_and_another_name_is_kept(site: Site) -> None:
    engine = site.engine
    unnamed(site)
    engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: not engine.inspect("gateway")["State"]["Running"])
    reported = engine.docker("logs", "gateway").stderr
    assert engine.inspect("gateway")["State"]["ExitCode"] == 2
    assert "gateway.instance" in reported
    assert "--hostname" in reported
    engine.docker("rm", "-f", "gateway")
    engine.run_gateway("gateway", site.folder, "--network", "far", "--hostname", "docker-1")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    made = engine.inspect("apps")["Labels"]["gateway.instance"]
    engine.docker("rm", "-f", "gateway")
    # The gateway stores the instance name in `state_dir`, so the name is the same in the next container.
    engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    assert (made, site.get("/api/v1/status")["instance"]) == ("docker-1", "docker-1")


def test_without_docker_any_instance_name_is_accepted(site: Site) -> None:
    (site.folder / "gateway.yaml").write_text(
        textwrap.dedent(f"""
        gateway: {{state_dir: {site.folder}/state}}
        ops: {{admin_socket: {site.folder}/admin.sock}}
        backends: {{orders: {{kind: tcp, targets: ["{site.database}:3306"], listen: 0.0.0.0:3306}}}}
        """)
    )
    container = site.engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.get("/api/v1/status")["instance"] == container[:12])


def test_after_an_engine_restart_the_app_reaches_the_gateway(site: Site) -> None:
    """The engine restarts the containers with `--restart always`. The gateway keeps its IP address."""
    engine = site.engine
    site.write()
    engine.run_gateway("gateway", site.folder, "--network", "far", "--restart", "always")
    engine.docker("update", "--restart", "always", "db")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    before = address(engine, "gateway")
    engine.run("web", "--network", "apps", "--restart", "always", *OPT_IN)
    site.reaches("web")
    engine.kill()
    engine.start()
    site.reaches("web")
    assert address(engine, "gateway") == before
    assert json.loads((site.folder / "state/docker.json").read_text())["addresses"] == {"apps": [before]}
