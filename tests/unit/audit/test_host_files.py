"""Tests of the mount table, and of reading files of the host that containers can change."""

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.host_files import HostFiles, parse_mounts, stale_files
from gateway.audit.image_files import changes, image_names, user_of
from gateway.audit.model import ContainerUser, HostMount
from gateway.audit.volume_last_use import collect

TABLE = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
120 22 0:55 / /mnt/my\040nas rw,relatime shared:60 - nfs4 nas.example:/export/media rw,vers=4.2,soft,addr=192.0.2.1
121 22 0:56 / /mnt/sftp rw,nosuid,nodev - fuse.sshfs me@host:/x rw,user_id=0,group_id=0
broken line
"""
STALE = """900 899 254:0 /srv/app.conf//deleted /etc/app\\040x.conf rw,relatime - ext4 /dev/vda1 rw
901 899 254:0 /srv/other.conf /etc/other.conf rw,relatime - ext4 /dev/vda1 rw
"""


def host(*mounts: HostMount) -> HostFiles:
    return HostFiles((HostMount("/", "ext4", "/dev/vda1", {}), *mounts), time.monotonic() + 10)


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
    assert host().database_below(str(tmp_path)) == ""


def test_reading_ends_at_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    late = HostFiles((HostMount("/", "ext4", "/dev/vda1", {}),), time.monotonic() - 1)
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
    assert changes(host(), upper) == {"/app": 0, "/app/new": 0}
    assert changes(host(), str(tmp_path / "absent")) is None


@pytest.mark.parametrize(
    ("given", "more", "expected"),
    [
        ("", (), ContainerUser(0, frozenset({0}))),
        ("app", (), ContainerUser(1000, frozenset({1000, 50}))),
        ("1000", ("wheel", 7), ContainerUser(1000, frozenset({1000, 50, 10, 7}))),
        ("app:wheel", (), ContainerUser(1000, frozenset({10}))),
        ("4711", (), ContainerUser(4711, frozenset({0}))),
        ("unknown", (), None),
        ("bad", (), None),
        ("long", (), None),
        ("9" * 5000, (), None),
        ("app", ("9" * 5000,), ContainerUser(1000, frozenset({1000, 50}))),
    ],
)
def test_users_and_groups_are_those_of_the_image(
    tmp_path: Path, given: str, more: tuple[object, ...], expected: ContainerUser | None
) -> None:
    passwd = "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:\nbad:x:many:0::/:\n" + f"long:x:{'9' * 5000}:0::/:\n"
    image = layer(tmp_path, etc__passwd=passwd, etc__group="wheel:x:10:\nstaff:x:50:other,app\n")
    assert user_of(host(), [image], given, more) == expected


def test_a_pipe_does_not_block_the_audit(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc" / "passwd")
    assert user_of(host(), [str(tmp_path)], "app", ()) is None


def test_a_layer_that_is_not_read_in_time_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    late = HostFiles((HostMount("/", "ext4", "/dev/vda1", {}),), time.monotonic() - 1)
    assert changes(late, layer(tmp_path, app__new="")) is None


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
