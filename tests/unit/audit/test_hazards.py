"""Tests each hazard with a snapshot that has the hazard, and with a snapshot that does not have it."""

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import hazard_rules
from gateway.audit.database_files import at, in_files
from gateway.audit.hazards import build_report
from gateway.audit.hazards.sensitive_host_access import may_write
from gateway.audit.host_filesystem_model import FoundPrivateKey, HostMount, HostPath
from gateway.audit.report import Finding, Severity
from gateway.audit.sarif import sarif
from gateway.audit.snapshot_model import (
    AuditedContainer,
    AuditedMount,
    AuditedVolume,
    AuditSnapshot,
    ContainerProcessUser,
)

ANONYMOUS = "a" * 64
NFS = {"type": "nfs", "o": "addr=192.0.2.1,nfsvers=4.2,hard,rw", "device": ":/export"}
ROOT = HostMount("/", "ext4", "/dev/vda1", {})


def volume(name: str = "data", **more: Any) -> AuditedVolume:
    return AuditedVolume(name, mountpoint=f"/var/lib/docker/volumes/{name}/_data", **more)


def container(
    *mounts: AuditedMount, name: str = "app", host: Mapping[str, Any] | None = None, **more: Any
) -> AuditedContainer:
    if isinstance(changed := more.get("changes"), tuple):
        more["changes"] = dict.fromkeys(changed, 1)
    inspection = {"Config": {"Env": more.pop("env", [])}, "HostConfig": host or {}, "Created": name}
    return AuditedContainer(
        name * 4, name, more.pop("image", "example/app:1"), mounts=mounts, inspection=inspection, **more
    )


def on_volume(name: str = "data", path: str = "/data", *, writable: bool = True) -> AuditedMount:
    return AuditedMount("volume", path, f"/var/lib/docker/volumes/{name}/_data", name, writable)


def bind(source: str, path: str = "/data", *, writable: bool = True, **more: Any) -> AuditedMount:
    return AuditedMount("bind", path, source, writable=writable, **more)


def directory(*names: str, uid: int = 0, mode: int = 0o755, has_acl: bool = False) -> HostPath:
    return HostPath("directory", uid, 0, mode, has_acl, frozenset(names), in_files(names)[0])


def findings(
    *containers: AuditedContainer,
    volumes: tuple[AuditedVolume, ...] = (),
    mounts: tuple[HostMount, ...] = (ROOT,),
    paths: Mapping[str, HostPath] | None = None,
) -> list[Finding]:
    snapshot = AuditSnapshot(containers, {each.name: each for each in volumes}, {20490: "media"}, mounts, paths or {})
    return list(build_report(snapshot).findings)


def found(*containers: AuditedContainer, **more: Any) -> set[tuple[str, str]]:
    return {(each.rule.id, str(each.severity)) for each in findings(*containers, **more)}


def test_a_clean_engine_has_no_findings() -> None:
    clean = container(
        on_volume(),
        bind("/srv/app", "/srv", writable=False),
        AuditedMount("tmpfs", "/tmp"),  # noqa: S108
        bind("/srv/own", "/own"),
        layer=5000,
        changes=("/var/log/app.log", "/tmp/x.db"),  # noqa: S108
        user=ContainerProcessUser(0, frozenset({0}), ignores_permissions=True),
    )
    assert found(clean, volumes=(volume(),)) == set()


def test_a_database_in_a_layer_is_found_whatever_its_size() -> None:
    changed = ("/var", "/var/lib/mysql", "/var/lib/mysql/ibdata1")
    assert found(container(layer=600_000, changes=changed)) == {("database-in-layer", "high")}
    assert found(container(layer=600_000, changes=("/opt/x/app.sqlite3",))) == {("database-in-layer", "high")}
    on_a_volume = container(on_volume(path="/var/lib/mysql"), layer=600_000, changes=changed)
    assert found(on_a_volume, volumes=(volume(),)) == set()
    assert found(container(layer=600_000, changes=("/var/cache/man/index.db",))) == set()
    assert found(container(layer=600_000, changes=("/var/lib/dnf/history.sqlite",))) == set()


def test_much_data_in_a_layer_is_found() -> None:
    assert found(container(layer=5 << 20, changes=("/uploads/a", "/uploads/b"))) == {("data-in-layer", "medium")}
    assert found(container(layer=5 << 20, changes=None)) == {("data-in-layer", "medium")}
    assert found(container(layer=5 << 20, changes=("/tmp/a", "/var/log/b"))) == set()  # noqa: S108
    assert found(container(layer=5000, changes=("/uploads/a",))) == set()
    changed = {"/etc/hosts": 9 << 20, "/uploads/in": 0, "/uploads/in/big": 4 << 20, "/home/a": 9, "/home/b": 9}
    assert findings(container(layer=5 << 20, changes=changed))[0].path == "/uploads/in"
    (finding,) = findings(container(layer=5 << 20, changes={"/big": 4 << 20, "/opt/x": 9}))
    assert (finding.path, finding.fix.splitlines()[0]) == ("/", "docker diff app  # shows the files")
    (finding,) = findings(container(layer=5 << 20, changes={"/app/big": 4 << 20}))
    assert "\ndocker cp -a app:/app ./app-app\n" in finding.fix


