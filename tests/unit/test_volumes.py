import dataclasses
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gateway.app import rendering
from gateway.app.ports import with_ports
from gateway.app.wanted import volumes
from gateway.cli import cli
from gateway.config import Config, Sources, load
from gateway.docker.volumes import VolumeInfo, body, hindrances, judge
from gateway.errors import GatewayError

MEDIA = "media=nfs://nas:2049/export/media?volume.name=shared&volume.mount_options=nconnect=4"
ORDERS = "orders=mysql://db:3306?listen=0.0.0.0:3306"


def config(tmp_path: Path, *backends: str) -> Config:
    given = Sources(backends=backends, settings={"state-dir": str(tmp_path)}, environment={})
    return with_ports(load(given))


def test_the_options_are_those_that_mount_understands(tmp_path: Path) -> None:
    (spec,) = volumes(config(tmp_path, MEDIA))
    assert spec.driver_options == {
        "type": "nfs",
        "device": "127.0.0.1:/export/media",
        "o": "addr=127.0.0.1,port=20490,nfsvers=4.2,proto=tcp,hard,timeo=600,retrans=5,rw,nconnect=4",
    }


@pytest.mark.parametrize(("hold", "retrans"), [("10s", 2), ("2m", 2), ("5m", 5), ("301s", 6), ("1h", 9)])
def test_a_mount_waits_for_longer_than_the_gateway_holds_it(tmp_path: Path, hold: str, retrans: int) -> None:
    (spec,) = volumes(config(tmp_path, f"{MEDIA}&hold={hold}"))
    assert f"retrans={retrans}" in spec.options


def test_a_port_stays_for_ever(tmp_path: Path) -> None:
    other = "more=nfs://nas2:2049/x?volume.name=more"
    assert [spec.port for spec in volumes(config(tmp_path, MEDIA))] == [20490]
    assert [spec.port for spec in volumes(config(tmp_path, other, MEDIA))] == [20491, 20490]
    assert [spec.port for spec in volumes(config(tmp_path, other))] == [20491]
    taken = "a=tcp://b:1?listen=127.0.0.1:20492"
    third = "third=nfs://nas3:2049/x?volume.name=third"
    assert [spec.port for spec in volumes(config(tmp_path, taken, third))] == [20493]
    (tmp_path / "ports.json").write_text("{")
    with pytest.raises(GatewayError, match="repair it"):
        config(tmp_path, MEDIA)


def test_who_only_looks_writes_nothing_down(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        f"gateway: {{state_dir: {tmp_path}/state}}\n"
        f"docker: {{host: 'unix://{tmp_path}/none.sock'}}\n"
        "backends: {media: {kind: nfs, targets: nas, export: /m, volume: {name: media}}}\n"
    )
    for command in ("plan", "audit"):
        done = CliRunner().invoke(cli, [command, "-c", str(file)])
        assert isinstance(done.exception, GatewayError), done.output
    assert not (tmp_path / "state").exists()
    looked = with_ports(load(Sources(file, environment={})), record=False)
    assert looked.backends == with_ports(load(Sources(file, environment={}))).backends
    assert (tmp_path / "state" / "ports.json").exists()


def test_what_there_is_is_compared_and_never_taken_from_others(tmp_path: Path) -> None:
    (spec,) = volumes(config(tmp_path, MEDIA))
    made = body(spec, "gateway", "here")
    there = VolumeInfo("shared", "local", made["DriverOpts"], made["Labels"], used=True)
    assert judge(spec, None, "gateway", "here").change == "create"
    assert (judge(spec, there, "gateway", "here").state, judge(spec, there, "gateway", "here").change) == (
        "kept",
        None,
    )
    for key in ("type", "device", "o"):
        options = {**made["DriverOpts"], key: made["DriverOpts"][key] + "x"}
        drifted = dataclasses.replace(there, options=options)
        assert judge(spec, drifted, "gateway", "here").state == "drifted"
        assert key in judge(spec, drifted, "gateway", "here").message
        assert judge(spec, dataclasses.replace(drifted, used=False), "gateway", "here").change == "recreate"
        assert judge(spec, dataclasses.replace(drifted, used=False), "gateway", "there").state == "blocked"
        assert judge(spec, dataclasses.replace(drifted, labels={}), "gateway", "here").change is None


