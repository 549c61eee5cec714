"""Tests unusual containers on a real engine: huge labels, `--link`, and two gateways with the same instance name."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_site import OPT_IN, Site
from tests.support.engines import Engine, running_engine

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ATTACHED = ("attached", None)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Iterator[Site]:
    yield Site(engine, tmp_path)
    engine.remove_all()


def log_of(site: Site) -> str:
    done = site.engine.docker("logs", "gateway")
    return done.stdout + done.stderr


def test_events_with_megabytes_of_labels_are_processed(site: Site) -> None:
    site.start()
    labels = site.folder / "labels"
    labels.write_text("gateway.enable=true\n" + "".join(f"huge{at}={'x' * 10_000}\n" for at in range(200)))
    site.engine.run("huge", "--label-file", str(labels))
    site.wait(lambda: site.attachment("huge") == ATTACHED)
    site.engine.docker("exec", "huge", "echo")
    site.engine.run("after", *OPT_IN)
    site.wait(lambda: site.attachment("after") == ATTACHED)
    site.engine.docker("rm", "-f", "huge")
    site.wait(lambda: site.attachment("huge") is None)
    assert "component crashed" not in log_of(site)
    assert "docker engine not usable" not in log_of(site)


def test_a_container_keeps_its_name_when_others_link_to_it(site: Site) -> None:
    site.engine.run("worker")
    site.engine.run("a-linker", "--link", "worker:w")
    site.start(docker='grants: [{container: "worker", backends: [orders]}]')
    site.wait(lambda: site.attachment("worker") == ATTACHED)


def test_a_second_gateway_of_the_same_name_is_reported_and_left_attached(site: Site) -> None:
    site.start()
    other = site.folder / "other"
    other.mkdir()
    configured = (site.folder / "gateway.yaml").read_text()
    (other / "gateway.yaml").write_text(configured.replace(str(site.folder), str(other)))
    before = site.engine.inspect("gateway")["NetworkSettings"]["Networks"]["apps"]["EndpointID"]
    site.engine.run_gateway("second", other, "--network", "far")
    site.wait(
        lambda: any(
            "container second is a gateway with the same instance name, site-a" in each
            for each in plan_warnings(site)
        )
    )
    # The second gateway must leave the endpoint of the first gateway unchanged.
    program = (sys.executable, "-m", "gateway", "plan", "-c", str(other / "gateway.yaml"), "-o", "json")
    site.engine.docker("exec", "second", *program)
    endpoint = site.engine.inspect("gateway")["NetworkSettings"]["Networks"]["apps"]["EndpointID"]
    assert endpoint == before
    assert "disconnect" not in site.engine.docker("logs", "second").stderr


def test_ambiguous_names_are_reported_for_a_container_that_joined_by_itself(site: Site) -> None:
    site.start()
    site.engine.docker("network", "create", "shop")
    site.engine.run("shop-1", "--network", "shop", "--network-alias", "orders")
    site.engine.run("app", "--network", "shop")
    site.engine.docker("network", "connect", "apps", "app")
    site.wait(
        lambda: any(each.startswith("app: 'orders' is a backend on network apps") for each in plan_warnings(site))
    )
    assert site.engine.attached("app", "apps")


def plan_warnings(site: Site) -> list[str]:
    warnings: list[str] = site.get("/api/v1/plan")["warnings"]
    return warnings