@pytest.mark.parametrize(
    ("path", "in_image"),
    [("/usr/lib/python3/site/x", False), ("/usr/local/lib/x", False), ("/lib64/x", False), ("/srv/app", True)],
)
def test_a_directory_with_programs_is_not_moved(path: str, in_image: bool) -> None:
    changed = container(layer=5 << 20, changes={f"{path}/big": 4 << 20}, image_has_layer_directory=in_image)
    (finding,) = findings(changed)
    assert finding.path == path
    assert f"\ndocker cp -a app:{path} ./app-" in finding.fix
    assert "volume create" not in finding.fix


@pytest.mark.parametrize("path", ["/srv/data", "/usr/src/app/uploads", "/library"])
def test_a_directory_that_only_the_container_wrote_is_moved(path: str) -> None:
    (finding,) = findings(container(layer=5 << 20, changes={f"{path}/big": 4 << 20}))
    assert "docker volume create" in finding.fix


@pytest.mark.parametrize(
    ("name", "env", "moved"),
    [
        ("/opt/shop/shop.sqlite3", [], False),
        ("/app/app.sqlite3", ["PGDATA=/app/pg"], False),
        # The image has files in the directory of the database, but no programs.
        ("/var/lib/mysql/ibdata1", [], True),
        ("/pg/PG_VERSION", ["PGDATA=/pg"], True),
    ],
)
def test_a_database_beside_its_program_is_not_moved(name: str, env: list[str], moved: bool) -> None:
    audited = container(layer=9000, changes={name: 9000}, image_has_layer_directory=True, env=env)
    (finding,) = findings(audited)
    assert (finding.rule.id, "volume create" in finding.fix) == ("database-in-layer", moved)


@pytest.mark.parametrize(
    ("size", "path", "removed", "expected"),
    [
        (100, "/data", False, ("anonymous-volume", "medium")),
        (None, "/data", False, ("anonymous-volume", "medium")),
        (0, "/data", False, ("anonymous-volume", "low")),
        (100, "/var/lib/mysql", False, ("anonymous-volume", "high")),
        (100, "/data", True, ("removed-with-container", "high")),
        (0, "/data", True, ("removed-with-container", "low")),
    ],
)
def test_an_anonymous_volume_is_found(size: int | None, path: str, removed: bool, expected: tuple[str, str]) -> None:
    anonymous = volume(ANONYMOUS, anonymous=True, size=size)
    assert found(container(on_volume(ANONYMOUS, path), removed=removed), volumes=(anonymous,)) == {expected}
    assert found(container(on_volume("data", path), removed=removed), volumes=(volume(),)) == set()


def test_data_in_memory_is_found() -> None:
    assert found(container(AuditedMount("tmpfs", "/data"))) == {("data-in-memory", "medium")}
    assert found(container(AuditedMount("tmpfs", "/var/lib/mysql"))) == {("data-in-memory", "high")}
    assert found(container(AuditedMount("tmpfs", "/run/app"))) == set()
    in_memory = volume(options={"type": "tmpfs", "device": "tmpfs"})
    assert found(container(on_volume()), volumes=(in_memory,)) == {("data-in-memory", "medium")}
    assert found(container(bind("/dev/shm/x"))) == {("data-in-memory", "medium")}  # noqa: S108
    ramdisk = HostMount("/mnt/ram", "tmpfs", "tmpfs", {})
    assert found(container(bind("/mnt/ram/x")), mounts=(ROOT, ramdisk)) == {("data-in-memory", "medium")}
    assert found(container(bind("/run/app/app.sock", "/app.sock"))) == set()
    sockets = {"/run/app": directory("a.sock", "b.sock")}
    assert found(container(bind("/run/app", "/app")), paths=sockets) == set()
    assert found(container(shared_memory="SQLite")) == {("data-in-memory", "high")}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"type": "cifs", "o": "addr=192.0.2.11,vers=3.0", "device": "//192.0.2.11/db"}, True),
        ({"type": "fuse.sshfs", "device": "host:/x"}, True),
        (NFS, False),
        ({**NFS, "o": f"{NFS['o']},nolock"}, True),
        ({**NFS, "o": f"{NFS['o']},soft"}, True),
        ({}, False),
    ],
)
def test_a_database_on_a_mount_that_corrupts_it_is_found(options: dict[str, str], expected: bool) -> None:
    used = container(on_volume(path="/var/lib/mysql"))
    assert (("database-on-remote-mount", "high") in found(used, volumes=(volume(options=options),))) is expected