def test_what_cannot_work_is_told(tmp_path: Path) -> None:
    specs = volumes(config(tmp_path, MEDIA))
    assert list(hindrances({}, "unix:///x", None, specs)) == []
    assert list(hindrances({}, "unix:///x", "host", specs)) == []
    assert "--network host" in "".join(hindrances({}, "unix:///x", "apps", specs))
    assert "set volume.address" in "".join(hindrances({}, "tcp://far:2376", None, specs))
    assert "rootless" in "".join(hindrances({"SecurityOptions": ["name=rootless"]}, "unix:///x", None, specs))
    assert "Desktop" in "".join(hindrances({"OperatingSystem": "Docker Desktop"}, "unix:///x", None, specs))


def test_what_is_rendered_is_what_the_other_side_reads(tmp_path: Path) -> None:
    both = config(tmp_path, MEDIA, ORDERS)
    assert rendering.env(both, None) == ["ORDERS_HOST=orders", "ORDERS_PORT=3306"]
    assert rendering.env(both, "10.0.0.1")[0] == "ORDERS_HOST=10.0.0.1"
    document = yaml.safe_load(rendering.compose(both, None))
    assert document["services"]["app"]["environment"] == {"ORDERS_HOST": "orders", "ORDERS_PORT": "3306"}
    assert document["services"]["app"]["volumes"][0]["volume"] == {"nocopy": True}
    assert document["volumes"]["shared"]["driver_opts"]["o"].startswith("addr=127.0.0.1,port=20490,nfsvers=4.2")
    volume, claim = yaml.safe_load_all(rendering.kubernetes(both))
    assert volume["spec"]["nfs"] == {"server": "127.0.0.1", "path": "/export/media", "readOnly": False}
    assert "port=20490" in volume["spec"]["mountOptions"]
    assert claim["spec"]["volumeName"] == "shared"
    created, started = rendering.docker_run(both, None)
    assert created.startswith(
        "docker volume create --driver local --opt type=nfs --opt device=127.0.0.1:/export/media"
    )
    assert "volume-nocopy" in started


def test_an_ipv6_listener_is_mounted_by_ipv6(tmp_path: Path) -> None:
    (spec,) = volumes(config(tmp_path, "a=nfs://nas/m?listen=[::1]:20490&volume.name=media"))
    assert spec.device == "[::1]:/m"
    assert {"addr=::1", "proto=tcp6"} <= set(spec.options)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("listen=127.0.0.1:1&volume.name=my%20volume,ro", "no name of a volume"),
        ("listen=127.0.0.1:1&volume.name=media&volume.address=gw.example.com", "no IP address"),
        ("listen=127.0.0.1:1&volume.name=media&export=m", "must begin with /"),
        ("listen=/run/m.sock&volume.name=media", "mounts from an address"),
        ("listen=127.0.0.1:1&volume.name=media&volume.mount_options=soft", "is set by the gateway"),
        ("listen=127.0.0.1:1&volume.name=media&volume.mount_options=nconnect=4%2Csoft", "one option each"),
        ("listen=127.0.0.1:1&volume.name=media&volume.mount_options=password%3Dx", "everybody may see"),
    ],
)
def test_what_a_mount_would_take_for_something_else_is_refused(tmp_path: Path, keys: str, words: str) -> None:
    path = "nas" if "export=" in keys else "nas/m"
    with pytest.raises(GatewayError, match=words):
        config(tmp_path, f"a=nfs://{path}?{keys}")


def test_a_version_that_is_asked_for_replaces_ours(tmp_path: Path) -> None:
    (spec,) = volumes(config(tmp_path, "a=nfs://nas/m?volume.name=media&volume.mount_options=nfsvers%3D4.1"))
    assert [option for option in spec.options if "vers" in option] == ["nfsvers=4.1"]
    with pytest.raises(GatewayError, match="of version 4"):
        config(tmp_path, "a=nfs://nas/m?volume.name=media&volume.mount_options=vers%3D3")


def test_two_backends_cannot_have_one_volume(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match=r"backends\.b\.volume\.name: .* also the volume of backend a"):
        config(tmp_path, *(f"{name}=nfs://nas/m?volume.name=media" for name in ("a", "b")))
