"""Tests how the audit parses mount tables, and how it reads files of the host that containers can change."""

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import directory_contents, image_layer_files
from gateway.audit.engine_host_files import EngineHostFiles, parse_mounts, stale_files
from gateway.audit.host_filesystem_model import HostMount
from gateway.audit.image_layer_files import changes, image_names, user_of
from gateway.audit.process_permissions import ignores_permissions, user_of_process
from gateway.audit.snapshot_model import ContainerProcessUser
from gateway.audit.volume_last_use import collect

TABLE = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
120 22 0:55 / /mnt/my\040nas rw,relatime shared:60 - nfs4 nas.example:/export/media rw,vers=4.2,soft,addr=192.0.2.1
121 22 0:56 / /mnt/sftp rw,nosuid,nodev - fuse.sshfs me@host:/x rw,user_id=0,group_id=0
broken line
"""
STALE = """900 899 254:0 /srv/app.conf//deleted /etc/app\\040x.conf rw,relatime - ext4 /dev/vda1 rw
901 899 254:0 /srv/other.conf /etc/other.conf rw,relatime - ext4 /dev/vda1 rw
"""


def host(*mounts: HostMount) -> EngineHostFiles:
    every = (HostMount("/", "ext4", "/dev/vda1", {}), *mounts)
    return EngineHostFiles({each.point: each for each in every}, time.monotonic() + 10)


def test_the_mount_table_is_parsed() -> None:
    root, nas, sftp = parse_mounts(TABLE)
    assert (root.point, root.file_system, root.options["errors"]) == ("/", "ext4", "remount-ro")
    assert (nas.point, nas.source, nas.options["vers"]) == ("/mnt/my nas", "nas.example:/export/media", "4.2")
    assert "soft" in nas.options
    assert (sftp.file_system, sftp.source) == ("fuse.sshfs", "me@host:/x")


def test_this_machine_has_a_mount_table_with_a_root() -> None:
    assert any(each.point == "/" for each in parse_mounts(Path("/proc/self/mountinfo").read_text()))


def test_replaced_files_are_found() -> None:
    assert stale_files(STALE) == {"/etc/app x.conf"}


def test_links_are_followed_on_local_file_systems_only(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "remote").symlink_to("/mnt/nas/x")
    here = host(HostMount("/mnt/nas", "nfs4", "nas:/x", {}))
    assert here.resolve(f"{tmp_path}/link/../link/a") == f"{tmp_path}/real/a"
    assert here.resolve(f"{tmp_path}/loop") == f"{tmp_path}/loop"
    assert here.resolve(f"{tmp_path}/remote/y") == "/mnt/nas/x/y"


def test_a_directory_on_a_server_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nas").mkdir()
    (tmp_path / "nas" / "file").touch()
    here = host(HostMount(str(tmp_path / "nas"), "nfs4", "nas:/x", {}))
    opened: list[object] = []
    real = os.scandir

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert here.inspect(str(tmp_path / "nas")) is None
    assert here.inspect(str(tmp_path / "nas" / "file")) is None
    found = here.inspect(str(tmp_path))
    assert found is not None
    assert found.entries == frozenset({"nas"})
    assert opened == [str(tmp_path)]


def test_only_files_of_sqlite_count_as_databases(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "real.db").execute("CREATE TABLE x (y)").connection.close()
    (tmp_path / "thumbs.db").write_bytes(b"other")
    os.mkfifo(tmp_path / "pipe.db")
    found = host().inspect(str(tmp_path))
    assert found is not None
    assert (found.entries, found.database) == (frozenset({"real.db", "thumbs.db", "pipe.db"}), "SQLite")
    (tmp_path / "real.db").unlink()
    assert host().database_below(str(tmp_path), "x") == ""


def test_directories_with_too_many_files_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_contents, "_MOST_NAMES", 3)
    monkeypatch.setattr(image_layer_files, "_MOST_CHANGES", 3)
    (tmp_path / "a" / "b").mkdir(parents=True)
    few = host()
    few.inspect(str(tmp_path))
    assert changes(few, str(tmp_path), "the layer") == {"/a": 0, "/a/b": 0}
    assert few.truncated == []
    for name in ("1", "2", "3"):
        (tmp_path / name).touch()
    many = host()
    many.inspect(str(tmp_path))
    many.database_below(str(tmp_path), "shared memory")
    changes(many, str(tmp_path), "the layer")
    assert many.truncated == [str(tmp_path), "shared memory", "the layer"]
    (tmp_path / "x.sqlite").touch()
    found = host()
    found.inspect(str(tmp_path))
    assert found.truncated == []


OPENSSH, PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "A" * 70, "-----BEGIN RSA PRIVATE KEY-----\n" + "A" * 70


@pytest.mark.parametrize(
    ("name", "mode", "text", "expected"),
    [
        ("bastion.pem", 0o644, PEM, "SSH key"),
        ("bastion.pem", 0o644, "-----BEGIN CERTIFICATE-----\n" + "A" * 70, None),
        ("chain.pem", 0o600, "-----BEGIN CERTIFICATE-----\n" + "A" * 70 + f"\n{PEM}", "SSH key"),
        ("server.key", 0o644, PEM, "TLS key"),
        ("server.key", 0o644, "no key" * 20, None),
        ("deploy", 0o600, OPENSSH, "SSH key"),
        ("deploy", 0o644, OPENSSH, None),
        ("id_ed25519", 0o644, OPENSSH, "SSH key"),
        ("notes.txt", 0o600, OPENSSH, None),
        ("16384", 0o600, OPENSSH, None),
    ],
)
def test_keys_are_found_by_content(tmp_path: Path, name: str, mode: int, text: str, expected: str | None) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / name).write_text(text)
    (folder / name).chmod(mode)
    by_file, by_folder, above = (host().inspect(str(each)) for each in (folder / name, folder, tmp_path))
    assert by_file is not None
    assert by_folder is not None
    assert above is not None
    assert [each.key and each.key.kind for each in (by_file, by_folder, above)] == [expected] * 3
    if above.key is not None:
        assert (above.key.path, above.key.is_alone) == (f"keys/{name}", True)
        (tmp_path / "other").touch()
        assert (found := host().inspect(str(tmp_path))) is not None
        assert found.key is not None
        assert not found.key.is_alone
        (tmp_path / "ibdata1").touch()
        assert (database := host().inspect(str(tmp_path))) is not None
        assert database.key is None


def test_too_many_files_that_can_be_keys_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_contents, "_MOST_OPENED", 1)
    for name in ("a.pem", "b.pem"):
        (tmp_path / name).write_text("x" * 60)
    many = host()
    many.inspect(str(tmp_path))
    assert many.truncated == [str(tmp_path)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"CapDrop": ["ALL"]}, False),
        ({"CapDrop": ["CAP_DAC_OVERRIDE"]}, False),
        ({"CapDrop": ["all"], "CapAdd": ["dac_override"]}, True),
        ({"CapDrop": ["ALL"], "CapAdd": ["CHOWN"]}, False),
        ({"CapDrop": ["ALL"], "Privileged": True}, True),
    ],
)
def test_root_ignores_permissions_only_with_the_capability(given: dict[str, Any], expected: bool) -> None:
    assert ignores_permissions(given) is expected


def test_reading_ends_at_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    late = EngineHostFiles({"/": HostMount("/", "ext4", "/dev/vda1", {})}, time.monotonic() - 1)
    found = late.inspect(str(tmp_path))
    assert found is not None
    assert (found.entries, late.is_late) == (None, True)


def layer(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


def test_the_files_of_an_image_are_those_of_all_layers(tmp_path: Path) -> None:
    upper, lower = layer(tmp_path / "upper", app__new=""), layer(tmp_path / "lower", app__old="", other="")
    assert image_names(host(), [upper, lower], "/app") == {"new", "old"}
    assert image_names(host(), [upper, lower], "/none") == set()
    assert image_names(host(), [str(tmp_path / "absent")], "/app") is None


def test_links_in_an_image_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    layer(secret, key="")
    image = Path(layer(tmp_path / "image", other=""))
    (image / "app").symlink_to(secret)
    assert image_names(host(), [str(image)], "/app") == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to create a whiteout")
def test_a_removed_file_of_an_image_is_not_one_of_its_files(tmp_path: Path) -> None:
    upper, lower = layer(tmp_path / "upper", app__new=""), layer(tmp_path / "lower", app__old="")
    os.mknod(tmp_path / "upper" / "app" / "old", 0o020000, os.makedev(0, 0))
    assert image_names(host(), [upper, lower], "/app") == {"new"}
    assert changes(host(), upper, "x") == {"/app": 0, "/app/new": 0}
    assert changes(host(), str(tmp_path / "absent"), "x") is None


@pytest.mark.parametrize(
    ("given", "more", "expected"),
    [
        ("", (), ContainerProcessUser(0, frozenset({0}))),
        ("app", (), ContainerProcessUser(1000, frozenset({1000, 50}))),
        ("1000", ("wheel", 7), ContainerProcessUser(1000, frozenset({1000, 50, 10, 7}))),
        ("app:wheel", (), ContainerProcessUser(1000, frozenset({10}))),
        ("4711", (), ContainerProcessUser(4711, frozenset({0}))),
        ("unknown", (), None),
        ("bad", (), None),
        ("long", (), None),
        ("9" * 5000, (), None),
        ("app", ("9" * 5000,), ContainerProcessUser(1000, frozenset({1000, 50}))),
    ],
)
def test_users_and_groups_are_those_of_the_image(
    tmp_path: Path, given: str, more: tuple[object, ...], expected: ContainerProcessUser | None
) -> None:
    passwd = "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:\nbad:x:many:0::/:\n" + f"long:x:{'9' * 5000}:0::/:\n"
    image = layer(tmp_path, etc__passwd=passwd, etc__group="wheel:x:10:\nstaff:x:50:other,app\n")
    assert user_of(host(), [image], given, more) == expected


def test_the_user_of_a_process_is_its_file_system_user() -> None:
    status = """Name:\tmariadbd