def test_sqlite_on_nfs_is_found_also_below_a_bind() -> None:
    app = container(on_volume(path="/app/data"), image="louislam/uptime-kuma:1")
    assert found(app, volumes=(volume(options=NFS),)) == {("database-on-remote-mount", "high")}
    mounted = HostMount("/mnt/nas", "nfs4", "nas:/x", {"vers": "4.2", "hard": ""})
    app = container(bind("/mnt/nas/kuma", "/app/data"), image="louislam/uptime-kuma:1")
    assert found(app, mounts=(ROOT, mounted)) == {("database-on-remote-mount", "high"), ("network-bind", "medium")}


def test_a_bind_of_a_network_mount_is_found() -> None:
    mounted = HostMount("/mnt/nas", "nfs4", "nas:/x", {"vers": "4.2", "hard": ""})
    assert found(container(bind("/mnt/nas/media")), mounts=(ROOT, mounted)) == {("network-bind", "medium")}
    assert found(container(bind("/mnt/nasty/media")), mounts=(ROOT, mounted)) == set()
    covered = (ROOT, mounted, HostMount("/mnt/nas/local", "xfs", "/dev/vdb", {}))
    assert found(container(bind("/mnt/nas/local/x")), mounts=covered) == set()
    by_volume = volume(options={"type": "none", "o": "bind", "device": "/mnt/nas/media"})
    places = build_report(
        AuditSnapshot((container(on_volume()),), {"data": by_volume}, host_mounts=(ROOT, mounted))
    ).places
    assert places[0].place == "/mnt/nas/media (nas:/x/media, nfs4)"


@pytest.mark.parametrize(
    ("point", "path"),
    [("/mnt/share", "/mnt/share"), ("/mnt/a b%c'd", "/mnt/a b%%c'd"), ('/mnt/"x\\', '/mnt/\\"x\\\\')],
)
def test_the_engine_starts_after_a_mount_of_the_host(point: str, path: str, tmp_path: Path) -> None:
    mounted = HostMount(point, "fuse.sshfs", "nas:/x", {})
    (finding,) = findings(container(bind(f"{point}/x")), mounts=(ROOT, mounted))
    line = finding.fix.splitlines()[0].replace("/etc/systemd/system", str(tmp_path))
    subprocess.run(["sh", "-c", line], check=True, timeout=10)
    written = (tmp_path / "docker.service.d" / "audit-mounts.conf").read_text()
    assert written == f'[Unit]\nRequiresMountsFor="{path}"\n'


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("soft", {("soft-mount", "high")}),
        ("softerr", {("soft-mount", "high")}),
        ("nolock", {("no-locks", "medium")}),
        ("local_lock=all", {("no-locks", "medium")}),
        ("local_lock=none", set()),
        ("udp", {("nfs-udp", "high")}),
        ("proto=udp", {("nfs-udp", "high")}),
        ("proto=tcp", set()),
    ],
)
def test_hazardous_nfs_options_are_found(more: str, expected: set[tuple[str, str]]) -> None:
    used = container(on_volume())
    assert found(used, volumes=(volume(options={**NFS, "o": f"{NFS['o']},{more}"}),)) == expected
    assert found(volumes=(volume(options={**NFS, "o": f"{NFS['o']},{more}"}),)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("addr=192.0.2.1", {("nfs-version", "medium")}),
        ("addr=192.0.2.1,vers=3", {("nfs-version", "medium")}),
        ("addr=192.0.2.1,v3", {("nfs-version", "medium")}),
        ("addr=192.0.2.1,nfsvers=4.0", {("nfs-version", "low")}),
        ("addr=192.0.2.1,nfsvers=4", {("nfs-version", "low")}),
        ("addr=192.0.2.1,v4", {("nfs-version", "low")}),
        ("addr=192.0.2.1,vers=4,minorversion=0", {("nfs-version", "low")}),
        ("addr=192.0.2.1,vers=4,minorversion=1", set()),
        ("addr=192.0.2.1,nfsvers=4.1", set()),
        ("addr=192.0.2.1,v4.2", set()),
    ],
)
def test_nfs_versions_that_hang_are_found(options: str, expected: set[tuple[str, str]]) -> None:
    assert found(container(on_volume()), volumes=(volume(options={**NFS, "o": options}),)) == expected


def test_mount_2_does_not_negotiate_the_minor_version_of_nfs_4() -> None:
    nfs4 = {**NFS, "type": "nfs4", "o": "addr=192.0.2.1"}
    assert found(container(on_volume()), volumes=(volume(options=nfs4),)) == {("nfs-version", "low")}
    mounted = HostMount("/mnt/nas", "nfs4", "nas:/x", {"hard": ""})
    assert found(container(bind("/mnt/nas/media")), mounts=(ROOT, mounted)) == {("network-bind", "medium")}


