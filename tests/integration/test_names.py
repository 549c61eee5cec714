"""Tests name conflicts and `gateway explain` on a real engine. The gateway runs in a container."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker_site import OPT_IN, SAYING, Site
from tests.support.engines import Engine, running_engine
from tests.support.files import PYTHON_PATH
from tests.support.gateway_process import command

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("names")) as made:
        yield made


@pytest.fixture(autouse=True)
def clean(engine: Engine) -> Iterator[None]:
    yield
    engine.remove_all()


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Site:
    return Site(engine, tmp_path)


def explained(site: Site, name: str) -> dict[str, Any]:
    done = command("explain", name, "-o", "json", "--admin-socket", str(site.folder / "admin.sock"))
    assert done.returncode == 0, done.stderr
    reported: dict[str, Any] = json.loads(done.stdout)
    return reported


def of_backend(site: Site, name: str, backend: str = "orders") -> dict[str, str]:
    found: dict[str, str] = next(each for each in explained(site, name)["backends"] if each["backend"] == backend)
    return found


def reached(site: Site, name: str, backend: str = "orders") -> str:
    return of_backend(site, name, backend)["reached"]


def log_of(site: Site) -> str:
    done = site.engine.docker("logs", "gateway")
    return done.stdout + done.stderr


def shop(site: Site) -> None:
    """Create a Compose project with a service named `orders`, and an app with the label `gateway.enable`."""
    compose = site.folder / "compose.yaml"
    program = SAYING.format(words="the-shops-own", seconds=0)
    volumes = [f"{path}:{path}:ro" for path in site.engine.python()]
    services = {
        "orders": {"image": "host", "command": ["python3", "-c", program], "volumes": volumes},
        "app": {"image": "busybox", "command": ["sleep", "9999"], "labels": {"gateway.enable": "true"}},
    }
    compose.write_text(json.dumps({"services": services}))
    done = subprocess.run(
        ["docker", "-H", site.engine.url, "compose", "-p", "shop", "-f", str(compose), "up", "-d"],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("internal", [False, True])
def test_shadowing_of_a_service_of_the_same_project_is_reported(site: Site, internal: bool) -> None:
    site.write()
    path = site.folder / "gateway.yaml"
    path.write_text(path.read_text().replace("{apps: {}}", f"{{apps: {{internal: {str(internal).lower()}}}}}"))
    site.engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    shop(site)
    site.wait(lambda: site.attachment("shop-app-1") == ("attached", None))
    # The name `orders` exists on two networks of the app. Docker uses the alphabetically first network, but uses
    # internal networks last.
    there = ("the-shops-own", "orders-here")
    site.wait(lambda: site.says("shop-app-1") in there)
    assert site.says("shop-app-1", within=10) == there[0 if internal else 1]
    reported = "'orders' is a backend on network apps, and container shop-orders-1 on network shop_default"
    site.wait(lambda: any(reported in each for each in site.get("/api/v1/status")["docker"]["warnings"]))
    status = command("status", "--admin-socket", str(site.folder / "admin.sock"))
    assert f"shop-app-1: {reported}" in status.stdout
    site.wait(lambda: f"shop-app-1: {reported}" in log_of(site))
    assert f"shop-app-1: {reported}" in command("plan", "-c", str(path)).stdout
    assert reached(site, "shop-app-1") == "maybe"
    text = command("explain", "shop-app-1", "--admin-socket", str(site.folder / "admin.sock")).stdout
    assert "to do: rename backend orders or the other host of that name" in text
    chain = command("explain", "orders", "--admin-socket", str(site.folder / "admin.sock")).stdout
    assert "container shop-orders-1 on network shop_default" in chain


def test_refuse_does_not_attach_and_detaches_ambiguous_containers(site: Site) -> None:
    site.start(docker="on_name_conflict: refuse")
    shop(site)
    site.wait(lambda: site.attachment("shop-app-1") == ("blocked", "name_conflict"))
    site.wait(lambda: not site.engine.attached("shop-app-1", "apps"))
    # Wait, because the program in the container `shop-orders-1` can start later than the container.
    site.wait(lambda: site.says("shop-app-1") == "the-shops-own")
    # The gateway attaches the container `first` before the name conflict begins.
    site.engine.docker("network", "create", "yard")
    site.engine.run("first", "--network", "yard", *OPT_IN)
    site.reaches("first")
    site.engine.run("second", "--network", "yard", "--network-alias", "orders")
    site.wait(lambda: site.attachment("first") == ("blocked", "name_conflict"))
    site.wait(lambda: not site.engine.attached("first", "apps"))
    site.wait(lambda: reached(site, "first") == "no")
    # After the end of the name conflict, the gateway attaches the container `first` again.
    site.engine.docker("rm", "-f", "second")
    site.reaches("first")


def test_explain_shows_why_a_container_reaches_a_backend_or_does_not(site: Site) -> None:
    site.start(backend=", allow: {label: gateway.backends}")
    engine = site.engine
    engine.run("good", *OPT_IN, "--label", "gateway.backends=orders,media")
    engine.run("plain")
    engine.run("typo", "--label", "gateway.enabled=true")
    engine.run("no-label", *OPT_IN)
    engine.run("beside", "--network", "container:good", *OPT_IN)
    own = (*OPT_IN, "--label", "gateway.backends=orders,media")
    engine.run("named", "--add-host", "orders:127.0.0.1", *own)
    # The gateway must not attach `thief`, because other containers would then resolve the backend's name to `thief`.
    engine.run("thief", "--hostname", "orders", *own)
    site.reaches("good")
    site.wait(lambda: site.attachment("no-label") == site.attachment("named") == ("attached", None))
    site.wait(lambda: site.attachment("beside") == ("attached", None))
    site.wait(lambda: site.attachment("thief") == ("blocked", "alias_conflict"))
    assert not engine.attached("thief", "apps")
    # `explain` must report correctly whether each container can reach the backend.
    for name, expected in (("good", "yes"), ("plain", "no"), ("typo", "no"), ("no-label", "no"), ("beside", "yes")):
        site.wait(lambda name=name, expected=expected: reached(site, name) == expected)  # type: ignore[misc]
        if expected == "yes":
            site.reaches(name)
        else:
            assert site.says(name, within=4) == ""
    assert reached(site, "named") == "maybe"
    assert site.says("named") == ""
    assert reached(site, "no-label", "media") == "yes"
    identity = engine.inspect("good")["Id"]
    assert explained(site, identity[:10])["container"] == "good"
    socket = ("--admin-socket", str(site.folder / "admin.sock"))
    text = command("explain", "typo", *socket).stdout
    assert "did you mean gateway.enable?" in text
    assert "to do: correct its labels and recreate it" in text
    assert "nothing to do" in command("explain", "good", *socket).stdout
    assert "both containers share one network namespace" in command("explain", "beside", *socket).stdout
    unknown = command("explain", "absent", *socket)
    assert (unknown.returncode, "no container 'absent'" in unknown.stderr) == (2, True)
    # The log contains one warning for each unknown label, and a record of each completed attachment.
    unknown_label = "typo: unknown label gateway.enabled: did you mean gateway.enable?"
    site.wait(lambda: unknown_label in log_of(site) and "docker action completed" in log_of(site))
    assert log_of(site).count(unknown_label) == 1
    engine.docker("stop", "-t", "0", "db")
    # The backend is down only after three probes have timed out.
    site.wait(lambda: "the backend is down" in of_backend(site, "good")["why"], timeout=60)


def test_a_network_can_be_recreated_by_hand_although_the_gateway_maintains_it(site: Site) -> None:
    site.start()
    engine = site.engine
    engine.run("web", *OPT_IN)
    site.reaches("web")
    path = site.folder / "gateway.yaml"
    path.write_text(path.read_text().replace("{apps: {}}", "{apps: {mtu: 1400}}"))
    assert site.client.post("/-/reload")[0] == 200
    site.wait(lambda: "docker network rm apps" in str(site.get("/api/v1/status")["docker"]["warnings"]))
    for name in ("web", "gateway"):
        engine.docker("network", "disconnect", "apps", name)
        writes = site.get("/api/v1/status")["docker"]["writes"]
        site.wait(lambda name=name: site.attachment(name) == ("pending", None))  # type: ignore[misc]
        assert site.get("/api/v1/status")["docker"]["writes"] == writes
    engine.docker("network", "rm", "apps")
    site.reaches("web")
    (network,) = json.loads(engine.docker("network", "inspect", "apps").stdout)
    assert network["Options"] == {"com.docker.network.driver.mtu": "1400"}


def test_reload_names_a_file_that_was_replaced_under_its_mount(site: Site) -> None:
    site.write()
    path, place = site.folder / "gateway.yaml", "/run/gateway.yaml"
    volumes = [f"-v{each}:{each}:ro" for each in site.engine.python()]
    site.engine.run(
        "gateway", "--network", "far", *volumes, f"-v{site.folder}:{site.folder}",
        f"-v{site.engine.folder}:{site.engine.folder}", f"-v{path}:{place}:ro", "-e", f"PYTHONPATH={PYTHON_PATH}",
        image="host", command=(sys.executable, "-m", "gateway", "run", "-c", place),
    )  # fmt: skip
    socket = ("--admin-socket", str(site.folder / "admin.sock"))
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    assert command("reload", *socket).stdout == "no change\n"
    beside = site.folder / "new.yaml"
    beside.write_text(path.read_text().replace("hold: 2s", "hold: 3s"))
    beside.replace(path)
    reported = command("reload", *socket)
    assert reported.stdout.startswith(
        f"no change; {place} was replaced on the host, but this container still sees the old"
    )
    assert "mount the file's folder, not the file" in reported.stdout
    assert f"warning: {place} was replaced on the host" in command("status", *socket).stdout
    site.engine.docker("restart", "-t", "5", "gateway")
    site.wait(lambda: command("reload", *socket).stdout == "no change\n")


def test_audit_needs_no_backend(engine: Engine, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"docker: {{host: '{engine.url}'}}\n")
    engine.run("audited", "-v", "/anonymous")
    done = command("audit", "-c", str(config))
    assert (done.returncode, "audited" in done.stdout) == (0, True), done.stderr
    refused = command("validate", "-c", str(config))
    assert (refused.returncode, "there is nothing to serve" in refused.stderr) == (2, True)