Uid:\t0\t999\t0\t998
Gid:\t0\t0\t0\t997
Groups:\t10 20
CapEff:\t0000000000000001
"""
    assert user_of_process(status) == ContainerProcessUser(998, frozenset({997, 10, 20}))
    everything = user_of_process(status.replace("0001", "0003"))
    assert everything == ContainerProcessUser(998, frozenset({997, 10, 20}), ignores_permissions=True)
    assert user_of_process("Name:\tx\n") is None
    own = user_of_process(Path("/proc/self/status").read_text())
    assert own is not None
    assert own.uid == os.geteuid()


def test_a_pipe_does_not_block_the_audit(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc" / "passwd")
    assert user_of(host(), [str(tmp_path)], "app", ()) is None


def test_a_layer_that_is_not_read_in_time_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    late = EngineHostFiles({"/": HostMount("/", "ext4", "/dev/vda1", {})}, time.monotonic() - 1)
    assert changes(late, layer(tmp_path, app__new=""), "x") is None


async def test_the_last_use_of_a_volume_is_that_of_the_last_event() -> None:
    async def events() -> AsyncIterator[dict[str, Any]]:
        yield {
            "Type": "volume",
            "Action": "mount",
            "time": 1,
            "Actor": {"ID": "v", "Attributes": {"container": "c1"}},
        }
        yield {
            "Type": "volume",
            "Action": "unmount",
            "time": 90000,
            "Actor": {"ID": "v", "Attributes": {"container": "c2"}},
        }
        yield {"Type": "container", "Action": "destroy", "Actor": {"ID": "c2", "Attributes": {"name": "web"}}}
        yield {"Type": "volume", "Action": "create", "time": 99999, "Actor": {"ID": "v", "Attributes": {}}}

    found = await collect(events(), {})
    assert found["v"].startswith("last used by web, 1970-01-0")