def test_hazardous_smb_options_are_found_without_the_password() -> None:
    options = {"type": "cifs", "o": "addr=192.0.2.11,username=app,password=hunter2,nobrl,vers=1.0",
               "device": "//192.0.2.11/db"}  # fmt: skip
    shown = findings(container(on_volume()), volumes=(volume(options=options),))
    assert {each.rule.id for each in shown} == {"smb-version", "no-locks", "password-in-options"}
    assert "hunter2" not in str(shown)
    safe = {**options, "o": "addr=192.0.2.11,vers=3.0"}
    assert found(container(on_volume()), volumes=(volume(options=safe),)) == set()


def test_the_options_of_a_host_s_smb_mount_are_changed_where_they_are_set() -> None:
    mounted = HostMount("/mnt/a b", "cifs", "//nas/x", {"vers": "1.0", "nobrl": ""})
    shown = findings(container(bind("/mnt/a b/x")), mounts=(ROOT, mounted))
    fixes = {each.rule.id: each.fix.splitlines() for each in shown}
    assert set(fixes) == {"smb-version", "no-locks", "network-bind"}
    assert fixes["smb-version"] == fixes["no-locks"]
    assert fixes["smb-version"][0] == (
        "# in the options of '/mnt/a b', for example in /etc/fstab: set vers=3 and remove nobrl"
    )
    assert fixes["smb-version"][1].endswith("run: umount '/mnt/a b' && mount '/mnt/a b'")
    assert all(each.startswith("# ") for each in fixes["smb-version"])
    assert "RequiresMountsFor" in fixes["network-bind"][0]


def test_a_volume_that_nothing_uses_is_found_with_size_and_last_use() -> None:
    left = volume(size=2048, last_use="last used by web, 2026-01-01 10:00")
    (finding,) = findings(volumes=(left,))
    assert (finding.rule, finding.severity, finding.subject) == (hazard_rules.UNUSED, Severity.LOW, "data")
    assert "2.0KiB, last used by web, 2026-01-01 10:00" in finding.what
    files = {left.mountpoint: directory("PG_VERSION")}
    assert found(volumes=(left,), paths=files) == {("unused-volume", "medium")}
    assert found(container(on_volume()), volumes=(left,)) == set()
    assert found(volumes=(volume(options=NFS),)) == set()


def test_several_writers_are_found() -> None:
    first, second = container(on_volume(), name="a"), container(on_volume(path="/other"), name="b")
    (finding,) = findings(first, second, volumes=(volume(),))
    assert (finding.rule, finding.severity, finding.subject) == (hazard_rules.WRITERS, Severity.MEDIUM, "b")
    assert "a, b write to data" in finding.what
    reader = container(on_volume(writable=False), name="b")
    assert found(first, reader, volumes=(volume(),)) == set()
    stopped = replace(second, running=False)
    assert found(first, stopped, volumes=(volume(),)) == {("several-writers", "low")}
    assert (
        findings(first, stopped, volumes=(volume(),))[0].fix
        == "# remove the stopped containers that are not needed: b"
    )
    files = {volume().mountpoint: directory("ibdata1")}
    assert found(first, second, volumes=(volume(),), paths=files) == {("several-writers", "high")}
    for source, is_found in (("/devops/db", True), ("/run/x", False)):
        writers = (container(bind(source, "/x"), name=name) for name in "ab")
        assert (("several-writers", "medium") in found(*writers)) is is_found


