"""Tests of the commands that fix hazards."""

import csv
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.audit.container_recreate_commands import recreate, volume_for
from gateway.audit.hazards import build_report
from gateway.audit.hazards.network_mount_fixes import safe_options, start_engine_after_mount
from gateway.audit.host_filesystem_model import HostMount
from gateway.audit.proposed_mount_changes import ProposedMountChanges
from gateway.audit.snapshot_model import AuditedContainer, AuditedMount, AuditedVolume, AuditSnapshot
from gateway.audit.storage_behind_mount import of_volume

COMPOSE = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.service": "db",
    "com.docker.compose.project.config_files": "/srv/shop/compose.yaml",
}


def container(
    *mounts: AuditedMount, host: Mapping[str, Any] | None = None, image: Mapping[str, Any] | None = None,
    networks: Mapping[str, Any] | None = None, running: bool = True, removed: bool = False, **config: Any,
) -> AuditedContainer:  # fmt: skip
    inspection = {"HostConfig": host or {}, "Config": config, "NetworkSettings": {"Networks": networks or {}}}
    return AuditedContainer(
        "c0ffee" * 10, "db", "mariadb:11", running, removed, mounts, inspection=inspection, image_config=image or {}
    )


def lines(container: AuditedContainer, change: ProposedMountChanges, *others: AuditedContainer) -> list[str]:
    return recreate(AuditSnapshot((container, *others)), container, change).splitlines()


MOVE = ProposedMountChanges({"/var/lib/mysql": "db-mysql"}, copied=("/var/lib/mysql",))


GUARD = (
    "docker volume inspect db-mysql > /dev/null 2>&1 && "
    "{ echo 'the volume db-mysql exists: run gateway audit again' >&2; exit 1; }"
)
VOLUME = [
    GUARD,
    "docker volume create db-mysql",
    "trap 'set +e; docker volume rm db-mysql' EXIT",
]
REMOVED = "docker volume rm db-mysql' EXIT"
HELPER = "docker create --name db-copy -v db-mysql:/audit-copy/var/lib/mysql mariadb:11 none"
SAVE = (
    "test ! -e ./db-mysql || { echo './db-mysql exists: rename it' >&2; exit 1; }\n"
    "docker cp -a db:/var/lib/mysql ./db-mysql"
)
COPY = "docker cp -a db:/var/lib/mysql/ - | docker cp -a=false - db-copy:/audit-copy/var/lib"


def test_a_container_is_created_with_the_options_that_it_has() -> None:
    host = {
        "PortBindings": {"80/tcp": [{"HostPort": "8011"}], "53/udp": [{"HostIp": "::1", "HostPort": "53"}]},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "NetworkMode": "apps",
        "CapDrop": ["NET_RAW"],
        "Devices": [{"PathOnHost": "/dev/net/tun", "PathInContainer": "/dev/net/tun", "CgroupPermissions": "rwm"}],
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}], "Memory": 1 << 30, "NanoCpus": 1500000000, "Init": True,
        "ShmSize": 67108864, "IpcMode": "private", "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "Binds": ["/srv/x:/x:ro,rslave"], "Tmpfs": {"/t": "size=1m"}, "Sysctls": {"net.core.somaxconn": "9"},
        "Runtime": "runsc", "CgroupnsMode": "host", "Annotations": {"a": "b"}, "MaskedPaths": ["/proc/kcore"],
    }  # fmt: skip
    address = {"IPv4Address": "10.0.0.9"}
    app = container(
        AuditedMount("bind", "/x", "/srv/x", writable=False), AuditedMount("tmpfs", "/t"), host=host,
        networks={"two": {}, "apps": {"Aliases": ["orders", "c0ffeec0ffee"], "IPAMConfig": address}},
        image={"Env": ["PATH=/bin"], "Cmd": ["mariadbd"], "User": "mysql"},
        Hostname="c0ffeec0ffee", User="1000", Env=["PATH=/bin", "DB_PASSWORD=hunter2"], Cmd=["mariadbd", "--a b"],
        Labels={"team": "shop"}, WorkingDir="/w", ExposedPorts={"80/tcp": {}, "9/tcp": {}},
    )  # fmt: skip
    text = lines(app, MOVE)
    assert "hunter2" not in "\n".join(text)
    create = (
        "docker inspect -f '{{range .Config.Env}}{{println .}}{{end}}' db | grep -E '^(DB_PASSWORD)=' | "
        "docker create --env-file /dev/stdin --name db-new --cgroupns host -p 8011:80/tcp -p '[::1]:53:53/udp' "
        "--restart on-failure:3 --network apps --cap-drop NET_RAW "
        "--device /dev/net/tun:/dev/net/tun:rwm --init=true --memory 1073741824 "
        "--cpus 1.5 --ulimit core=0:0 --sysctl net.core.somaxconn=9 --log-opt max-size=1m "
        "--runtime runsc --annotation a=b -u 1000 -w /w --expose 9/tcp "
        "--label team=shop --ip 10.0.0.9 --network-alias orders --tmpfs /t:size=1m -v /srv/x:/x:ro,rslave "
        "-v db-mysql:/var/lib/mysql mariadb:11 mariadbd '--a b'"
    )
    back = (
        "docker stop db", "docker rename db db-new", "docker rename db-old db", "docker update --restart no db-new",
        "docker update --restart on-failure:3 db", "docker start db",
    )  # fmt: skip
    assert text == [
        "bash -euo pipefail <<'FIX'",
        *VOLUME,
        create,
        f"trap 'set +e; docker rm -f -v db-new; {REMOVED}",
        "docker network connect two db-new",
        HELPER,
        f"trap 'set +e; docker rm -f -v db-copy db-new; {REMOVED}",
        f"trap 'set +e; docker start db; docker rm -f -v db-copy db-new; {REMOVED}",
        "docker stop db",
        COPY,
        "docker rm -v db-copy",
        "trap - EXIT",
        "docker update --restart no db",
        "docker rename db db-old",
        "docker rename db-new db",
        "docker start db",
        "FIX",
        f"# to go back to the old container: {'; '.join(back)}",
        "# when db works: docker rm -v db-old",
    ]


