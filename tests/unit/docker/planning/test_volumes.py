import dataclasses
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gateway.app.docker_desired_state import mount_addresses, volumes
from gateway.app.volume_listener_ports import with_ports
from gateway.cli import cli
from gateway.config import Config, ConfigSources, load
from gateway.config_rendering.application_container_settings import compose, docker_run, env
from gateway.config_rendering.persistent_volumes import persistent_volumes
from gateway.docker.planning.volumes import create_body, mount_problems, volume_status
from gateway.docker.volumes import EngineVolume, VolumeMountAddress
from gateway.errors import GatewayError

MEDIA = "media=nfs://nas:2049/export/media?volume.name=shared&volume.mount_options=nconnect=4"
ORDERS = "orders=mysql://db:3306?listen=0.0.0.0:3306"


def config(tmp_path: Path, *backends: str) -> Config:
    given = ConfigSources(backends=backends, settings={"state-dir": str(tmp_path)}, environment={})
    return with_ports(load(given))


def test_the_options_of_a_volume_are_mount_options(tmp_path: Path) -> None:
    (spec,) = volumes(config(tmp_path, MEDIA))
    assert spec.driver_options == {
        "type": "nfs",
        "device": "127.0.0.1:/export/media",
        "o": "addr=127.0.0.1,port=20490,nfsvers=4.2,proto=tcp,hard,timeo=600,retrans=5,rw,nconnect=4",
    }


@pytest.mark.parametrize(
    ("backend", "hosts"),
    [
        ("listen=0.0.0.0:20490", ["0.0.0.0"]),  # noqa: S104
        ("listen=[::]:20490", ["::"]),
        ("listen=172.17.0.1:20490", ["172.17.0.1"]),
        ("listen=localhost:20490", ["127.0.0.1", "::1"]),
        ("listen=127.0.0.1:20490&volume.name=media&volume.address=192.168.65.254", ["127.0.0.1", "192.168.65.254"]),
    ],
)
def test_volumes_reach_a_listener_at_its_addresses(tmp_path: Path, backend: str, hosts: list[str]) -> None:
    found = mount_addresses(config(tmp_path, f"media=nfs://nas:2049/m?{backend}"))
    assert found == tuple(VolumeMountAddress("media", host, 20490, 2049) for host in hosts)


@pytest.mark.parametrize(("hold", "retrans"), [("10s", 2), ("2m", 2), ("5m", 5), ("301s", 6), ("1h", 9)])
def test_a_mount_waits_longer_than_hold(tmp_path: Path, hold: str, retrans: int) -> None:
    (spec,) = volumes(config(tmp_path, f"{MEDIA}&hold={hold}"))
    assert f"retrans={retrans}" in spec.options


def test_the_port_of_a_volume_is_stable(tmp_path: Path) -> None:
    other = "more=nfs://nas2:2049/x?volume.name=more"
    assert [spec.port for spec in volumes(config(tmp_path, MEDIA))] == [20490]
    assert [spec.port for spec in volumes(config(tmp_path, other, MEDIA))] == [20491, 20490]
    assert [spec.port for spec in volumes(config(tmp_path, other))] == [20491]
    taken = "a=tcp://b:1?listen=127.0.0.1:20492"
    third = "third=nfs://nas3:2049/x?volume.name=third"
    assert [spec.port for spec in volumes(config(tmp_path, taken, third))] == [20493]
    with pytest.raises(
        GatewayError, match=r"backend b listens on 0\.0\.0\.0:20490, but the volume of backend media uses"
    ):
        config(tmp_path, MEDIA, "b=tcp://b:1?listen=0.0.0.0:20490")
    assert [spec.port for spec in volumes(config(tmp_path, f"{MEDIA}&listen=127.0.0.1:20490"))] == [20490]
    (tmp_path / "ports.json").write_text("{")
    with pytest.raises(GatewayError, match="repair the file"):
        config(tmp_path, MEDIA)


def test_a_read_only_command_saves_no_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The real function would change the log level of later tests.
    monkeypatch.setattr("gateway.ops.logging_setup.configure", lambda *_: None)
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
    looked = with_ports(load(ConfigSources(file, environment={})), record=False)
    assert looked.backends == with_ports(load(ConfigSources(file, environment={}))).backends
    assert (tmp_path / "state" / "ports.json").exists()