@pytest.mark.parametrize("labels", [
    {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"},
    {"com.docker.swarm.service.name": "shop_web"},
])  # fmt: skip
def test_containers_of_one_service_are_one_writer(labels: Mapping[str, str]) -> None:
    first, second = (
        replace(each, inspection={"Config": {"Labels": labels}}, image_config={})
        for each in (container(on_volume(), name="a"), container(on_volume(), name="b"))
    )
    assert found(first, second, volumes=(volume(),)) == set()
    other = container(on_volume(), name="c")
    assert found(first, second, other, volumes=(volume(),)) == {("several-writers", "medium")}
    files = {volume().mountpoint: directory("ibdata1")}
    (finding,) = findings(first, second, volumes=(volume(),), paths=files)
    assert (finding.rule, finding.severity, finding.fix[:2]) == (hazard_rules.WRITERS, Severity.HIGH, "# ")


def test_writers_are_found_across_volumes_of_one_export_and_binds_of_one_directory() -> None:
    both = container(on_volume("x"), name="a"), container(on_volume("y"), name="b")
    other = {**NFS, "device": ":/other"}
    tunnel = {**NFS, "o": "addr=127.0.0.1,port=20491,nfsvers=4.2", "device": ":/"}
    second = {**tunnel, "o": "addr=127.0.0.1,port=20492,nfsvers=4.2"}
    assert found(*both, volumes=(volume("x", options=tunnel), volume("y", options=second))) == set()
    assert found(*both, volumes=(volume("x", options=tunnel), volume("y", options=tunnel))) == {
        ("several-writers", "medium")
    }
    assert found(*both, volumes=(volume("x", options=NFS), volume("y", options=NFS))) == {
        ("several-writers", "medium")
    }
    assert found(*both, volumes=(volume("x", options=NFS), volume("y", options=other))) == set()
    bound = container(bind("/srv/x"), name="a"), container(bind("/srv/x", "/y"), name="b")
    assert found(*bound) == {("several-writers", "medium")}
    by_volume = volume("x", options={"type": "none", "o": "bind", "device": "/srv/x"})
    assert found(bound[0], container(on_volume("x"), name="b"), volumes=(by_volume,)) == {
        ("several-writers", "medium")
    }


@pytest.mark.parametrize(
    ("source", "path", "severity"),
    [
        ("/home/me/.ssh/id_rsa", "/key", "medium"),
        ("/srv/keys/deploy", "/root/.ssh/id_ed25519", "medium"),
        ("/home/me/.ssh", "/root/.ssh", "medium"),
        ("/srv/private_key", "/root/k", "medium"),
        ("/srv/tls/server.key", "/etc/tls/server.key", "low"),
        ("/srv/known_hosts", "/root/.ssh/known_hosts", None),
        ("/srv/tls/ca.pem", "/etc/tls/ca.pem", None),
        ("/srv/keyboard", "/data", None),
    ],
)
def test_a_private_key_is_found(source: str, path: str, severity: str | None) -> None:
    app = container(bind(source, path, writable=False))
    keys = {each for each in found(app, paths={source: directory()}) if each[0] == "private-key"}
    assert keys == ({("private-key", severity)} if severity else set())
    assert found(replace(app, is_own=True), paths={source: directory()}) == set()


def test_a_former_task_of_a_swarm_service_has_no_access() -> None:
    labels = {"com.docker.swarm.service.name": "shop_web"}
    app = container(bind("/srv/private_key", "/k", writable=False), image_config={})
    task = replace(app, inspection={"Config": {"Labels": labels}})
    assert ("private-key", "medium") in found(task, paths={"/srv/private_key": directory()})
    assert found(replace(task, running=False), paths={"/srv/private_key": directory()}) == set()


def test_the_variable_of_a_key_names_it() -> None:
    app = container(bind("/srv/k", "/k", writable=False), env=["SSH_KEY_PATH=/k"])
    assert found(app, paths={"/srv/k": directory()}) == {("private-key", "medium")}


@pytest.mark.parametrize(
    "source", ["/var/run/docker.sock", "/run/docker.sock", "/", "/var/run", "/run/podman/podman.sock"]
)
def test_the_socket_of_the_engine_is_found(source: str) -> None:
    app = container(bind(source, "/x", writable=False))
    assert found(app) == {("engine-socket", "high")}
    assert found(replace(app, is_own=True)) == set()


def test_the_folder_of_a_configured_socket_is_found() -> None:
    app = container(bind("/srv/engine", "/x", writable=False))
    shown = build_report(AuditSnapshot((app,), socket="/srv/engine/docker.sock")).findings
    assert [each.rule for each in shown] == [hazard_rules.ENGINE_SOCKET]
    assert build_report(AuditSnapshot((app,), socket="/srv/engine2/docker.sock")).findings == ()


@pytest.mark.parametrize(
    ("source", "severity"),
    [
        ("/usr", "high"), ("/usr/local/bin", "high"), ("/dev", "high"), ("/proc", "high"), ("/proc/sys", "high"),
        ("/sys", "high"), ("/sys/fs/cgroup", "high"), ("/var/lib/docker", "high"), ("/var/spool/cron", "high"),
        ("/root", "high"), ("/etc/app", "medium"), ("/usr/share/app", "medium"), ("/etc/localtime", None),
        ("/var/lib/docker/volumes/x/_data", None), ("/dev/net/tun", None), ("/srv/usr", None), ("/root/app", None),
    ],
)  # fmt: skip
def test_a_writable_directory_of_the_system_is_found(source: str, severity: str | None) -> None:
    expected = {("writable-host-directory", severity)} if severity else set()
    assert found(container(bind(source, "/x"))) == expected
    assert found(container(bind(source, "/x", writable=False))) == set()


@pytest.mark.parametrize("option", ["bind", "rbind,ro"])
@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("/var/run/", "engine-socket"),
        ("/etc", "writable-host-directory"),
        ("/srv/keys", "private-key"),
        ("/tmp/data", "data-in-memory"),  # noqa: S108
        ("/mnt/nas/media", "network-bind"),
    ],
)
def test_a_volume_of_a_host_directory_is_a_bind(option: str, source: str, rule: str) -> None:
    nas = HostMount("/mnt/nas", "nfs4", "nas:/x", {"vers": "4.2", "hard": ""})
    paths = {"/srv/keys": replace(directory("id_ed25519"), key=FoundPrivateKey("SSH key", "id_ed25519"))}
    more: dict[str, Any] = {"mounts": (ROOT, nas), "paths": paths}
    through = volume(options={"type": "none", "o": option, "device": source})
    by_volume = found(container(on_volume()), volumes=(through,), **more)
    assert by_volume == found(container(bind(source.rstrip("/"))), **more)
    assert rule in {each for each, _ in by_volume}