FAKE_DOCKER = """#!/bin/sh
echo "$*" >> log
case "$*" in
  "info "*) echo other-host ;;
  "volume inspect "*) test -e exists ;;
  "cp "*|"start "*) exit 1 ;;
esac
"""


@pytest.mark.parametrize("labels", [{}, COMPOSE])
def test_a_copy_that_fails_leaves_no_part_of_it_and_never_continues_one(
    labels: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    files = {"com.docker.compose.project.config_files": f"{tmp_path}/compose.yaml"} if labels else {}
    fix = recreate(AuditSnapshot((app := container(Labels={**labels, **files}),)), app, MOVE)

    def run() -> list[str]:
        (tmp_path / "log").write_text("")
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", fix], check=False, cwd=tmp_path, env=path, timeout=30)
        assert done.returncode != 0
        return (tmp_path / "log").read_text().splitlines()

    created = "db-copy" if labels else "db-copy db-new"
    assert run()[-3:] == ["start db", f"rm -f -v {created}", "volume rm db-mysql"]
    (tmp_path / "exists").touch()
    assert run() == ["volume inspect db-mysql"]


@pytest.mark.parametrize("hazard", ["tmpfs", "copy of a tmpfs", "shared memory", "password"])
def test_no_fix_uses_paths_of_another_host(hazard: str, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    tmpfs = AuditedMount("tmpfs", "/data")
    options = {"type": "cifs", "o": "addr=192.0.2.1,password=hunter2", "device": "//nas/x"}
    app, volumes = {
        "tmpfs": (container(tmpfs, host={"Links": ["/x:/db/x"]}), {}),
        "copy of a tmpfs": (container(tmpfs), {}),
        "shared memory": (replace(container(), shared_memory="SQLite"), {}),
        "password": (
            container(AuditedMount("volume", "/data", "", "s")), {"s": AuditedVolume("s", options=options)},
        ),
    }[hazard]  # fmt: skip
    (finding,) = build_report(AuditSnapshot((app,), volumes)).findings
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", finding.fix],
        check=False,
        cwd=tmp_path,
        env=path,
        timeout=30,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "run these commands on the host of the engine" in done.stderr
    used = (tmp_path / "log").read_text().splitlines()
    assert not [each for each in used if each.startswith(("inspect", "volume inspect s", "stop", "rename"))]


def test_a_new_volume_never_has_the_name_of_another_volume() -> None:
    options = {"type": "nfs", "o": "addr=192.0.2.1,udp", "device": ":/x"}
    volumes = {name: AuditedVolume(name, options=options) for name in ("media", "media-2")}
    app = container(AuditedMount("volume", "/data", "", "media"))
    other = AuditedContainer("1", "other", mounts=(AuditedMount("volume", "/data", "", "media-2", writable=False),))
    fixes = [each.fix for each in build_report(AuditSnapshot((app, other), volumes)).findings if each.subject == "db"]
    assert fixes
    assert all("-v media-3:/data" in fix and "docker volume inspect media-3 > /dev/null" in fix for fix in fixes)


def test_a_container_changes_only_after_the_mount_of_the_host_works() -> None:
    options = {"type": "cifs", "o": "addr=192.0.2.1,username=u,password=hunter2,vers=3.0", "device": "//nas/x"}
    app = container(AuditedMount("volume", "/data", "", "share"))
    (finding,) = build_report(AuditSnapshot((app,), {"share": AuditedVolume("share", options=options)})).findings
    text = finding.fix.splitlines()
    assert text[0] == "bash -euo pipefail <<'FIX'"
    assert text.count("FIX") == 1
    mounted = text.index("mountpoint -q /mnt/db-share || mount /mnt/db-share")
    assert mounted < text.index("docker stop db") < text.index("FIX")
    assert text[-1] == "# when db works: docker volume rm share"
    assert not [each for each in text if each.startswith("docker volume rm")]
    inside = AuditedContainer("1", "app", inspection={"HostConfig": {"NetworkMode": f"container:{app.id}"}})
    (finding,) = build_report(
        AuditSnapshot((app, inside), {"share": AuditedVolume("share", options=options)})
    ).findings
    assert all(each.startswith("# ") for each in finding.fix.splitlines())


@pytest.mark.parametrize(
    ("options", "device", "kept"),
    [
        ("addr=192.0.2.1,username=u,password=hunter2,uid=1000,dir_mode=0750,domain=W,sec=ntlmssp,ro", "//nas/x y",
         "addr=192.0.2.1,uid=1000,dir_mode=0750,domain=W,sec=ntlmssp,ro,"),
        ("addr=nas.lan,user=u,pass=hunter2,vers=3.1.1", "//nas.lan/x", "vers=3.1.1,"),
        ("addr=192.0.2.1,username=u,password=hunter2,vers=1.0,nobrl,port=4450", "//nas/x",
         "addr=192.0.2.1,vers=3,port=4450,"),
    ],
)  # fmt: skip
def test_a_mount_of_the_host_has_the_options_of_the_volume(options: str, device: str, kept: str) -> None:
    app = container(AuditedMount("volume", "/data", "", "share", writable=False))
    volume = AuditedVolume("share", options={"type": "cifs", "o": options, "device": device})
    text = build_report(AuditSnapshot((app,), {"share": volume})).findings[0].fix
    assert "hunter2" not in text
    escaped = device.replace(" ", "\\040")
    line = f"{escaped} /mnt/db-share cifs credentials=/etc/db-share.credentials,{kept}_netdev 0 0"
    assert f"grep -qxF '{line}' /etc/fstab || echo '{line}' >> /etc/fstab" in text.splitlines()
    assert "-v /mnt/db-share:/data:ro" in text


def test_options_that_no_command_can_read_are_left_to_the_user() -> None:
    app = container(AuditedMount("volume", "/data", "", "share"))
    options = {"type": "cifs", "o": "addr=192.0.2.1,password=hun,,ter2", "device": "//nas/x"}
    (finding,) = build_report(AuditSnapshot((app,), {"share": AuditedVolume("share", options=options)})).findings
    assert finding.fix.startswith("# an option contains a comma")
    assert len(finding.fix.splitlines()) == 1


def test_a_network_that_was_given_by_its_id_is_joined_once() -> None:
    app = container(host={"NetworkMode": "f00d"}, networks={"apps": {"NetworkID": "f00d", "Aliases": ["orders"]}})
    text = lines(app, ProposedMountChanges())
    assert text[1] == "docker create --name db-new --network f00d --network-alias orders mariadb:11"
    assert not [each for each in text if "network connect" in each]


def test_a_recreated_container_has_the_same_networks_after_connect_and_disconnect() -> None:
    app = container(host={"NetworkMode": "apps"}, networks={"apps": {}, "bridge": {}})
    assert "docker network connect bridge db-new" in lines(app, ProposedMountChanges())
    for mode in ("default", "bridge"):
        app = container(host={"NetworkMode": mode}, networks={"apps": {}})
        text = lines(app, ProposedMountChanges())
        assert [each for each in text if " network " in each and each.startswith("docker")] == [
            "docker network disconnect bridge db-new",
            "docker network connect apps db-new",
        ]
        text = lines(container(host={"NetworkMode": mode}, networks={"bridge": {}}), ProposedMountChanges())
        assert not [each for each in text if " network " in each]
    text = lines(container(host={"NetworkMode": "none"}, networks={"apps": {}}), ProposedMountChanges())
    assert "docker network disconnect none db-new" in text
    for mode in ("host", "none", "container:f00d"):
        text = lines(container(host={"NetworkMode": mode}), ProposedMountChanges())
        assert not [each for each in text if " network " in each]


@pytest.mark.parametrize(
    ("mac_address", "options"), [("02:42:aa:bb:cc:dd", "--mac-address 02:42:aa:bb:cc:dd "), ("02:42:0a:05:00:09", "")]
)
def test_the_addresses_of_a_container_are_kept(mac_address: str, options: str) -> None:
    given = {"IPv4Address": "10.5.0.9", "IPv6Address": "fd00:9::77"}
    endpoint = {"IPAMConfig": given, "IPAddress": "10.5.0.9", "MacAddress": mac_address}
    further = {**endpoint, "IPAMConfig": given}
    app = container(host={"NetworkMode": "apps"}, networks={"apps": endpoint, "two": further})
    text = lines(app, ProposedMountChanges())
    changes = "# db gets another MAC address on two: docker network connect cannot set it"
    assert (changes in text) is bool(options)
    assert (changes in lines(replace(app, removed=True), ProposedMountChanges())) is bool(options)
    assert text[1] == (
        f"docker create --name db-new --network apps {options}--ip 10.5.0.9 --ip6 fd00:9::77 mariadb:11"
    )
    assert "docker network connect --ip 10.5.0.9 --ip6 fd00:9::77 two db-new" in text


def test_options_of_the_image_are_not_repeated_in_the_command() -> None:
    image: dict[str, Any] = {
        "Env": ["A=1"],
        "Cmd": ["x"],
        "Entrypoint": ["y"],
        "Labels": {"a": "b"},
        "WorkingDir": "/w",
        "User": "u",
    }
    app = container(image=image, Hostname="c0ffeec0ffee", **image)
    assert lines(app, ProposedMountChanges())[1] == "docker create --name db-new mariadb:11"
    app = container(image=image, **{**image, "Entrypoint": ["sh", "-c"], "Cmd": ["z"]})
    assert lines(app, ProposedMountChanges())[1] == "docker create --name db-new --entrypoint sh mariadb:11 -c z"


@pytest.mark.parametrize(
    ("host", "config"),
    [
        ({"DeviceRequests": [{"Driver": "nvidia"}]}, {}),
        ({"Links": ["/a:/b"]}, {}),
        ({"SecurityOpt": ['seccomp={"defaultAction": "SCMP_ACT_ALLOW"}']}, {}),
        ({"MaskedPaths": []}, {}),
        ({"Mounts": [{"Type": "bind", "BindOptions": {"Propagation": "rshared"}}]}, {}),
        ({}, {"Cmd": ["redis-server", "--requirepass", "hunter2"]}),
        ({}, {"Cmd": ["redis-cli", "-a", "hunter2"]}),
        ({}, {"Env": ["KEY=a\nb"]}),
        ({}, {"Healthcheck": {"Test": ["CMD", "x"]}}),
        ({}, {"Labels": {"proxy": "http://me:hunter2@proxy"}}),
    ],
)
def test_settings_that_cannot_be_printed_are_left_to_the_user(host: dict[str, Any], config: dict[str, Any]) -> None:
    text = "\n".join(lines(container(host=host, **config), MOVE))
    assert f"\ndocker pause db\n{SAVE}\nFIX\n# create db again" in text
    assert "trap 'set +e; docker unpause db' EXIT\n" in text
    assert "-v db-mysql:/var/lib/mysql" in text
    assert "hunter2" not in text


def test_a_container_with_rm_is_paused_while_its_data_are_copied() -> None:
    assert lines(container(removed=True, host={"AutoRemove": True}), MOVE)[1:-1] == [
        *VOLUME,
        "docker create --name db-new -v db-mysql:/var/lib/mysql mariadb:11",
        f"trap 'set +e; docker rm -f -v db-new; {REMOVED}",
        HELPER,
        f"trap 'set +e; docker rm -f -v db-copy db-new; {REMOVED}",
        f"trap 'set +e; docker unpause db; docker rm -f -v db-copy db-new; {REMOVED}",
        "docker pause db",
        COPY,
        "docker rm -v db-copy",
        "trap - EXIT",
        "docker rm -f db",
        "docker rename db-new db",
        "docker start db",
    ]


def test_data_in_memory_are_copied_while_the_container_exists() -> None:
    app = container(AuditedMount("tmpfs", "/var/lib/mysql"), host={"Tmpfs": {"/var/lib/mysql": ""}})
    change = ProposedMountChanges({"/var/lib/mysql": "db-mysql"}, copied=("/var/lib/mysql",), vanishes=True)
    text = lines(app, change)
    copied = next(at for at, line in enumerate(text) if line.startswith("tar -c -C"))
    assert text.index("docker pause db") < copied < text.index("docker kill db")
    assert not [each for each in text if "--tmpfs" in each or each.startswith("docker stop")]


@pytest.mark.parametrize(
    "more", [{"host": {"Links": ["/x:/db/x"]}}, {"Labels": {"com.docker.swarm.service.name": "shop_db"}}]
)
def test_data_in_memory_are_saved_where_docker_cp_does_not_see_them(more: dict[str, Any]) -> None:
    app = container(AuditedMount("tmpfs", "/data"), **more)
    text = "\n".join(lines(app, ProposedMountChanges({"/data": "db-data"}, copied=("/data",), vanishes=True)))
    assert "tar -c -C /proc/self/fd/3 --transform 's,^\\.,data,S' . > ./db-data.tar" in text
    assert "docker cp" not in text


def test_podman_copies_no_data() -> None:
    snapshot = AuditSnapshot((container(),), {"lost": AuditedVolume("lost", size=1)}, cli="podman")
    text = recreate(snapshot, container(), MOVE).splitlines()
    assert all(each.startswith("# ") for each in text)
    assert "# copy only the files of /var/lib/mysql to db-mysql" in text
    (unused,) = build_report(snapshot).findings
    assert unused.fix.splitlines()[2:4] == ["podman volume export lost > lost.tar", "podman volume rm lost"]


def test_a_stopped_container_stays_stopped() -> None:
    commands = [each for each in lines(container(running=False), MOVE) if not each.startswith("#")]
    assert not [each for each in commands if "start" in each or " stop " in each]


def test_mounts_are_dropped_and_made_read_only() -> None:
    app = container(AuditedMount("bind", "/key", "/srv/key"), AuditedMount("volume", "/data", "", "data"))
    assert lines(app, ProposedMountChanges(dropped=frozenset({"/key"})))[1].endswith(" -v data:/data mariadb:11")
    assert lines(app, ProposedMountChanges(read_only=frozenset({"/data"})))[1].endswith(
        " -v data:/data:ro mariadb:11"
    )


@pytest.mark.parametrize("labels", [{}, COMPOSE])
def test_a_name_that_leads_to_another_image_is_not_used(labels: Mapping[str, str]) -> None:
    app = replace(container(Labels=labels), image_reference="sha256:1")
    text = "\n".join(lines(app, MOVE))
    assert "mariadb:11 " not in f"{text} ".replace("mariadb:11 now refers", "")
    assert ("may use another image" in text) if labels else ("-v db-mysql:/var/lib/mysql sha256:1\n" in text)


def test_helpers_leave_no_anonymous_volumes() -> None:
    other = replace(container(AuditedMount("bind", "/srv", "/srv/x", hides=("a",))), image_reference="sha256:1")
    found = build_report(AuditSnapshot((other,), {"lost": AuditedVolume("lost", size=1)})).findings
    fixes = {each.rule.id: each.fix for each in found}
    assert "docker rm -v save-lost\ndocker volume rm lost\nFIX" in fixes["unused-volume"]
    assert "-v lost:/volume:ro sha256:1 none" in fixes["unused-volume"]
    assert "docker rm -v db-image db-copy' EXIT\n" in fixes["hides-image-files"]


def test_a_copy_that_fails_leaves_no_helper(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text(FAKE_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    other = container(AuditedMount("bind", "/srv", "/srv/x", hides=("a",)))
    found = build_report(AuditSnapshot((other,), {"lost": AuditedVolume("lost", size=1)})).findings
    ended = []
    for fix in (each.fix for each in found if each.rule.id in ("unused-volume", "hides-image-files")):
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", fix], check=False, cwd=tmp_path, env=path, timeout=30)
        assert done.returncode != 0
        ended.append((tmp_path / "log").read_text().splitlines()[-1])
    assert sorted(ended) == ["rm -v db-image db-copy", "rm -v save-lost"]


def test_names_of_existing_objects_are_not_used() -> None:
    old = AuditedContainer("1", "db-old")
    assert "docker rename db db-old-2" in lines(container(), ProposedMountChanges(), old)
    snapshot = AuditSnapshot(volumes={"db-mysql": AuditedVolume("db-mysql")})
    assert volume_for(snapshot, container(), "/var/lib/mysql") == "db-mysql-2"


def test_a_container_of_compose_gets_an_override_file() -> None:
    app = container(
        AuditedMount("volume", "/cache", "", "shop_cache"),
        AuditedMount("bind", "/a$b", "/srv/it's"),
        AuditedMount("tmpfs", "/t"),
        Labels=COMPOSE,
    )
    text = "\n".join(lines(app, MOVE))
    override = yaml.safe_load(text.partition("<<'YAML'\n")[2].partition("\nYAML")[0].replace("!override", ""))
    assert override == {
        "services": {
            "db": {
                "volumes": ["shop_cache:/cache", "/srv/it's:/a$$b", "db-mysql:/var/lib/mysql"],
                "tmpfs": ["/t"],
            }
        },
        "volumes": {"db-mysql": {"external": True}, "shop_cache": {"external": True}},
    }
    assert text.splitlines()[1] == GUARD
    compose = "docker compose -p shop -f /srv/shop/compose.yaml -f /srv/shop/shop.db.audit.yaml"
    assert text[text.index(f"{compose} config") :].splitlines() == [
        f"{compose} config --quiet",
        *VOLUME[1:],
        HELPER,
        "trap 'set +e; docker rm -f -v db-copy; docker volume rm db-mysql' EXIT",
        "trap 'set +e; docker start db; docker rm -f -v db-copy; docker volume rm db-mysql' EXIT",
        "docker stop db",
        COPY,
        "docker rm -v db-copy",
        "docker commit db before-audit:db",
        "trap 'set +e; docker start db' EXIT",
        f"{compose} up --detach --no-deps --no-build --pull never db",
        "trap - EXIT",
        "FIX",
        "# when db works: docker rmi before-audit:db",
        "# then move the lines of /srv/shop/shop.db.audit.yaml to /srv/shop/compose.yaml",
    ]


def test_compose_gets_the_project_directory_and_environment_files_of_the_container() -> None:
    labels = {**COMPOSE, "com.docker.compose.project.working_dir": "/srv/a b",
              "com.docker.compose.project.environment_file": "/srv/prod.env"}  # fmt: skip
    text = "\n".join(lines(container(Labels=labels), MOVE))
    options = "--project-directory '/srv/a b' --env-file /srv/prod.env"
    assert f"docker compose -p shop {options} -f /srv/shop/compose.yaml -f /srv/shop/shop.db.audit.yaml up" in text


def override_of(app: AuditedContainer, change: ProposedMountChanges) -> Any:
    text = "\n".join(lines(app, change))
    return yaml.safe_load(text.partition("<<'YAML'\n")[2].partition("\nYAML")[0].replace("!override", ""))


def test_an_override_file_keeps_the_options_of_mounts() -> None:
    mounts = (AuditedMount("tmpfs", "/t"), AuditedMount("tmpfs", "/u"), AuditedMount("volume", "/v", "", "v"))
    long = [
        {"Type": "tmpfs", "Target": "/u", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 0o700}},
        {"Type": "volume", "Target": "/v", "VolumeOptions": {"NoCopy": True}},
    ]
    app = container(*mounts, host={"Tmpfs": {"/t": "size=64m"}, "Mounts": long}, Labels=COMPOSE)
    service = override_of(app, MOVE)["services"]["db"]
    assert service["tmpfs"] == ["/t:size=64m", "/u:size=4096,mode=700"]
    assert service["volumes"] == ["v:/v:nocopy", "db-mysql:/var/lib/mysql"]
    part = [{"Type": "volume", "Target": "/v", "VolumeOptions": {"Subpath": "x"}}]
    text = "\n".join(lines(container(*mounts, host={"Mounts": part}, Labels=COMPOSE), MOVE))
    assert "compose" not in text


def test_an_override_file_removes_a_key_that_comes_from_secrets() -> None:
    secret = AuditedMount("bind", "/run/secrets/key", "/srv/key", writable=False)
    other = AuditedMount("bind", "/run/secrets/other", "/srv/other", writable=False)
    given = [{"Type": "bind", "Target": each.path, "ReadOnly": True} for each in (secret, other)]
    app = container(secret, other, host={"Mounts": given}, Labels=COMPOSE)
    change = ProposedMountChanges(dropped=frozenset({secret.path}))
    assert override_of(app, change)["services"]["db"] == {
        "volumes": ["/srv/other:/run/secrets/other:ro"], "secrets": [], "configs": [],
    }  # fmt: skip
    short = container(secret, Labels=COMPOSE)
    assert set(override_of(short, change)["services"]["db"]) == {"volumes"}
    files = f"{COMPOSE['com.docker.compose.project.config_files']},/srv/shop/shop.db.audit.yaml"
    again = container(secret, Labels={**COMPOSE, "com.docker.compose.project.config_files": files})
    assert override_of(again, change)["services"]["db"] == {"volumes": [], "secrets": [], "configs": []}
    assert " -f /srv/shop/shop.db.audit.yaml up" in "\n".join(lines(again, change))


def test_compose_replaces_no_other_container() -> None:
    first, second = container(Labels=COMPOSE), replace(container(Labels=COMPOSE), name="db-2")
    text = "\n".join(lines(first, MOVE, second))
    assert "compose -p" not in text
    assert "(no command can create it exactly: Compose would replace all 2 containers of shop/db)" in text
    one_off = container(Labels={**COMPOSE, "com.docker.compose.oneoff": "True"})
    assert "compose -p" not in "\n".join(lines(one_off, MOVE))


def test_in_memory_data_of_compose_are_copied_before_the_container_is_killed() -> None:
    app = container(AuditedMount("tmpfs", "/data"), Labels=COMPOSE)
    text = lines(app, ProposedMountChanges({"/data": "db-data"}, copied=("/data",), vanishes=True))
    order = ["docker pause db", "tar -c -C", "trap - EXIT", "docker kill db", "docker commit", "docker compose"]
    places = [
        max(at for at, line in enumerate(text) if line.startswith(each) and line != text[-1]) for each in order[:2]
    ]
    places += [
        next(at for at, line in enumerate(text) if at > places[1] and line.startswith(each)) for each in order[2:]
    ]
    assert places == sorted(places)
    assert not [each for each in text if each.startswith("docker stop")]


def test_labels_of_an_image_do_not_change_commands() -> None:
    labels = {**COMPOSE, "com.docker.swarm.service.name": "shop_db"}
    for image in ({"Labels": labels}, None):
        app = replace(container(Labels=labels), image_config=image)
        assert not [each for each in lines(app, MOVE) if "compose -p" in each or "service update" in each]


def test_a_container_of_an_image_that_compose_built_gets_an_override_file() -> None:
    """Compose also sets its labels for project and service on an image that it builds."""
    built = {"Labels": {key: COMPOSE[key] for key in COMPOSE if not key.endswith("files")}}
    app = container(image=built, Labels={**COMPOSE, "com.docker.compose.config-hash": "0"})
    assert "docker compose -p shop" in "\n".join(lines(app, MOVE))


def test_a_task_of_a_service_is_changed_by_its_service() -> None:
    app = container(AuditedMount("bind", "/key", "/srv/key"), Labels={"com.docker.swarm.service.name": "shop_db"})
    assert lines(app, ProposedMountChanges(dropped=frozenset({"/key"}))) == [
        "docker service update --mount-rm /key shop_db"
    ]
    assert lines(app, ProposedMountChanges(read_only=frozenset({"/key"}))) == [
        "docker service update --mount-rm /key --mount-add type=bind,source=/srv/key,target=/key,readonly shop_db"
    ]


def test_each_node_of_a_service_creates_the_volume_with_its_options() -> None:
    labels = {"com.docker.swarm.service.name": "shop_db"}
    app = container(AuditedMount("volume", "/data", volume="media"), Labels=labels)
    options = ("-o", "type=nfs", "-o", "device=:/media", "-o", "o=addr=192.0.2.1,hard")
    start, guard, line, end = lines(app, ProposedMountChanges({"/data": "media-2"}, driver_options=options))
    assert (start, guard, end) == ("bash -euo pipefail <<'FIX'", GUARD.replace("db-mysql", "media-2"), "FIX")
    fields = next(csv.reader([shlex.split(line)[shlex.split(line).index("--mount-add") + 1]]))
    assert fields == [
        "type=volume", "source=media-2", "target=/data", "volume-driver=local", "volume-opt=type=nfs",
        "volume-opt=device=:/media", "volume-opt=o=addr=192.0.2.1,hard",
    ]  # fmt: skip


def test_a_mount_that_becomes_read_only_keeps_the_driver_of_its_volume() -> None:
    driver = {"Name": "local", "Options": {"type": "nfs", "o": "addr=192.0.2.1"}}
    given = {"Type": "volume", "Target": "/data", "VolumeOptions": {"DriverConfig": driver}}
    labels = {"com.docker.swarm.service.name": "shop_db"}
    app = container(AuditedMount("volume", "/data", volume="media"), host={"Mounts": [given]}, Labels=labels)
    (line,) = lines(app, ProposedMountChanges(read_only=frozenset({"/data"})))
    assert (
        "source=media,target=/data,readonly,volume-driver=local,volume-opt=type=nfs,volume-opt=o=addr=192.0.2.1"
        in line
    )


def test_a_password_in_the_options_of_a_volume_is_not_printed() -> None:
    driver = {"Name": "local", "Options": {"type": "cifs", "o": "username=u,password=hunter2"}}
    given = {"Type": "volume", "Target": "/data", "VolumeOptions": {"DriverConfig": driver}}
    labels = {"com.docker.swarm.service.name": "shop_db"}
    app = container(AuditedMount("volume", "/data", volume="media"), host={"Mounts": [given]}, Labels=labels)
    assert lines(app, ProposedMountChanges(read_only=frozenset({"/data"}))) == [
        "# an option of the volume media is a secret, so no command is safe to print"
    ]
    text = lines(app, ProposedMountChanges({"/data": "/mnt/media"}, setup=("mkdir -p /mnt/media",)))
    mount = "--mount-rm /data --mount-add type=bind,source=/mnt/media,target=/data"
    assert text[1] == f"# docker service update {mount} shop_db"


def test_a_directory_for_a_service_is_prepared_on_each_node() -> None:
    labels = {"com.docker.swarm.service.name": "shop_db"}
    app = container(AuditedMount("volume", "/data", volume="media"), Labels=labels)
    text = lines(app, ProposedMountChanges({"/data": "/mnt/media"}, setup=("mkdir -p /mnt/media",)))
    assert text[0].startswith("# run the following commands on each node that can run a task of shop_db")
    assert text[1].startswith("# docker service update --mount-rm /data --mount-add type=bind,source=/mnt/media")
    assert text[2] == "# if a node does not have the volume, first copy the credentials file from another node to it"
    assert text[3:] == ["bash -euo pipefail <<'FIX'", "mkdir -p /mnt/media", "FIX"]


def test_no_command_gives_a_service_an_empty_volume() -> None:
    """An update of a swarm service starts new tasks. With an empty volume, these tasks would not have the data."""
    labels = {"com.docker.swarm.service.name": "shop_db", "com.docker.swarm.node.id": "n1"}
    text = lines(container(Labels=labels), MOVE)
    assert text[:6] == [
        "bash -euo pipefail <<'FIX'", "trap 'set +e; docker unpause db' EXIT", "docker pause db",
        *SAVE.splitlines(), "FIX",
    ]  # fmt: skip
    assert all(each.startswith("# ") for each in text[6:])
    mount = "--mount-rm /var/lib/mysql --mount-add type=volume,source=db-mysql,target=/var/lib/mysql"
    assert text[-1] == f"# docker service update --constraint-add node.id==n1 {mount} shop_db"


def test_a_value_of_mount_is_quoted_for_a_task_of_a_service() -> None:
    app = container(AuditedMount("bind", "/x", '/srv/a,"b'), Labels={"com.docker.swarm.service.name": "shop_db"})
    (line,) = lines(app, ProposedMountChanges(read_only=frozenset({"/x"})))
    assert next(csv.reader([shlex.split(line)[-2]])) == ["type=bind", 'source=/srv/a,"b', "target=/x", "readonly"]


@pytest.mark.parametrize("mount", [AuditedMount("bind", "/x", "/srv:/x"), AuditedMount("volume", "/x:ro", "", "v")])
def test_a_path_with_a_colon_gives_no_command(mount: AuditedMount) -> None:
    (only,) = lines(container(mount), MOVE)
    assert only.startswith("# db: a path contains a colon")


def test_a_copy_never_includes_another_mount() -> None:
    """`docker cp` writes through the mounts of the new container, for example to a shared directory or to a key."""
    data = AuditedMount("volume", "/data", "", "a" * 64)
    change = ProposedMountChanges({"/data": "db-data"}, copied=("/data",))
    for labels in ({}, COMPOSE):
        app = container(data, AuditedMount("bind", "/data/.ssh/id_ed25519", "/srv/key"), Labels=labels)
        text = lines(app, change)
        assert all(each.startswith("# ") for each in text)
        assert "# /data/.ssh/id_ed25519 is mounted below /data, and a copy would mix the files of both" in text
        assert text[-1].endswith("-v /srv/key:/data/.ssh/id_ed25519 -v db-data:/data")
    beside = container(data, AuditedMount("bind", "/data-2", "/srv/x"))
    assert "docker stop db" in lines(beside, change)
    above = lines(
        container(AuditedMount("bind", "/data", "/srv/x")),
        ProposedMountChanges({"/data/x": "v"}, copied=("/data/x",)),
    )
    assert all(each.startswith("# ") for each in above)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (AuditedMount("volume", "/data", "", "a" * 64), AuditedMount("volume", "/data", "", "a" * 64)),
        (AuditedMount("bind", "/data", "/tmp/x"), AuditedMount("bind", "/in", "/tmp/x", writable=False)),  # noqa: S108
        (AuditedMount("bind", "/data", "/tmp/x"), AuditedMount("bind", "/in", "/tmp/x/y")),  # noqa: S108
    ],
)
def test_data_that_another_container_uses_is_not_moved(first: AuditedMount, second: AuditedMount) -> None:
    volumes = {each.volume: AuditedVolume(each.volume) for each in (first,) if each.volume}
    app, other = container(first), AuditedContainer("1", "backup", mounts=(second,))
    change = ProposedMountChanges({"/data": "db-data"}, copied=("/data",))
    text = recreate(AuditSnapshot((app, other), volumes), app, change).splitlines()
    assert all(each.startswith("# ") for each in text)
    assert "# backup also uses the data of /data" in text
    alone = AuditedContainer("1", "backup", mounts=(AuditedMount("bind", "/in", "/srv/other"),))
    assert "docker stop db" in recreate(AuditSnapshot((app, alone), volumes), app, change).splitlines()


@pytest.mark.parametrize(
    ("source", "writable", "is_safe"),
    [
        ("/", False, True), ("/srv/docker/volumes", False, True), ("/srv/docker", True, False),
        ("/srv/docker/volumes/x", False, False),
    ],
)  # fmt: skip
def test_a_container_that_reads_all_volumes_does_not_prevent_a_fix(
    source: str, writable: bool, is_safe: bool
) -> None:
    """A container that reads all volumes, for example a node exporter, can also read the new volume."""
    volumes = {"x": AuditedVolume("x", mountpoint="/srv/docker/volumes/x/_data")}
    app = container(AuditedMount("volume", "/data", "", "x"))
    other = AuditedContainer("1", "exporter", mounts=(AuditedMount("bind", "/host", source, writable=writable),))
    snapshot = AuditSnapshot((app, other), volumes, volume_directory="/srv/docker/volumes")
    text = recreate(snapshot, app, ProposedMountChanges({"/data": "db-data"}, copied=("/data",))).splitlines()
    assert ("docker stop db" in text) is is_safe
    assert ("# exporter also uses the data of /data" in text) is not is_safe


@pytest.mark.parametrize("key", ["NetworkMode", "PidMode", "IpcMode"])
@pytest.mark.parametrize("labels", [{}, COMPOSE])
def test_a_container_in_whose_namespace_others_run_is_not_replaced(key: str, labels: Mapping[str, str]) -> None:
    app = container(Labels=labels)
    inside = AuditedContainer("1", "app", inspection={"HostConfig": {key: f"container:{app.id}"}})
    text = lines(app, MOVE, inside)
    assert all(each.startswith("# ") for each in text)
    assert "# app uses a namespace of db, which ends when the container is replaced" in text
    outside = AuditedContainer("1", "app", inspection={"HostConfig": {key: "container:1234"}})
    assert "docker stop db" in lines(app, MOVE, outside)


def test_a_container_to_which_others_link_is_not_replaced() -> None:
    linked, other = (
        AuditedContainer(name, name, inspection={"HostConfig": {"Links": [f"/{target}:/{name}/database"]}})
        for name, target in (("app", "db"), ("web", "db-2"))
    )
    text = lines(container(), MOVE, linked, other)
    assert all(each.startswith("# ") for each in text)
    assert "# app has a link (--link) to the old db" in text
    assert "docker stop db" in lines(container(), MOVE, other)


def test_a_path_with_control_characters_gives_no_command() -> None:
    (only,) = lines(container(), ProposedMountChanges({"/x\nFIX\nrm -rf ~": "v"}))
    assert only.startswith("# db: ")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("addr=192.0.2.1,soft,timeo=10,rw", "addr=192.0.2.1,timeo=10,rw,nfsvers=4.2,proto=tcp,hard"),
        ("addr=192.0.2.1,port=20490,vers=4.1,nolock", "addr=192.0.2.1,port=20490,nfsvers=4.1,proto=tcp,hard"),
        ("addr=2001:db8::1,v3,udp", "addr=2001:db8::1,nfsvers=4.2,proto=tcp6,hard"),
    ],
)
def test_a_new_volume_has_safe_options(options: str, expected: str) -> None:
    volume = AuditedVolume("media", options={"type": "nfs4", "o": options, "device": ":/x"})
    assert safe_options(volume, of_volume(AuditSnapshot(), volume)) == (":/x", "nfs", expected)
    again = [each.fix for each in build_report(AuditSnapshot(volumes={"media": volume})).findings]
    assert again[0] == (
        f"docker volume rm media &&\ndocker volume create -o type=nfs -o device=:/x -o o={expected} media"
    )


def test_a_bind_of_nfs_becomes_a_volume_and_another_one_waits_for_its_mount() -> None:
    nfs = HostMount(
        "/mnt/nas", "nfs4", "nas:/x", {"ro": "", "vers": "4.2", "hard": "", "addr": "192.0.2.1", "rsize": "1048576"}
    )
    app = container(AuditedMount("bind", "/data", "/mnt/nas/media"))
    (finding,) = build_report(AuditSnapshot((app,), host_mounts=(nfs,))).findings
    options = "-o type=nfs -o device=nas:/x/media -o o=ro,addr=192.0.2.1,nfsvers=4.2,proto=tcp,hard"
    made = f"docker volume create {options} db-data"
    text = finding.fix.splitlines()
    assert text[1].startswith("docker volume inspect db-data > ")
    assert text[2] == made
    assert "-v db-data:/data" in finding.fix
    sshfs = HostMount("/mnt/nas", "fuse.sshfs", "me@nas:", {})
    (finding,) = build_report(AuditSnapshot((app,), host_mounts=(sshfs,))).findings
    assert finding.fix == start_engine_after_mount(sshfs)
    assert 'RequiresMountsFor="/mnt/nas"' in finding.fix
