"""Tests behavior that differs between Podman and Docker; test_docker.py has the tests for both engines."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.server_process import find
from gateway.docker.plan import ActionKind, PlannedAction
from tests.support.docker_proxy import DockerProxy, allowlist
from tests.support.docker_site import OPT_IN, Site, execute_and_cancel
from tests.support.files import REPOSITORY
from tests.support.gateway_process import command
from tests.support.podman import NOBODY, Podman, need_podman, running_podman
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    with running_podman(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture(autouse=True)
def clean(engine: Podman) -> Iterator[None]:
    yield
    engine.remove_all()


@pytest.fixture
def site(engine: Podman, tmp_path: Path) -> Site:
    return Site(engine, tmp_path)


def test_containers_keep_access_without_the_api_and_new_ones_are_found_afterwards(site: Site) -> None:
    site.start()
    site.engine.run("web", *OPT_IN)
    site.reaches("web")
    engine = site.engine
    assert isinstance(engine, Podman)
    engine.kill()
    site.wait(lambda: not site.get("/api/v1/status")["docker"]["reachable"])
    asked = engine.podman("exec", "web", "timeout", "5", "nc", "orders", "3306", check=False)
    assert asked.stdout == "orders-here\n", asked.stderr  # containers and their name server do not need the API
    engine.podman("run", "-d", "--name", "late", *OPT_IN, "docker.io/library/busybox", "sleep", "9999")
    engine.start()
    site.reaches("late")
    site.wait(lambda: site.attachment("web") == ("attached", None))


def test_a_container_that_shares_a_network_namespace_counts_as_its_owner(site: Site) -> None:
    site.start(backend=", allow: {label: gateway.backends}")
    site.engine.run("good", *OPT_IN, "--label", "gateway.backends=orders")
    site.reaches("good")
    site.engine.run("sharer", "--network", "container:good")
    assert site.says("sharer", within=5) == "orders-here"
    site.wait(lambda: site.get("/api/v1/consumers")["consumers"]["good"]["backends"]["orders"]["total"] >= 2)
    consumers = site.get("/api/v1/consumers")["consumers"]
    assert "orders" not in consumers.get("sharer", {}).get("backends", {})
    # After `good` has lost its network, the gateway connects `good` to this network again.
    site.engine.docker("rm", "-f", "sharer")
    site.engine.docker("network", "disconnect", "apps", "good")
    site.reaches("good")


def test_containers_are_listed_after_a_stop_while_an_attachment_fails(engine: Podman, tmp_path: Path) -> None:
    engine.docker("network", "create", "--subnet", "10.88.0.0/30", "tiny")
    engine.run("first", "--network", "tiny")  # uses the only free address
    engine.run("full")
    action = PlannedAction(ActionKind.CONNECT, "tiny", "tiny", "full", "full")
    results = set()
    for delay in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1):
        results |= execute_and_cancel(engine, tmp_path, [action], delay)
        assert set(engine.docker("ps", "--format", "{{.Names}}").stdout.split()) == {"first", "full"}
    assert results == {"unknown"}  # after an error with status 500, it is unknown whether Podman executed the request


def test_errors_about_unsupported_features_name_podman(site: Site) -> None:
    site.write(docker="services: true\n")
    path = site.folder / "gateway.yaml"
    path.write_text(path.read_text().replace("{apps: {}}", "{apps: {}, wide: {driver: overlay}}"))
    done = command("plan", "-c", str(path))
    assert done.returncode == 0, done.stderr
    assert "network wide: Podman has no overlay networks: set its driver to bridge" in done.stdout
    assert "docker.services: Podman has no swarm services" in done.stdout


def test_the_shipped_allowlist_with_the_line_for_podman_is_sufficient(site: Site, tmp_path: Path) -> None:
    shipped = REPOSITORY / "configs/docker/socket-proxy-leader.yaml"
    (line,) = re.findall(r"^# For Podman, add -allowGET=(\S+)$", shipped.read_text(), re.MULTILINE)
    rules = allowlist(shipped)
    with DockerProxy(tmp_path / "without.sock", site.engine.socket, rules):
        site.write(host=f"unix://{tmp_path}/without.sock")
        refused = command("plan", "-c", str(site.folder / "gateway.yaml"))
        assert (refused.returncode, "allow it in the proxy in front of the engine" in refused.stderr) == (1, True)
    rules["GET"].append(line)
    with DockerProxy(tmp_path / "proxy.sock", site.engine.socket, rules) as proxy:
        site.start(host=f"unix://{tmp_path}/proxy.sock")
        site.engine.run("web", *OPT_IN)
        site.reaches("web")
        path = site.folder / "gateway.yaml"
        text = path.read_text()
        path.write_text(text.replace("{apps: {}}", "{apps: {}, old: {internal: true}}"))
        assert site.client.post("/-/reload")[0] == 200
        site.wait(lambda: site.engine.attached("web", "old"))
        path.write_text(text)
        assert site.client.post("/-/reload")[0] == 200
        site.wait(lambda: "old" not in site.engine.docker("network", "ls", "--format", "{{.Name}}").stdout.split())
        assert proxy.refused == []


def test_a_pod_is_attached_by_its_infra_container_and_host_names_are_unchanged(site: Site) -> None:
    engine = site.engine
    assert isinstance(engine, Podman)
    site.start(docker="attach: [{names: ['shop-infra']}]")
    engine.podman("pod", "create", "--name", "shop", "--infra-name", "shop-infra", "--network", "far")
    engine.podman("run", "-d", "--pod", "shop", "--name", "web", *OPT_IN, "docker.io/library/busybox", "sleep", "999")
    engine.podman("run", "-d", "--name", "named", "--hostname", "given", *OPT_IN, "busybox", "sleep", "999")
    site.reaches("web")
    site.reaches("named")
    # Podman adds an alias on each network: the host name of the container, or the name of its pod.
    for name in ("shop-infra", "named"):
        site.wait(lambda name=name: site.attachment(name) == ("attached", None))  # type: ignore[misc]
    site.wait(lambda: site.attachment("web") == ("attached", None))


def test_a_rootless_podman_serves_containers(server_folder: Path) -> None:
    need_podman()
    need(all(find(each) is not None for each in ("newuidmap", "pasta")), "newuidmap, pasta (packages uidmap passt)")
    engine, folder = Podman(server_folder / "rootless", rootless=True), server_folder / "rootless-site"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    try:
        engine.start()
        engine.load_busybox()
        engine.load_host()
        site = Site(engine, folder)
        site.start(backend=", allow: {label: gateway.backends}")
        labels = (*OPT_IN, "--label", "gateway.backends=orders")
        for name, network in (("web", "bridge"), ("usual", "pasta")):
            engine.podman("run", "-d", "--name", name, "--network", network, *labels, "busybox", "sleep", "9999")
        site.reaches("web")
        site.wait(lambda: site.attachment("usual") == ("blocked", "not_attachable"))
        assert site.get("/api/v1/consumers")["consumers"]["web"]["backends"]["orders"]["total"] >= 1
        assert "create it with --network bridge" in json.dumps(site.get("/api/v1/plan"))
    finally:
        engine.stop()