def test_a_key_inside_a_mounted_directory_is_found() -> None:
    app = container(bind("/root", "/backup", writable=False))
    home = replace(directory(".ssh", "notes"), key=FoundPrivateKey("SSH key", ".ssh/id_rsa", is_alone=False))
    (finding,) = findings(app, paths={"/root": home})
    assert (finding.rule, finding.severity) == (hazard_rules.PRIVATE_KEY, Severity.MEDIUM)
    assert finding.what == "SSH key /root/.ssh/id_rsa of the host, read-only"
    assert finding.fix == "# mount only the files that app needs, without /root/.ssh/id_rsa"
    only = replace(directory("deploy"), key=FoundPrivateKey("SSH key", "deploy"))
    (finding,) = findings(container(bind("/srv/keys", "/keys", writable=False)), paths={"/srv/keys": only})
    assert "docker create --name app-new example/app:1" in finding.fix
    file = HostPath("file", 0, 0, 0o600, key=FoundPrivateKey("SSH key"))
    assert ("private-key", "medium") in found(container(bind("/srv/b.pem", "/b.pem")), paths={"/srv/b.pem": file})


def test_hidden_files_of_the_image_are_found() -> None:
    app = container(bind("/srv/x", "/app", hides=("main.py", "static")), image_config={"Cmd": ["/app/main.py"]})
    (finding,) = findings(app)
    assert found(replace(app, image_config={})) == {("hides-image-files", "low")}
    assert (finding.rule, finding.severity) == (hazard_rules.HIDES, Severity.MEDIUM)
    assert "/srv/x hides main.py, static of example/app:1" in finding.what
    forged = container(bind("/srv/x", "/app", hides=("a\nFIX\nrm -rf ~\n",)))
    assert "rm -rf" not in findings(forged)[0].fix
    kept = replace(on_volume(), hides=("new",))
    assert found(container(kept), volumes=(volume(),)) == {("hides-image-files", "low")}


@pytest.mark.parametrize(
    "mount", [bind("/srv/x", "/app", writable=False, hides=("a",)), bind("/etc/ssl/certs", "/certs", hides=("a",))]
)
def test_files_of_an_image_are_not_copied_to_the_host_s_system(mount: AuditedMount) -> None:
    (fix,) = [each.fix for each in findings(container(mount)) if each.rule == hazard_rules.HIDES]
    assert fix.startswith(f"# mount {mount.source} at a path other than {mount.path}")


def test_a_single_file_is_found() -> None:
    file = HostPath("file", 0, 0, 0o644)
    app = container(bind("/srv/app.conf", "/etc/app.conf"))
    assert found(app, paths={"/srv/app.conf": file}) == {("single-file", "low")}
    assert found(app) == {("single-file", "low")}
    assert found(app, paths={"/srv/app.conf": directory()}) == set()
    stale = container(bind("/srv/app.conf", "/etc/app.conf", is_stale=True))
    assert found(stale, paths={"/srv/app.conf": file}) == {("single-file", "medium")}
    assert found(container(bind("/etc/localtime", "/etc/localtime", writable=False))) == set()