def test_existing_volumes_are_compared_and_foreign_ones_are_kept(tmp_path: Path) -> None:
    (spec,) = volumes(config(tmp_path, MEDIA))
    made = create_body(spec, "gateway", "here")
    there = EngineVolume("shared", "local", made["DriverOpts"], made["Labels"], used=True)
    assert volume_status(spec, None, "gateway", "here").change == "create"
    assert (
        volume_status(spec, there, "gateway", "here").state,
        volume_status(spec, there, "gateway", "here").change,
    ) == (
        "kept",
        None,
    )
    for key in ("type", "device", "o"):
        options = {**made["DriverOpts"], key: made["DriverOpts"][key] + "x"}
        drifted = dataclasses.replace(there, options=options)
        assert volume_status(spec, drifted, "gateway", "here").state == "drifted"
        assert key in volume_status(spec, drifted, "gateway", "here").message
        assert volume_status(spec, dataclasses.replace(drifted, used=False), "gateway", "here").change == "recreate"
        assert volume_status(spec, dataclasses.replace(drifted, used=False), "gateway", "there").state == "blocked"
        assert volume_status(spec, dataclasses.replace(drifted, labels={}), "gateway", "here").change is None


def test_volumes_that_cannot_work_are_reported(tmp_path: Path) -> None:
    specs = volumes(config(tmp_path, MEDIA))
    assert list(mount_problems({}, "unix:///x", None, specs)) == []
    assert list(mount_problems({}, "unix:///x", "host", specs)) == []
    assert "--network host" in "".join(mount_problems({}, "unix:///x", "apps", specs))
    assert "set volume.address" in "".join(mount_problems({}, "tcp://far:2376", None, specs))
    assert "rootless" in "".join(mount_problems({"SecurityOptions": ["name=rootless"]}, "unix:///x", None, specs))
    assert "Desktop" in "".join(mount_problems({"OperatingSystem": "Docker Desktop"}, "unix:///x", None, specs))


def test_rendered_output_has_the_addresses_and_volumes_of_the_backends(tmp_path: Path) -> None:
    both = config(tmp_path, MEDIA, ORDERS)
    assert env(both, None) == ["ORDERS_HOST=orders", "ORDERS_PORT=3306"]
    assert env(both, "10.0.0.1")[0] == "ORDERS_HOST=10.0.0.1"
    document = yaml.safe_load(compose(both, None))
    assert document["services"]["app"]["environment"] == {"ORDERS_HOST": "orders", "ORDERS_PORT": "3306"}
    assert document["services"]["app"]["volumes"][0]["volume"] == {"nocopy": True}
    assert document["volumes"]["shared"]["driver_opts"]["o"].startswith("addr=127.0.0.1,port=20490,nfsvers=4.2")
    volume, claim = persistent_volumes(both)
    assert volume["spec"]["nfs"] == {"server": "127.0.0.1", "path": "/export/media", "readOnly": False}
    assert "port=20490" in volume["spec"]["mountOptions"]
    assert claim["spec"]["volumeName"] == "shared"
    created, started = docker_run(both, None).split("\n", 1)
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
        ("listen=127.0.0.1:1&volume.name=my%20volume,ro", "is not a volume name"),
        ("listen=127.0.0.1:1&volume.name=media&volume.address=gw.example.com", "is not an IP address"),
        ("listen=127.0.0.1:1&volume.name=media&export=m", "must begin with /"),
        ("listen=/run/m.sock&volume.name=media", "needs a TCP address"),
        ("listen=127.0.0.1:1&volume.name=media&volume.mount_options=soft", "is set by the gateway"),
        ("listen=127.0.0.1:1&volume.name=media&volume.mount_options=nconnect=4%2Csoft", "one option per item"),
        ("listen=127.0.0.1:1&volume.name=media&volume.mount_options=password%3Dx", "every user of Docker can read"),
    ],
)
def test_values_that_mount_would_misinterpret_are_refused(tmp_path: Path, keys: str, words: str) -> None:
    path = "nas" if "export=" in keys else "nas/m"
    with pytest.raises(GatewayError, match=words):
        config(tmp_path, f"a=nfs://{path}?{keys}")


def test_a_configured_nfs_version_replaces_the_default(tmp_path: Path) -> None:
    (spec,) = volumes(config(tmp_path, "a=nfs://nas/m?volume.name=media&volume.mount_options=nfsvers%3D4.1"))
    assert [option for option in spec.options if "vers" in option] == ["nfsvers=4.1"]
    with pytest.raises(GatewayError, match="support only 4"):
        config(tmp_path, "a=nfs://nas/m?volume.name=media&volume.mount_options=vers%3D3")


def test_two_backends_cannot_have_one_volume(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match=r"backends\.b\.volume\.name: .* also the volume of backend a"):
        config(tmp_path, *(f"{name}=nfs://nas/m?volume.name=media" for name in ("a", "b")))
