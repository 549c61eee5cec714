"""The section `docker` on a real Podman: the cases of Docker, and what is Podman's own."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, command, need
from docker_proxy import DockerProxy, allowlist
from podman import NOBODY, Podman, need_podman
from test_docker import (
    OPT_IN,
    Site,
    site,
    test_a_labelled_container_reaches_backends_by_name_and_again_after_whatever_happens,
    test_an_alias_is_shared_within_one_project_only_and_who_could_pass_for_others_is_told,
    test_an_attachment_ends_with_its_policy_and_a_foreign_one_never,
    test_an_engine_behind_a_tunnel,
    test_an_image_admits_nobody,
    test_audit_shows_what_loses_data,
    test_containers_that_did_not_opt_in_are_left_alone_and_others_are_told_apart,
    test_docker_that_is_not_there_stops_nothing,
    test_each_option_of_a_volume_that_somebody_changed_is_found,
    test_every_blocked_attachment_says_why,
    test_one_leaking_consumer_leaves_room_for_the_others,
    test_only_containers_whose_label_names_the_backend_are_let_in,
    test_plan_shows_and_apply_does_once,
    test_strict_takes_grants_only,
    test_volumes_are_made_kept_and_never_taken_from_others,
    test_without_any_event_everything_is_found_within_35_seconds,
)
from test_docker_stable import (
    test_a_configured_address_is_taken_or_none,
    test_an_address_that_is_taken_is_followed_by_the_next_one_and_that_one_stays,
)

from gateway.demo.process import find

__all__ = [
    "site",
    "test_a_configured_address_is_taken_or_none",
    "test_a_labelled_container_reaches_backends_by_name_and_again_after_whatever_happens",
    "test_an_address_that_is_taken_is_followed_by_the_next_one_and_that_one_stays",
    "test_an_alias_is_shared_within_one_project_only_and_who_could_pass_for_others_is_told",
    "test_an_attachment_ends_with_its_policy_and_a_foreign_one_never",
    "test_an_engine_behind_a_tunnel",
    "test_an_image_admits_nobody",
    "test_audit_shows_what_loses_data",
    "test_containers_that_did_not_opt_in_are_left_alone_and_others_are_told_apart",
    "test_docker_that_is_not_there_stops_nothing",
    "test_each_option_of_a_volume_that_somebody_changed_is_found",
    "test_every_blocked_attachment_says_why",
    "test_one_leaking_consumer_leaves_room_for_the_others",
    "test_only_containers_whose_label_names_the_backend_are_let_in",
    "test_plan_shows_and_apply_does_once",
    "test_strict_takes_grants_only",
    "test_volumes_are_made_kept_and_never_taken_from_others",
    "test_without_any_event_everything_is_found_within_35_seconds",
]
"""What runs here as it does on Docker."""

pytestmark = [pytest.mark.rig, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """In place of the Docker engine that the imported cases run on."""
    need_podman()
    # Podman builds by itself, and not through BuildKit.
    os.environ["DOCKER_BUILDKIT"] = "0"
    made = Podman(tmp_path_factory.mktemp("engine"))
    try:
        made.start()
        made.load_busybox()
        made.load_host()
        yield made
    finally:
        del os.environ["DOCKER_BUILDKIT"]
        made.stop()


@pytest.fixture(autouse=True)
def clean(engine: Podman) -> Iterator[None]:
    """As Docker's, but containers that share another's namespace go with it."""
    yield
    engine.podman("pod", "rm", "-fa", "-t", "0")
    engine.podman("rm", "-fa", "-t", "0")
    engine.podman("network", "prune", "-f")


def test_containers_go_on_without_the_api_and_what_came_meanwhile_is_found(site: Site) -> None:
    site.start()
    site.engine.run("web", *OPT_IN)
    site.reaches("web")
    engine = site.engine
    assert isinstance(engine, Podman)
    engine.kill()
    site.wait(lambda: not site.get("/api/v1/status")["docker"]["reachable"])
    asked = engine.podman("exec", "web", "timeout", "5", "nc", "orders", "3306", check=False)
    assert asked.stdout == "orders-here\n", asked.stderr  # a name server and a network of their own
    engine.podman("run", "-d", "--name", "late", *OPT_IN, "docker.io/library/busybox", "sleep", "9999")
    engine.start()
    site.reaches("late")
    site.wait(lambda: site.attachment("web") == ("attached", None))


def test_who_shares_a_network_namespace_is_taken_for_its_owner(site: Site) -> None:
    site.start(backend=", allow: {label: gateway.backends}")
    site.engine.run("good", *OPT_IN, "--label", "gateway.backends=orders")
    site.reaches("good")
    site.engine.run("sharer", "--network", "container:good")
    assert site.says("sharer", within=5) == "orders-here"
    site.wait(lambda: site.get("/api/v1/consumers")["consumers"]["good"]["backends"]["orders"]["total"] >= 2)
    consumers = site.get("/api/v1/consumers")["consumers"]
    assert "orders" not in consumers.get("sharer", {}).get("backends", {})
    # Its address is nobody's as soon as it has left.
    site.engine.docker("rm", "-f", "sharer")
    site.engine.docker("network", "disconnect", "apps", "good")
    site.reaches("good")


def test_what_podman_cannot_do_is_said_with_its_name(site: Site) -> None:
    site.write(docker="services: true\n")
    path = site.folder / "gateway.yaml"
    path.write_text(path.read_text().replace("{apps: {}}", "{apps: {}, wide: {driver: overlay}}"))
    done = command("plan", "-c", str(path))
    assert done.returncode == 0, done.stderr
    assert "network wide: Podman has no overlay networks: set its driver to bridge" in done.stdout
    assert "docker.services: Podman has no swarm services" in done.stdout


def test_the_shipped_allowlist_with_the_line_for_podman_is_enough(site: Site, tmp_path: Path) -> None:
    shipped = REPOSITORY / "configs/docker/socket-proxy-leader.yaml"
    (line,) = re.findall(r"^# For Podman, add -allowGET=(\S+)$", shipped.read_text(), re.MULTILINE)
    rules = allowlist(shipped)
    with DockerProxy(tmp_path / "without.sock", site.engine.socket, rules):
        site.write(host=f"unix://{tmp_path}/without.sock")
        refused = command("plan", "-c", str(site.folder / "gateway.yaml"))
        assert (refused.returncode, "the proxy before the engine must allow it" in refused.stderr) == (1, True)
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


def test_a_pod_is_attached_by_its_infra_container_and_host_names_are_left_alone(site: Site) -> None:
    engine = site.engine
    assert isinstance(engine, Podman)
    site.start(docker="attach: [{names: ['shop-infra']}]")
    engine.podman("pod", "create", "--name", "shop", "--infra-name", "shop-infra", "--network", "far")
    engine.podman("run", "-d", "--pod", "shop", "--name", "web", *OPT_IN, "docker.io/library/busybox", "sleep", "999")
    engine.podman("run", "-d", "--name", "named", "--hostname", "given", *OPT_IN, "busybox", "sleep", "999")
    site.reaches("web")
    site.reaches("named")
    # Podman calls a container by its host name on each network, and a pod by its own.
    for name in ("shop-infra", "named"):
        site.wait(lambda name=name: site.attachment(name) == ("attached", None))  # type: ignore[misc]
    site.wait(lambda: site.attachment("web") == ("attached", None))


def test_without_root(rig_folder: Path) -> None:
    need_podman()
    need(all(find(each) is not None for each in ("newuidmap", "pasta")), "newuidmap, pasta (packages uidmap passt)")
    engine, folder = Podman(rig_folder / "rootless", rootless=True), rig_folder / "rootless-site"
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
