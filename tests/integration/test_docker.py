"""Tests networks, attachments and consumers on real Docker and Podman engines; the gateway runs in a container."""

import ipaddress
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.sshd import Bastion
from gateway.docker.plan import ActionKind, PlannedAction
from tests.support.audit_lines import lines
from tests.support.configs import ssh_tunnel
from tests.support.docker_proxy import DockerProxy
from tests.support.docker_site import OPT_IN, Patient, Site, address, execute_and_cancel, warnings
from tests.support.engines import Engine, running_engine
from tests.support.gateway_process import command, complete_audit
from tests.support.podman import running_podman
from tests.support.prometheus import dashboard_queries, sampled

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=[running_engine, running_podman], ids=["docker", "podman"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with request.param(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture(autouse=True)
def clean(engine: Engine) -> Iterator[None]:
    yield
    engine.remove_all()


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Site:
    return Site(engine, tmp_path)


@pytest.fixture
def patient_site(engine: Engine, tmp_path: Path) -> Patient:
    return Patient(engine, tmp_path)


def test_a_labeled_container_reaches_backends_by_name_also_after_disconnects_and_restarts(site: Site) -> None:
    site.start()
    site.engine.run("web", *OPT_IN, "--label", "gateway.aliases=www")
    site.reaches("web")
    assert set(site.engine.aliases("web", "apps")) == {"www", "gw-owner-site-a"}
    assert set(site.engine.aliases("gateway", "apps")) >= {"orders", "media"}
    site.wait(lambda: site.attachment("web") == ("attached", None))
    # The gateway also attaches a new container with the same name.
    site.engine.docker("rm", "-f", "web")
    site.engine.run("web", *OPT_IN)
    site.reaches("web")
    # If a user detaches the container, the gateway attaches it again.
    site.engine.docker("network", "disconnect", "apps", "web")
    site.reaches("web")
    # The gateway serves the container after the container restarts.
    site.engine.docker("restart", "-t", "0", "web")
    site.reaches("web")
    # If a user detaches the gateway's own container, the gateway attaches it again, with the same aliases.
    site.engine.docker("network", "disconnect", "apps", "gateway")
    site.reaches("web")
    network = json.loads(site.engine.docker("network", "inspect", "apps").stdout)[0]
    assert network["Labels"]["gateway.managed-by"] == "gateway"
    assert network["IPAM"]["Config"][0]["Subnet"] == "10.201.0.0/22"
    writes = site.get("/api/v1/status")["docker"]["writes"]
    time.sleep(2)
    # The gateway changes nothing in Docker if no change is necessary.
    assert site.get("/api/v1/status")["docker"]["writes"] == writes


def test_containers_that_did_not_opt_in_or_opted_in_for_another_instance_are_not_attached(site: Site) -> None:
    site.start(docker="attach: [{names: ['batch-*'], aliases: [batch]}]")
    site.engine.run("plain")
    site.engine.run("other-site", *OPT_IN, "--label", "gateway.instance=site-b")
    site.engine.run("batch-1")
    site.wait(lambda: site.engine.attached("batch-1", "apps"))
    assert "batch" in site.engine.aliases("batch-1", "apps")
    assert not site.engine.attached("plain", "apps")
    assert not site.engine.attached("other-site", "apps")


def test_only_attachments_of_the_gateway_are_removed_when_their_policy_ends(site: Site) -> None:
    site.start(docker="attach: [{names: ['batch-*']}]")
    site.engine.run("batch-1")
    site.engine.run("stops", *OPT_IN, "--label", "gateway.on-stop=detach")
    site.engine.run("stays", *OPT_IN)
    site.engine.run("guest")
    site.engine.docker("network", "connect", "apps", "guest")
    site.wait(lambda: all(site.engine.attached(name, "apps") for name in ("batch-1", "stops", "stays")))
    site.engine.docker("stop", "-t", "0", "stops", "stays")
    site.wait(lambda: not site.engine.attached("stops", "apps"))
    assert site.engine.attached("stays", "apps")
    site.write(docker="attach: [{names: ['else-*']}]")
    assert site.client.post("/-/reload")[0] == 200
    site.wait(lambda: not site.engine.attached("batch-1", "apps"))
    assert site.engine.attached("guest", "apps")


def test_every_blocked_attachment_has_a_reason(site: Site) -> None:
    engine = site.engine
    engine.docker("network", "create", "--subnet", "10.88.0.0/30", "tiny")
    engine.run("shared-with")
    site.start()
    site.write(docker="attach: [{names: [full], networks: [tiny]}]")
    text = (site.folder / "gateway.yaml").read_text()
    (site.folder / "gateway.yaml").write_text(
        text.replace(
            "{apps: {}}", "{apps: {}, tiny: {create: false}, wide: {driver: overlay}, gone: {create: false}}"
        )
    )
    assert site.client.post("/-/reload")[0] == 200
    engine.run("host-net", "--network", "host", *OPT_IN, "--label", "gateway.network=apps")
    engine.run("none-net", "--network", "none", *OPT_IN, "--label", "gateway.network=apps")
    engine.run("shared", "--network", "container:shared-with", *OPT_IN, "--label", "gateway.network=apps")
    engine.run("conflict", *OPT_IN, "--label", "gateway.network=apps", "--label", "gateway.aliases=orders")
    engine.run("overlaid", *OPT_IN, "--label", "gateway.network=wide")
    engine.run("lost", *OPT_IN, "--label", "gateway.network=gone")
    site.wait(lambda: engine.attached("gateway", "tiny"))  # the gateway uses the last free address of this network
    engine.run("full")
    expected = {
        "host-net": "host_network",
        "none-net": "no_network",
        "shared": "shared_namespace",
        "conflict": "alias_conflict",
        "overlaid": "not_a_manager",
        "lost": "unknown_network",
        "full": "ip_exhausted",
    }
    for name, reason in expected.items():
        site.wait(lambda name=name, reason=reason: site.attachment(name) == ("blocked", reason))  # type: ignore[misc]
    metrics = site.get("/metrics")
    assert 'gateway_attachment_state{container="shared",network="apps",state="blocked"} 1.0' in metrics
    shown = re.findall(r"gateway_(?:docker|attachment|containers)\w*", " ".join(dashboard_queries().values()))
    assert len(shown) > 5
    assert set(shown) - sampled(metrics) == set()
    status = command("status", "--admin-socket", str(site.folder / "admin.sock")).stdout
    assert "it uses the network of container shared-with, which is not attached" in status


def test_a_stop_between_two_requests_completes_the_actions(engine: Engine, tmp_path: Path) -> None:
    engine.docker("network", "create", "far")
    engine.docker("volume", "create", "data")
    for name in ("web", "api"):
        engine.run(name, "--network", "far")
    reattach = [PlannedAction(ActionKind.REATTACH, "far", "far", name, name) for name in ("web", "api")]
    recreate = [PlannedAction(ActionKind.RECREATE_VOLUME, "data", "data", body={"Name": "data"})]
    reattached, recreated = set(), set()
    try:
        for delay in (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128):
            reattached |= execute_and_cancel(engine, tmp_path, reattach, delay)
            assert engine.attached("web", "far")
            assert engine.attached("api", "far")
            recreated |= execute_and_cancel(engine, tmp_path, recreate, delay)
            assert "data" in engine.docker("volume", "ls", "-q").stdout.split()
    finally:
        engine.docker("volume", "rm", "-f", "data")
    assert reattached == recreated == {"ok"}


def test_only_containers_with_a_label_for_the_backend_are_admitted(site: Site) -> None:
    site.start(backend=", allow: {label: gateway.backends}")
    site.engine.run("good", *OPT_IN, "--label", "gateway.backends=orders")
    site.engine.run("wrong", *OPT_IN, "--label", "gateway.backends=media")
    site.engine.run("guest")
    site.engine.docker("network", "connect", "apps", "guest")
    # Wait until the gateway has identified all containers. Only then connect from `wrong` and `guest`.
    site.reaches("good")
    site.wait(lambda: site.engine.attached("wrong", "apps"))
    site.wait(lambda: {"good", "wrong", "guest"} <= site.get("/api/v1/consumers")["consumers"].keys())
    assert site.says("wrong", within=10) == ""
    site.wait(lambda: site.says("wrong", "media", 2049) == "orders-here")
    assert site.says("guest", within=10) == ""
    site.wait(
        lambda: site.get("/api/v1/status")["backends"]["orders"]["connections"]["rejected"] == {"not_allowed": 2}
    )
    consumers = site.get("/api/v1/consumers")["consumers"]
    assert consumers["good"]["backends"]["orders"]["total"] >= 1
    assert consumers["good"]["backends"]["orders"]["bytes_from_backend"] >= len("orders-here\n")
    assert consumers["wrong"]["backends"]["orders"]["rejected"] == {"not_allowed": 1}
    text = site.get("/metrics")
    assert 'gateway_consumer_bytes_total{backend="media",consumer="wrong",direction="from_backend"}' in text
    # The audit log contains the names of the consumers and the changes in Docker.
    site.wait(lambda: {each["consumer"] for each in lines(site.audit_log, "refused")} == {"wrong", "guest"})
    served = lines(site.audit_log, "connection", backend="orders", consumer="good")
    assert served[0]["bytes_from_backend"] == len("orders-here\n")
    container = site.engine.docker("inspect", "-f", "{{.Id}}", "good").stdout.strip()
    assert {each["consumer_id"] for each in served} == {container}
    (attached,) = lines(site.audit_log, "docker", action="connect", container="good")
    assert (attached["object"], attached["container_id"], attached["result"]) == ("network apps", container, "ok")
    wide = command("status", "-o", "wide", "--admin-socket", str(site.folder / "admin.sock")).stdout
    assert "CONSUMER" in wide
    assert "good" in wide


def build(engine: Engine, folder: Path, image: str, labels: dict[str, str]) -> None:
    """Build an image of busybox with labels."""
    folder.mkdir()
    lines = ["FROM busybox", *(f"LABEL {key}={json.dumps(text)}" for key, text in labels.items())]
    (folder / "Dockerfile").write_text("\n".join(lines))
    engine.docker("build", "-q", "-t", image, str(folder))


def test_labels_of_an_image_admit_no_container(site: Site, tmp_path: Path) -> None:
    """The gateway must ignore labels that a container inherits from its image."""
    ours = {"gateway.enable": "true", "gateway.backends": "orders"}
    shop = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    build(site.engine, tmp_path / "image", "self-serving", {**ours, **shop, "com.docker.compose.config-hash": "1"})
    site.start(
        backend=", allow: {label: gateway.backends}",
        docker="grants: [{project: shop, service: web, backends: [orders], aliases: [shop]}]",
    )
    # The user sets the same labels on this container. They do not come from its image.
    site.engine.run("good", *(f"--label={key}={text}" for key, text in ours.items()))
    compose = tmp_path / "compose.yaml"
    compose.write_text(
        "services: {web: {build: ./image, image: built, command: [sleep, '9999'], stop_grace_period: 0s}}"
    )
    done = subprocess.run(
        ["docker", "-H", site.engine.url, "compose", "-p", "shop", "-f", str(compose), "up", "-d", "--build"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    site.engine.run("thief", image="self-serving")
    site.engine.run("guest", image="self-serving")
    site.engine.docker("network", "connect", "apps", "guest")
    site.reaches("good")
    # The gateway ignores labels of images, but not the project label, which Compose sets on the container.
    site.reaches("shop-web-1")
    assert "shop" in site.engine.aliases("shop-web-1", "apps")
    assert not site.engine.attached("thief", "apps")
    assert site.says("guest", within=10) == ""
    (line,) = [each for each in site.get("/api/v1/status")["docker"]["warnings"] if each.startswith("thief: ")]
    assert "gateway.backends, gateway.enable come from its image and are ignored" in line
    assert "come from its image" in site.engine.docker("logs", "gateway").stderr
    audited = command("audit", "-c", str(site.folder / "gateway.yaml"))
    assert (audited.returncode, "warning: thief: " in audited.stdout) == (0, True), audited.stderr


def test_in_strict_mode_only_grants_admit_containers(site: Site) -> None:
    site.write(
        backend=", allow: {label: gateway.backends}",
        docker="grants: [{container: 'batch-*', backends: [orders], aliases: [batch]}]",
    )
    path = site.folder / "gateway.yaml"
    text = path.read_text().replace("{instance: site-a,", "{instance: site-a, strict: true,")
    path.write_text(text.replace("0.0.0.0:2049, hold", "0.0.0.0:2049, allow: {label: gateway.backends}, hold"))
    site.engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    site.engine.run("batch-1")
    site.engine.run("web", *OPT_IN, "--label", "gateway.backends=orders")
    site.reaches("batch-1")
    assert "batch" in site.engine.aliases("batch-1", "apps")
    site.wait(lambda: site.attachment("web") == ("blocked", "not_granted"))
    assert not site.engine.attached("web", "apps")
    site.engine.docker("network", "connect", "apps", "web")
    assert site.says("web", within=10) == ""


def test_an_alias_is_shared_within_one_project_only_and_address_spoofing_is_reported(site: Site) -> None:
    site.start(backend=", allow: {label: gateway.backends}")
    shop = (*OPT_IN, "--label", "com.docker.compose.project=shop", "--label", "gateway.aliases=www")
    safe = ("--label", "gateway.backends=orders", "--cap-drop", "NET_RAW")
    site.engine.run("web-1", *shop, *safe)
    site.wait(lambda: site.engine.attached("web-1", "apps"))
    site.engine.run("web-2", *shop, *safe)
    site.engine.run("thief", *OPT_IN, "--label", "gateway.aliases=www")
    site.wait(lambda: site.attachment("thief") == ("blocked", "alias_conflict"))
    site.wait(lambda: site.engine.attached("web-2", "apps"))
    assert not site.engine.attached("thief", "apps")
    assert "attachment refused" in site.engine.docker("logs", "gateway").stderr

    def spoofing() -> list[str]:
        return [
            each for each in site.get("/api/v1/status")["docker"]["warnings"] if each.startswith("network apps: ")
        ]

    assert spoofing() == []
    site.engine.run("able", "--cap-add", "NET_RAW")
    site.engine.docker("network", "connect", "apps", "able")
    site.wait(lambda: [each.split(" can spoof")[0] for each in spoofing()] == ["network apps: able"])
    audited = command("audit", "-c", str(site.folder / "gateway.yaml"))
    assert "warning: network apps: able can spoof another container's address (NET_RAW" in audited.stdout
    # `gateway audit` reports each container that mounts the engine's socket, except the gateway's own container.
    site.engine.run("root", "-v", f"{site.engine.folder}:/engine")
    audited = command("audit", "-c", str(site.folder / "gateway.yaml"), "-o", "json")
    with_socket = [each for each in json.loads(audited.stdout)["findings"] if each["rule"] == "engine-socket"]
    assert [each["subject"] for each in with_socket] == ["root"]


def test_a_consumer_that_leaks_connections_leaves_slots_for_the_others(site: Site) -> None:
    site.engine.docker("rm", "-f", "db")
    site.serve("orders-here", seconds=60)
    site.start(backend=", max_connections: 20")
    site.engine.run("leaky", *OPT_IN)
    site.engine.run("modest", *OPT_IN)
    site.wait(lambda: {"leaky", "modest"} <= site.get("/api/v1/consumers")["consumers"].keys())
    leak = "for i in $(seq 22); do nc orders 3306 </dev/zero >/dev/null & done; wait"
    site.engine.docker("exec", "-d", "leaky", "sh", "-c", leak)

    def used(name: str) -> dict[str, Any]:
        return dict(site.get("/api/v1/consumers")["consumers"][name]["backends"].get("orders", {}))

    site.wait(lambda: used("leaky").get("active") == 16)
    site.wait(lambda: sum(site.get("/api/v1/status")["backends"]["orders"]["connections"]["rejected"].values()) == 6)
    assert used("leaky")["rejected"]["consumer_quota"] > 0
    site.engine.docker("exec", "-d", "modest", "sh", "-c", "nc orders 3306 </dev/zero >/dev/null")
    site.wait(lambda: used("modest").get("active") == 1)


def test_without_events_containers_are_found_within_35_seconds(site: Site, tmp_path: Path) -> None:
    with DockerProxy(tmp_path / "proxy.sock", site.engine.socket) as proxy:
        proxy.drop_events = True
        site.start(host=f"unix://{tmp_path}/proxy.sock", docker="resync: 5s")
        time.sleep(1)
        site.engine.run("web", *OPT_IN)
        site.reaches("web", timeout=20)  # without events, the gateway lists the containers about every 5 s


def test_plan_shows_the_actions_and_apply_executes_them_once(site: Site) -> None:
    site.write()
    site.engine.run("web", *OPT_IN)
    config = ("-c", str(site.folder / "gateway.yaml"))
    shown = command("plan", *config)
    assert shown.returncode == 0
    assert "create_network" in shown.stdout
    assert "connect" in shown.stdout
    assert not site.engine.attached("web", "apps")
    assert json.loads(command("plan", *config, "-o", "json").stdout)["actions"][0]["action"] == "create_network"
    audited = {"GATEWAY_AUDIT_LOG": str(site.audit_log)}
    done = command("apply", *config, environment=audited)
    assert (done.returncode, done.stderr) == (0, "")
    assert site.engine.attached("web", "apps")
    made, attached = lines(site.audit_log)
    assert (made["event"], made["action"], made["instance"]) == ("docker", "create_network", "site-a")
    assert (attached["action"], attached["container"], attached["result"]) == ("connect", "web", "ok")
    absent = {"GATEWAY_AUDIT_LOG": str(site.folder / "absent" / "log")}
    refused = command("apply", *config, environment=absent)
    assert (refused.returncode, "audit.log" in refused.stderr) == (1, True)
    again = command("apply", *config)
    assert "nothing to change" in again.stdout
    site.write(host="unix:///nowhere.sock")
    refused = command("plan", *config)
    assert (refused.returncode, "nowhere.sock" in refused.stderr, refused.stderr.count("\n")) == (1, True, 1)


def test_volumes_are_created_kept_and_never_taken_from_others(site: Site) -> None:
    engine = site.engine

    def write(options: str, name: str = "shared") -> None:
        site.write()
        text = (site.folder / "gateway.yaml").read_text()
        media = (
            f"  share: {{kind: nfs, targets: [nas.invalid], export: /media, listen: 127.0.0.1:20490, "
            f"volume: {{name: {name}, mount_options: [{options}]}}}}\ndocker:"
        )
        (site.folder / "gateway.yaml").write_text(text.replace("docker:", media, 1))

    config = ("-c", str(site.folder / "gateway.yaml"))
    write("nconnect=2")
    assert command("apply", *config).returncode == 0
    made = json.loads(engine.docker("volume", "inspect", "shared").stdout)[0]
    assert (
        made["Options"]["o"]
        == "addr=127.0.0.1,port=20490,nfsvers=4.2,proto=tcp,hard,timeo=600,retrans=5,rw,nconnect=2"
    )
    assert made["Labels"]["gateway.managed-by"] == "gateway"
    assert "nothing to change" in command("apply", *config).stdout
    # `apply` recreates an unused volume. If the volume is in use, `apply` only reports the difference.
    write("nconnect=4")
    assert "recreate_volume" in command("apply", *config).stdout
    assert "nconnect=4" in engine.docker("volume", "inspect", "shared").stdout
    engine.docker("create", "--name", "user", "-v", "shared:/mnt", "busybox", "sleep", "1")
    write("nconnect=8")
    reported = command("apply", *config)
    assert (reported.returncode, "drifted" in reported.stdout, "nothing to change" in reported.stdout) == (
        0,
        True,
        True,
    )
    assert "nconnect=4" in engine.docker("volume", "inspect", "shared").stdout
    # `apply` does not change a volume that another program created.
    engine.docker("volume", "create", "theirs")
    write("nconnect=2", name="theirs")
    reported = command("apply", *config)
    assert (reported.returncode, "blocked" in reported.stdout) == (0, True)
    assert not json.loads(engine.docker("volume", "inspect", "theirs").stdout)[0]["Options"]
    engine.docker("rm", "user")
    engine.docker("volume", "rm", "shared", "theirs")


def test_a_change_of_any_option_of_a_volume_is_detected(site: Site) -> None:
    engine = site.engine
    site.write()
    path = site.folder / "gateway.yaml"
    media = "  share: {kind: nfs, targets: [nas], export: /media, listen: 127.0.0.1:20490, volume: {name: shared}}"
    path.write_text(path.read_text().replace("docker:", f"{media}\ndocker:", 1))
    config = ("-c", str(path))
    assert command("apply", *config).returncode == 0
    made = json.loads(engine.docker("volume", "inspect", "shared").stdout)[0]
    parts = made["Options"]["o"].split(",")
    changed = {part: {"o": ",".join(each for each in parts if each != part)} for part in parts}
    changed |= {"nolock": {"o": f"{made['Options']['o']},nolock"}}
    changed |= {"device": {"device": "127.0.0.1:/other"}, "type": {"type": "nfs4"}}
    labels = [word for key, value in made["Labels"].items() for word in ("--label", f"{key}={value}")]
    for word, change in changed.items():
        engine.docker("volume", "rm", "shared")
        options = [word for pair in {**made["Options"], **change}.items() for word in ("-o", "=".join(pair))]
        engine.docker("volume", "create", *labels, *options, "shared")
        reported = command("plan", *config)
        assert ("recreate_volume" in reported.stdout, word in reported.stdout) == (True, True), (
            reported.stdout + reported.stderr
        )
    assert "recreate_volume" in command("apply", *config).stdout
    assert json.loads(engine.docker("volume", "inspect", "shared").stdout)[0]["Options"] == made["Options"]
    assert "nothing to change" in command("apply", *config).stdout
    engine.docker("volume", "rm", "shared")


@pytest.mark.parametrize("ciphers", ["aes128-gcm@openssh.com", "aes256-ctr"])
def test_an_engine_behind_a_tunnel(site: Site, shared_bastion: Bastion, ciphers: str) -> None:
    """The gateway connects to the engine's Unix socket through SSH, with each of the two data planes."""
    site.write(host=f"ssh://bastion{site.engine.socket}")
    with (site.folder / "gateway.yaml").open("a") as file:
        file.write(f"tunnels: {{bastion: {ssh_tunnel(shared_bastion, more=f', ciphers: [{ciphers}]')}}}\n")
    site.engine.run("web", *OPT_IN)
    done = command("apply", "-c", str(site.folder / "gateway.yaml"))
    assert (done.returncode, done.stderr) == (0, "")
    assert site.engine.attached("web", "apps")


def test_the_gateway_serves_without_docker(site: Site) -> None:
    site.write(host="unix:///nowhere.sock")
    site.engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.get("/api/v1/status")["backends"]["orders"]["state"] == "up")
    site.wait(lambda: "nowhere.sock" in site.get("/api/v1/status")["docker"]["trouble"])
    assert site.get("/api/v1/status")["docker"]["reachable"] is False
    assert "gateway_docker_up 0.0" in site.get("/metrics")
    ended = subprocess.run(
        ["docker", "-H", site.engine.url, "stop", "-t", "10", "gateway"], timeout=20, check=True, capture_output=True
    )
    assert ended.returncode == 0
    assert site.engine.inspect("gateway")["State"]["ExitCode"] == 0


def test_audit_shows_which_data_can_be_lost(engine: Engine, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(f"docker: {{host: '{engine.url}'}}\n")
    engine.run("audited", "-v", "named:/data", "-v", "/anonymous", "-v", f"{tmp_path}:/bound", "--tmpfs", "/fleeting")
    try:
        engine.docker("exec", "audited", "sh", "-c", "yes | timeout 2 cat > /big || true")
        done = complete_audit("-c", str(config), "-o", "json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        places = {each["path"]: each["kind"] for each in report["places"] if each["container"] == "audited"}
        assert places == {
            "/data": "volume", "/anonymous": "anonymous volume", "/fleeting": "tmpfs", "/bound": "bind", "/": "layer",
        }  # fmt: skip
        found = {(each["path"], each["rule"]) for each in report["findings"] if each["subject"] == "audited"}
        expected = {("/anonymous", "anonymous-volume"), ("/fleeting", "data-in-memory"), ("/", "data-in-layer")}
        if tmp_path.is_relative_to("/tmp"):  # noqa: S108
            expected.add(("/bound", "data-in-memory"))
        assert found == expected
        assert "; lost by docker rm" in command("audit", "-c", str(config)).stdout
    finally:
        engine.docker("rm", "-f", "-v", "audited", check=False)
        engine.docker("volume", "rm", "named", check=False)


def test_a_gateway_takes_and_keeps_the_next_address_if_another_container_has_its_own(patient_site: Patient) -> None:
    site, engine = patient_site, patient_site.engine
    site.start()
    first = address(engine, "gateway")
    engine.docker("rm", "-f", "gateway")
    # Request the address with `--ip`, because the engine does not assign this address automatically.
    engine.run("intruder", "--network", "apps", "--ip", first)
    engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    second = address(engine, "gateway")
    assert second != first
    assert ipaddress.ip_address(second) in ipaddress.ip_network("10.201.0.0/23")
    assert f"container intruder has {first}" in str(warnings(site))
    engine.docker("rm", "-f", "intruder", "gateway")
    engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    assert address(engine, "gateway") == second


def test_a_gateway_uses_its_configured_address_or_is_blocked(patient_site: Patient) -> None:
    site, engine = patient_site, patient_site.engine
    site.write_network("subnet: 10.96.0.0/24, ip_range: 10.96.0.128/25, address: 10.96.0.9")
    engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    assert address(engine, "gateway") == "10.96.0.9"
    engine.docker("rm", "-f", "gateway")
    engine.run("intruder", "--network", "apps", "--ip", "10.96.0.9")
    engine.run_gateway("gateway", site.folder, "--network", "far")
    site.wait(lambda: site.attachment("gateway") == ("blocked", "address_refused"))
    engine.docker("rm", "-f", "intruder")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    assert address(engine, "gateway") == "10.96.0.9"