def test_a_user_that_cannot_write_is_found() -> None:
    app = container(bind("/srv/x"), user=ContainerProcessUser(1000, frozenset({1000})))
    assert found(app, paths={"/srv/x": directory()}) == {("not-writable", "medium")}
    assert findings(app, paths={"/srv/x": directory()})[0].fix == "chown -h 1000:1000 /srv/x"
    forged = container(bind("/srv/x\nrm"), user=ContainerProcessUser(1000, frozenset({1000})))
    assert findings(forged, paths={"/srv/x\nrm": directory()})[0].fix.startswith("# the name of the directory")
    assert findings(app, paths={"/srv/x": directory(uid=1000, mode=0o555)})[0].fix == "chmod u+wx /srv/x"
    for path in ("/home/alice", "/var/log", "/srv", "/opt", "/root/x", "/mnt"):
        shared = container(bind(path), user=ContainerProcessUser(1000, frozenset({1000})))
        (finding,) = [
            each for each in findings(shared, paths={path: directory()}) if each.rule == hazard_rules.NOT_WRITABLE
        ]
        assert finding.fix == f"# mount a directory below {path} that belongs only to app"
    assert found(app, paths={"/srv/x": directory(uid=1000)}) == set()
    assert found(app, paths={"/srv/x": directory(mode=0o777)}) == set()
    assert found(app, paths={"/srv/x": directory(has_acl=True)}) == set()
    assert found(replace(app, user=None), paths={"/srv/x": directory()}) == set()
    point = "/var/lib/docker/volumes/data/_data"
    in_volume = container(on_volume(), user=ContainerProcessUser(1000, frozenset({1000})))
    empty, used = {point: directory()}, {point: directory("x")}
    assert found(in_volume, volumes=(volume(),), paths=empty) == {("not-writable", "medium")}
    assert found(in_volume, volumes=(volume(),), paths=used) == set()
    beside = container(on_volume(), name="writer")
    shown = findings(in_volume, beside, volumes=(volume(),), paths=empty)
    fixes = [each.fix for each in shown if each.rule == hazard_rules.NOT_WRITABLE]
    assert [each.partition(",")[0] for each in fixes] == ["# if app must write there"]
    foreign = findings(app, paths={"/srv/x": directory("a", uid=1001)})
    assert foreign[0].fix.startswith("# if app must write there")
    changed = replace(app, user=ContainerProcessUser(999, frozenset({999}), is_configured=False))
    assert found(changed, paths={"/srv/x": directory("a")}) == set()
    assert found(changed, paths={"/srv/x": directory()}) == {("not-writable", "medium")}
    reader = container(bind("/srv/x", writable=False), user=ContainerProcessUser(1000, frozenset({1000})))
    assert found(reader, paths={"/srv/x": directory()}) == set()


@pytest.mark.parametrize("source", ["/etc", "/etc/app", "/usr/share", "/sys", "/run", "/"])
def test_no_command_changes_the_owner_of_a_system_directory(source: str) -> None:
    app = container(bind(source), user=ContainerProcessUser(1000, frozenset({1000})))
    assert not [each.fix for each in findings(app, paths={source: directory()}) if "chown" in each.fix]


def test_permission_bits_are_read_as_the_kernel_does() -> None:
    user = ContainerProcessUser(1000, frozenset({50}))
    assert may_write(user, 1000, 0, 0o300)
    assert not may_write(user, 1000, 50, 0o077)  # The owner's mode bits apply, although the group's bits permit more.
    assert may_write(user, 0, 50, 0o030)
    assert not may_write(user, 0, 50, 0o020)  # To create a file, a process needs the x permission on the directory.
    assert may_write(user, 0, 0, 0o003)
    assert may_write(ContainerProcessUser(0, frozenset(), ignores_permissions=True), 1000, 1000, 0)
    assert not may_write(ContainerProcessUser(0, frozenset()), 1000, 1000, 0o755)


@pytest.mark.parametrize(
    ("options", "kind", "place", "lost_by"),
    [
        ({"type": "tmpfs", "device": "tmpfs"}, "volume", "data (memory)", "the stop of the last container"),
        ({"type": "none", "o": "bind", "device": "/srv/x"}, "bind", "/srv/x", "rm on the host"),
        ({"type": "cifs", "o": "addr=192.0.2.11", "device": "//192.0.2.11/db"}, "network volume",
         "//192.0.2.11/db", ""),
        ({"type": "nfs4", "o": "addr=10.0.0.9", "device": ":/x"}, "network volume", "10.0.0.9:/x",
         "a failure of the server's disk"),
        ({"type": "nfs", "o": "addr=10.0.0.9", "device": "nas:/x"}, "network volume", "10.0.0.9:/x", ""),
        ({"type": "nfs", "o": "addr=127.0.0.1,port=20490", "device": "127.0.0.1:/m"}, "network volume",
         "media of this gateway, 127.0.0.1:/m", ""),
        ({"type": "nfs", "o": "addr=127.0.0.1,port=20491", "device": ":/m"}, "network volume",
         "127.0.0.1:/m, port 20491", ""),
        ({}, "volume", "data", "docker volume rm, compose down -v, a failure of the host's disk"),
    ],
)  # fmt: skip
def test_a_place_shows_where_the_data_is_stored_and_what_loses_it(
    options: dict[str, str], kind: str, place: str, lost_by: str
) -> None:
    snapshot = AuditSnapshot((container(on_volume()),), {"data": volume(options=options)}, {20490: "media"}, (ROOT,))
    (only,) = build_report(snapshot).places
    assert (only.kind, only.place, only.mode) == (kind, place, "rw")
    assert lost_by in only.lost_by


def test_places_show_the_mode_and_the_layer() -> None:
    app = container(on_volume(writable=False), AuditedMount("tmpfs", "/t"), layer=2048, removed=True)
    cloud = AuditedVolume("data", "rexray")
    shown = [
        (each.path, each.mode, each.kind, each.place)
        for each in build_report(AuditSnapshot((app,), {"data": cloud}, {}, None)).places
    ]
    assert shown == [
        ("/", "rw", "layer", "writable layer, 2.0KiB"),
        ("/data", "ro", "volume", "data (rexray)"),
        ("/t", "rw", "tmpfs", "memory"),
    ]


def test_databases_are_recognized_by_their_files_and_directories() -> None:
    assert in_files(["base/1/PG_VERSION", "PG_VERSION"]) == ("PostgreSQL", "")
    assert in_files(["/srv/db/pg/base/1/PG_VERSION", "/srv/db/pg/PG_VERSION"]) == ("PostgreSQL", "/srv/db/pg")
    assert in_files(["notes.txt", "x.dbx"]) == ("", "")
    assert at("/var/lib/postgresql/data", "any", "") == "PostgreSQL"
    assert at("/srv/data", "any", "/srv/data/pg") == "PostgreSQL"
    assert at("/data", "docker.io/library/redis:7@sha256:0", "") == "Redis"
    assert at("/data", "any", "") == ""


def test_names_of_files_add_no_lines_and_no_commands() -> None:
    evil = "/opt/x'\nFIX\nrm -rf ~\n"
    (finding,) = findings(container(layer=5000, changes=(f"{evil}/ibdata1",)))
    assert "\n" not in finding.what + finding.path
    assert "rm -rf" not in finding.fix


def test_every_rule_has_a_section_in_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "audit.md").read_text()
    assert [each.id for each in hazard_rules.RULES if f"### {each.id}\n" not in page] == []
    assert len({each.id for each in hazard_rules.RULES}) == len(hazard_rules.RULES)


def test_sarif_has_a_level_a_rule_and_a_place_for_each_finding() -> None:
    snapshot = AuditSnapshot((container(AuditedMount("tmpfs", "/data"), name="a b"),), unchecked=("the files",))
    run = sarif(build_report(snapshot), "1.0")["runs"][0]
    (result,) = run["results"]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "data-in-memory"
    assert result["level"] == "warning"
    place = result["locations"][0]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "containers/a%20b"
    assert place["logicalLocations"] == [{"fullyQualifiedName": "a b:/data", "kind": "resource"}]
    assert run["invocations"][0]["toolExecutionNotifications"][0]["message"] == {"text": "the files"}


def test_severities_have_an_order() -> None:
    assert Severity.HIGH.reaches(Severity.MEDIUM)
    assert Severity.LOW.reaches(Severity.LOW)
    assert not Severity.LOW.reaches(Severity.MEDIUM)


def test_a_password_in_the_options_of_a_volume_driver_is_found() -> None:
    sshfs = AuditedVolume("files", "vieux/sshfs", {"sshcmd": "me@nas:/x", "password": "hunter2"})
    ceph = AuditedVolume("blocks", options={"type": "ceph", "device": "mon:/", "o": "name=app,secret=hunter2"})
    by_file = AuditedVolume("more", "example/driver", {"passwordfile": "/x", "secret": "/run/secret", "token": ""})
    harmless = AuditedVolume("rclone", "rclone", {"sftp_ask_password": "false", "secret_name": "team", "bypass": "x"})
    url = AuditedVolume("url", "example/driver", {"sshcmd": "https://me:hunter2@nas/x"})
    encoded = AuditedVolume("base64", options={"type": "ceph", "device": "mon:/", "o": "secret=/9hunter2=="})
    shown = findings(volumes=(sshfs, ceph, by_file, harmless, url, encoded))
    passwords = [each for each in shown if each.rule == hazard_rules.PASSWORD]
    assert [(each.subject, each.what) for each in passwords] == [
        ("base64", "secret of base64 (local)"), ("blocks", "secret of blocks (local)"),
        ("files", "password of files (vieux/sshfs)"), ("url", "sshcmd of url (example/driver)"),
    ]  # fmt: skip
    assert "hunter2" not in str(shown)


def test_a_directory_of_an_engine_with_another_data_root_belongs_to_the_host() -> None:
    def audited(source: str) -> set[str]:
        snapshot = AuditSnapshot(
            (container(bind(source)),), host_mounts=(ROOT,), volume_directory="/mnt/docker/volumes"
        )
        return {each.rule.id for each in build_report(snapshot).findings}

    for source in ("/mnt/docker", "/mnt/docker/overlay2", "/mnt/docker/volumes"):
        assert audited(source) == {"writable-host-directory"}
    for source in ("/mnt", "/mnt/docker2", "/mnt/docker/media", "/mnt/docker/volumes/data/_data"):
        assert audited(source) == set()
