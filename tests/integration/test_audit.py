"""Tests on a real engine that `gateway audit` reports each hazard, and prints commands that remove the hazard."""

import ctypes
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.app import one_shot_commands
from gateway.config import ConfigSources, load
from gateway.demo import mariadb
from gateway.demo.server_process import find
from gateway.docker.options import DockerOptions
from tests.support.engines import Engine, running_engine
from tests.support.gateway_process import command, complete_audit
from tests.support.requirements import need
from tests.support.servers import Samba

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

DATABASE = "mkdir -p /var/lib/mysql && echo content > /var/lib/mysql/ibdata1"

OWNERS = "cd {0} && chown 999:42 . * && chmod 0700 . && chmod 0640 *"
"""A command that changes the owner and the modes of a directory and its files. No container runs as this owner."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("engine"), on_device=True) as made:
        root = made.folder / "busybox"
        for applet in ("mkdir", "cp", "ls", "true", "chown", "chmod", "stat"):
            (root / "bin" / applet).symlink_to("busybox")
        (root / "app").mkdir()
        (root / "app" / "main.py").write_text("the program\n")
        os.chown(root / "app" / "main.py", 999, 42)
        (root / "app" / "static").mkdir()
        (root / "app" / "static" / "page").write_text("a page\n")
        (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\napp:x:1500:1500::/:/bin/sh\n")
        made.import_root(root, "busybox")
        made.docker("create", "--name", "base", "busybox", "true")
        made.docker("commit", "--change", "USER app", "base", "app")
        made.docker("rm", "base")
        yield made


@pytest.fixture(autouse=True)
def clean(engine: Engine) -> Iterator[None]:
    yield
    engine.remove_all()
    if volumes := engine.docker("volume", "ls", "-q").stdout.split():
        engine.docker("volume", "rm", "-f", *volumes)


@pytest.fixture
def host(engine: Engine) -> Path:
    """A directory of the host for bind mounts. It is not in /tmp, because /tmp is empty after a reboot."""
    folder = Path("/var/lib") / f"gateway-audit-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def host_removed(host: Path) -> Iterator[None]:
    yield
    subprocess.run(["rm", "-rf", str(host)], check=True, timeout=10)


def audit(engine: Engine, *options: str) -> Any:
    done = complete_audit(*options, "-o", "json", environment={"DOCKER_HOST": engine.url})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def found(engine: Engine, *options: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Run the audit; return its findings by rule and subject."""
    return {(each["rule"], each["subject"]): each for each in audit(engine, *options)["findings"]}


def run_fix(engine: Engine, fix: str, folder: Path, *wrapper: str) -> subprocess.CompletedProcess[str]:
    """Run the commands of a fix in a shell.

    A fix contains some commands as comments, so that a user checks them first. Run these commands, too.

    Args:
        engine: The engine.
        fix: The fix.
        folder: The shell's current directory.
        wrapper: A command that runs the shell.
    """
    wanted = "\n".join(line.partition(": ")[2] if line.startswith("# when ") else line for line in fix.splitlines())
    return subprocess.run(
        [*wrapper, "bash", "-e"], input=wanted, cwd=folder, env={**os.environ, "DOCKER_HOST": engine.url}, text=True,
        capture_output=True, timeout=100, check=False,
    )  # fmt: skip


def paste(engine: Engine, fix: str, folder: Path, *wrapper: str) -> None:
    done = run_fix(engine, fix, folder, *wrapper)
    assert done.returncode == 0, f"{fix}\n{done.stdout}{done.stderr}"


def write_data(engine: Engine, container: str) -> None:
    engine.docker("exec", "-u0", container, "sh", "-c", f"echo content > /data/file; {OWNERS.format('/data')}")


def owners(engine: Engine, container: str, path: str) -> str:
    """Return the owners and the modes of a file and of its directory."""
    paths = (path, os.path.dirname(path))  # noqa: PTH120
    return engine.docker("exec", "-u0", container, "stat", "-c", "%u:%g %a", *paths).stdout


def layer_database(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run(
        "db", "-e", "PASSWORD=hunter2", "-p", "127.0.0.1:8011:80", "--restart", "unless-stopped", "-u", "1500:1500"
    )
    engine.docker("exec", "-u0", "db", "sh", "-c", f"{DATABASE}; {OWNERS.format('/var/lib/mysql')}")
    return "database-in-layer", "db"


def layer_data(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("uploads", command=("sh", "-c", "mkdir -p /uploads/in; seq 300000 > /uploads/in/file; sleep 9999"))
    wait(lambda: "1988895" in engine.docker("exec", "uploads", "ls", "-l", "/uploads/in").stdout)
    return "data-in-layer", "uploads"


def anonymous_volume(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("anonymous", "-v", "/data", "--read-only", image="app")
    engine.run("exporter", "-v", "/:/host:ro")
    write_data(engine, "anonymous")
    return "anonymous-volume", "anonymous"


def removed(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("removed", "--rm", "-v", "/data")
    write_data(engine, "removed")
    return "removed-with-container", "removed"


def memory(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("memory", "--tmpfs", "/data")
    write_data(engine, "memory")
    return "data-in-memory", "memory"


def memory_volume(engine: Engine, host: Path) -> tuple[str, str]:
    engine.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "inmemory")
    engine.run("ramdisk", "-v", "inmemory:/data")
    write_data(engine, "ramdisk")
    return "data-in-memory", "ramdisk"


def shared_memory(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("shm")
    engine.docker("exec", "shm", "sh", "-c", "echo content > /dev/shm/app.sqlite")
    return "data-in-memory", "shm"


def unused_volume(engine: Engine) -> None:
    engine.run_until_exit("--init=false", "-v", "left:/data", "busybox", "sh", "-c", "echo content > /data/x")


def unused(engine: Engine, host: Path) -> tuple[str, str]:
    unused_volume(engine)
    engine.run("other")  # the fix runs this container's image to save the volume
    return "unused-volume", "left"


def writers(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("first", "-v", "shared:/data")
    engine.run("second", "-v", "shared:/data")
    return "several-writers", "second"


def key(engine: Engine, host: Path) -> tuple[str, str]:
    (host / "id_ed25519").write_text("a key\n")
    engine.run("keyed", "-v", f"{host}/id_ed25519:/root/.ssh/id_ed25519:ro")
    return "private-key", "keyed"


def socket(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("root", "-v", f"{engine.socket}:/var/run/docker.sock:ro")
    return "engine-socket", "root"


def writable(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("etc", "-v", "/etc:/host/etc")
    return "writable-host-directory", "etc"


def hides(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("hidden", "-v", f"{host}:/app", image="app")
    return "hides-image-files", "hidden"


def replaced_file(engine: Engine, host: Path) -> tuple[str, str]:
    (host / "app.conf").write_text("old\n")
    engine.run("configured", "-v", f"{host}/app.conf:/app.conf:ro")
    (host / "new").write_text("new\n")
    (host / "new").rename(host / "app.conf")
    return "single-file", "configured"


def permission(engine: Engine, host: Path) -> tuple[str, str]:
    engine.run("user", "-u", "1000:1000", "-v", f"{host}:/data")
    return "not-writable", "user"


def soft(engine: Engine, host: Path) -> tuple[str, str]:
    options = ("-o", "type=nfs", "-o", "o=addr=192.0.2.1,soft,nolock,proto=udp", "-o", "device=:/x")
    engine.docker("volume", "create", *options, "nfs-volume")
    return "soft-mount", "nfs-volume"


def in_use(engine: Engine, host: Path) -> tuple[str, str]:
    soft(engine, host)
    engine.docker("create", "--name", "media", "-v", "nfs-volume:/mnt/shared", "busybox", "sleep", "9999")
    return "nfs-version", "media"


def password(engine: Engine, host: Path) -> tuple[str, str]:
    options = ("-o", "type=cifs", "-o", "o=addr=192.0.2.11,password=hunter2", "-o", "device=//192.0.2.11/db")
    engine.docker("volume", "create", *options, "share")
    return "password-in-options", "share"


HAZARDS: Mapping[str, Callable[[Engine, Path], tuple[str, str]]] = {
    each.__name__: each
    for each in (
        layer_database, layer_data, anonymous_volume, removed, memory, memory_volume, shared_memory, unused, writers,
        key, socket, writable, hides, replaced_file, permission, soft, in_use, password,
    )
}  # fmt: skip
KEPT = {"layer_database": "/var/lib/mysql/ibdata1", "anonymous_volume": "/data/file", "removed": "/data/file",
        "memory": "/data/file", "memory_volume": "/data/file"}  # fmt: skip
"""Maps some hazards to the path of a file. The fix of the hazard must not change the content of this file."""


def wait(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("hazard", HAZARDS)
def test_a_hazard_is_found_and_its_commands_fix_it(engine: Engine, host: Path, tmp_path: Path, hazard: str) -> None:
    rule, subject = HAZARDS[hazard](engine, host)
    before = found(engine)
    assert (rule, subject) in before, before
    finding = before[rule, subject]
    assert finding["why"]
    assert "hunter2" not in str(before)
    kept = [KEPT[hazard]] if hazard in KEPT else []
    owned = [owners(engine, subject, each) for each in kept]
    paste(engine, finding["fix"], tmp_path)
    after = found(engine)
    if rule == "single-file":  # after the fix, the container still mounts the file, but reads the new content
        assert (finding["severity"], after[rule, subject]["severity"]) == ("medium", "low")
        assert engine.docker("exec", subject, "cat", "/app.conf").stdout == "new\n"
    elif hazard == "shared_memory":  # the fix only saves the files in an archive
        assert (tmp_path / "shm-shm.tar").stat().st_size > 0
    else:
        assert (rule, subject) not in after, after[rule, subject]
    assert [engine.docker("exec", "-u0", subject, "cat", each).stdout for each in kept] == ["content\n"] * len(kept)
    assert [owners(engine, subject, each) for each in kept] == owned
    if hazard == "layer_database":
        fixed = engine.inspect("db")
        assert "PASSWORD=hunter2" in fixed["Config"]["Env"]
        assert fixed["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8011"}]}
        assert fixed["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    if hazard == "hides":
        assert (host / "main.py").stat().st_uid == 999
        assert engine.docker("exec", "hidden", "cat", "/app/main.py").stdout == "the program\n"
    if hazard == "unused":
        archive = tmp_path / "left.tar"
        first = archive.read_bytes()
        assert (first != b"", archive.stat().st_mode & 0o777) == (True, 0o600)
        unused_volume(engine)
        assert run_fix(engine, finding["fix"], tmp_path).returncode != 0
        assert archive.read_bytes() == first
        assert ("unused-volume", "left") in found(engine)


@pytest.mark.parametrize("last", ["docker rename db db-old", "docker start db"])
def test_the_old_container_runs_again_after_a_late_failure(
    engine: Engine, host: Path, tmp_path: Path, last: str
) -> None:
    layer_database(engine, host)
    fix = found(engine)["database-in-layer", "db"]["fix"]
    assert run_fix(engine, fix.replace(f"\n{last}\n", "\nfalse\n"), tmp_path).returncode != 0
    (back,) = [each.partition(": ")[2] for each in fix.splitlines() if each.startswith("# to go back")]
    subprocess.run(
        ["bash", "-c", back],
        env={**os.environ, "DOCKER_HOST": engine.url},
        check=True,
        timeout=60,
        capture_output=True,
    )
    restored = engine.inspect("db")
    assert restored["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert engine.docker("exec", "-u0", "db", "cat", "/var/lib/mysql/ibdata1").stdout == "content\n"
    assert ("database-in-layer", "db") in found(engine)


def test_fixes_do_not_follow_links_in_a_mounted_directory(engine: Engine, host: Path, tmp_path: Path) -> None:
    mounted, other = host / "mounted", host / "other"
    mounted.mkdir()
    other.mkdir()
    (mounted / "static").symlink_to(other)
    engine.run("linked", "-v", f"{mounted}:/app")
    paste(engine, found(engine)["hides-image-files", "linked"]["fix"], tmp_path)
    assert (mounted / "main.py").read_text() == "the program\n"
    assert list(other.iterdir()) == []


def test_a_link_above_a_tmpfs_does_not_copy_files_of_the_host(engine: Engine, host: Path, tmp_path: Path) -> None:
    (host / "data").mkdir()
    (host / "data" / "secret").write_text("of the host\n")
    engine.run("linked", "--tmpfs", "/a/data")
    engine.docker("exec", "linked", "sh", "-c", f"busybox mv /a /b && busybox ln -s {host} /a")
    done = run_fix(engine, found(engine)["data-in-memory", "linked"]["fix"], tmp_path)
    assert done.returncode != 0
    assert engine.docker("cp", "linked-new:/a/data/secret", "-", check=False).returncode != 0


def test_a_clean_engine_has_no_findings(engine: Engine, host: Path) -> None:
    engine.run("web", "-v", "data:/data", "-v", f"{host}:/srv:ro", "--tmpfs", "/run", "--tmpfs", "/tmp")  # noqa: S108
    engine.docker("exec", "web", "sh", "-c", "echo line > /data/file; mkdir -p /var/log; echo line > /var/log/web")
    report = audit(engine)
    assert (report["findings"], report["unchecked"]) == ([], [])


def test_a_mount_table_shows_that_a_bind_is_on_a_server(engine: Engine, host: Path) -> None:
    engine.run("media", "-v", f"{host}/in:/media")
    lines = Path("/proc/self/mountinfo").read_text()
    table = host / "mountinfo"
    table.write_text(f"{lines}999 1 0:99 / {host}/in rw - nfs4 nas:/x rw,vers=4.2,soft,addr=192.0.2.1\n")
    assert found(engine) == {}
    shown = found(engine, "--mount-table", str(table))
    assert shown["network-bind", "media"]["what"] == f"{host}/in of the host is on nas:/x (nfs4)"
    assert ("soft-mount", "media") in shown
    places = audit(engine, "--mount-table", str(table))["places"]
    assert [(each["kind"], each["place"]) for each in places] == [("network bind", f"{host}/in (nas:/x, nfs4)")]


def test_an_engine_in_memory_is_reported_once(engine: Engine, host: Path) -> None:
    engine.run("app", "-v", "/data", "-v", "named:/named")
    write_data(engine, "app")
    table = host / "mountinfo"
    lines = Path("/proc/self/mountinfo").read_text()
    table.write_text(f"{lines}999 1 0:99 / {engine.folder}/data rw - tmpfs none rw\n")
    report = audit(engine, "--mount-table", str(table))
    assert {(each["rule"], each["subject"]) for each in report["findings"]} == {
        ("data-in-memory", "engine"), ("anonymous-volume", "app"),
    }  # fmt: skip
    (named,) = [each for each in report["places"] if each["path"] == "/named"]
    assert (named["kind"], named["lost_by"].endswith("the host's next boot")) == ("volume", True)


def test_unsafe_options_of_network_volumes_are_found_and_fixed(engine: Engine, host: Path, tmp_path: Path) -> None:
    soft(engine, host)
    options = ("-o", "type=cifs", "-o", "o=addr=192.0.2.11,vers=1.0,nobrl", "-o", "device=//192.0.2.11/db")
    engine.docker("volume", "create", *options, "share")
    before = found(engine)
    assert set(before) == {
        ("soft-mount", "nfs-volume"), ("no-locks", "nfs-volume"), ("nfs-udp", "nfs-volume"),
        ("nfs-version", "nfs-volume"), ("no-locks", "share"), ("smb-version", "share"),
    }  # fmt: skip
    (tmp_path / "gateway.yaml").write_text(f"docker: {{host: '{engine.url}'}}\n")
    elsewhere = complete_audit("-c", f"{tmp_path}/gateway.yaml", "-o", "json", environment={"DOCKER_HOST": ""})
    fixes = [each["fix"].splitlines() for each in json.loads(elsewhere.stdout)["findings"]]
    assert {fix[0] for fix in fixes} == {f"export DOCKER_HOST={engine.url}"}
    paste(engine, before["nfs-udp", "nfs-volume"]["fix"], tmp_path)
    paste(engine, before["smb-version", "share"]["fix"], tmp_path)
    assert found(engine) == {}


@pytest.mark.parametrize(("context", "is_named"), [("default", False), ("rootless", True)])
def test_a_fix_names_the_engine_if_a_context_selects_another_one(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: str, is_named: bool
) -> None:
    memory(engine, tmp_path)
    monkeypatch.setattr(DockerOptions, "host", engine.url)
    monkeypatch.setenv("DOCKER_HOST", "")
    monkeypatch.setenv("DOCKER_CONTEXT", context)
    (tmp_path / "gateway.yaml").write_text(f"docker: {{host: '{engine.url}'}}\n")
    config = load(ConfigSources(file=tmp_path / "gateway.yaml", environment={}), serves=False)
    report, _ = one_shot_commands.audit(config)
    (finding,) = report.findings
    assert (finding.fix.splitlines()[0] == f"export DOCKER_HOST={engine.url}") is is_named


def test_a_database_and_a_bind_on_servers_are_found_and_fixed(engine: Engine, host: Path, tmp_path: Path) -> None:
    (host / "nfs").mkdir()
    (host / "sshfs").mkdir()
    (host / "sshfs" / "ibdata1").write_text("content\n")
    engine.run("db", "-v", f"{host}/sshfs:/var/lib/mysql")
    # The test does not start `media`, because the fix gives this container a volume on a server that does not exist.
    engine.docker("create", "--name", "media", "-v", f"{host}/nfs:/media", "busybox", "sleep", "9999")
    table = host / "mountinfo"
    table.write_text(
        f"{Path('/proc/self/mountinfo').read_text()}"
        f"998 1 0:98 / {host}/sshfs rw - fuse.sshfs user@nas:/x rw\n"
        f"999 1 0:99 / {host}/nfs rw - nfs4 nas:/x rw,vers=4.2,hard,addr=192.0.2.1\n"
    )
    shown = ("--mount-table", str(table))
    before = found(engine, *shown)
    assert set(before) == {("database-on-remote-mount", "db"), ("network-bind", "db"), ("network-bind", "media")}
    paste(engine, before["database-on-remote-mount", "db"]["fix"], tmp_path)
    paste(engine, before["network-bind", "media"]["fix"], tmp_path)
    assert found(engine, *shown) == {}
    assert engine.docker("exec", "db", "cat", "/var/lib/mysql/ibdata1").stdout == "content\n"


MOUNT_CIFS = """#!/bin/sh
# This stand-in for mount.cifs copies a file of the share, because the kernel possibly lacks cifs.
set -e
option() {{ echo "$4" | tr , '\\n' | sed -n "s/^$5=//p"; }}
echo "$4" >> {folder}/options
stat -c %a "$(option "$@" credentials)" >> {folder}/modes
smbclient "$1" -p "$(option "$@" port)" -A "$(option "$@" credentials)" -c 'get hello.txt {folder}/hello.txt'
nsenter --mount=/proc/{pid}/ns/mnt sh -c 'mount -t tmpfs share "$1" && cp {folder}/hello.txt "$1"' sh "$2"
"""


@pytest.fixture
def share(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """Start a Samba server that has an account `root`, and yield a directory.

    The directory contains a copy of /etc, a stand-in for mount.cifs, and a file with the port of the server.
    """
    need(find("smbd") is not None and find("smbclient") is not None, "smbd and smbclient (packages samba smbclient)")
    server = Samba(tmp_path / "samba")
    subprocess.run(
        ["smbpasswd", "-c", str(tmp_path / "samba/smb.conf"), "-L", "-s", "-a", "root"], input="hunter2\nhunter2\n",
        text=True, check=True, timeout=20, capture_output=True,
    )  # fmt: skip
    subprocess.run(["cp", "-a", "/etc", str(tmp_path / "etc")], check=True, timeout=20)
    (tmp_path / "etc/fstab").write_text("")
    (tmp_path / "port").write_text(str(server.port))
    helper = tmp_path / "bin/mount.cifs"
    helper.parent.mkdir()
    helper.write_text(MOUNT_CIFS.format(folder=tmp_path, pid=engine.pid))
    helper.chmod(0o755)
    try:
        server.start()
        yield tmp_path
    finally:
        server.stop()
        engine.remove_all()
        for point in Path("/mnt").glob(f"media-{os.getpid()}-*"):
            subprocess.run(["umount", "-l", str(point)], check=False, capture_output=True, timeout=10)
            point.rmdir()


def test_shares_with_a_password_are_mounted_by_the_host(engine: Engine, share: Path) -> None:
    name = f"media-{os.getpid()}"
    for volume, more in (("first", "uid=1000,file_mode=0640"), ("second", "ro")):
        login = f"addr=127.0.0.1,port={(share / 'port').read_text()},username=root,password=hunter2"
        options = ("-o", "type=cifs", "-o", "device=//127.0.0.1/media", "-o", f"o={login},{more}")
        engine.docker("volume", "create", *options, volume)
    mounts = ("-v", "first:/first", "-v", "second:/second")
    engine.docker("create", "--name", name, *mounts, "busybox", "sleep", "9999")
    host = f"mount --bind {share}/etc /etc && mount -t overlay none -o lowerdir={share}/bin:/usr/sbin /usr/sbin"
    wrapper = ("unshare", "--mount", "sh", "-c", f'{host} && exec "$@"', "sh")
    for _ in range(2):
        (finding, *_) = [each for each in found(engine).values() if each["rule"] == "password-in-options"]
        paste(engine, finding["fix"], share, *wrapper)
    assert engine.docker("volume", "ls", "-q").stdout == ""
    engine.docker("start", name)
    assert (
        engine.docker("exec", name, "cat", "/first/hello.txt", "/second/hello.txt").stdout == 2 * "hello over SMB\n"
    )
    given = [set(line.split(",")) for line in (share / "options").read_text().splitlines()]
    assert sorted(({"uid=1000", "file_mode=0640"} <= each, "ro" in each) for each in given) == [
        (False, True), (True, False),
    ]  # fmt: skip
    assert "hunter2" not in f"{given}{(share / 'etc/fstab').read_text()}"
    assert (share / "modes").read_text() == "600\n600\n"


@pytest.fixture
def hung(host: Path) -> Iterator[Path]:
    """Mount a FUSE file system that no process serves. Each program that reads this file system hangs."""
    need(Path("/dev/fuse").exists(), "/dev/fuse")
    point = host / "hung"
    point.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        assert libc.mount(b"server:", os.fsencode(point), b"fuse.sshfs", 0, options) == 0, os.strerror(
            ctypes.get_errno()
        )
        yield point
    finally:
        os.close(device)
        subprocess.run(["umount", "-l", str(point)], check=True, timeout=10)


def test_a_hanging_mount_does_not_block_the_audit(engine: Engine, host: Path, hung: Path) -> None:
    (host / "file").touch()
    engine.docker("create", "--name", "above", "-v", f"{host}:/data", "busybox", "sleep", "9999")
    (host / "link").symlink_to(hung)
    engine.docker("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", f"device={hung}/pictures", "below")
    engine.docker("create", "--name", "media", "-v", "below:/media", "busybox", "sleep", "9999")
    began = time.monotonic()
    report = audit(engine)
    assert time.monotonic() - began < 60
    places = {each["container"]: (each["kind"], each["place"]) for each in report["places"]}
    assert places == {
        "above": ("bind", str(host)),
        "media": ("network bind", f"{hung}/pictures (server:/pictures, fuse.sshfs)"),
    }


def test_the_example_of_the_page_loses_data_before_the_fixes_and_none_after_them(
    engine: Engine, tmp_path: Path
) -> None:
    started = {
        "notes": ((), "/var/lib/notes/notes.sqlite"),
        "db": (("-v", "/var/lib/mysql"), "/var/lib/mysql/ibdata1"),
        "cache": (("--tmpfs", "/data"), "/data/file"),
        "web": (("-v", "site:/srv/site"), "/srv/site/file"),
    }
    fixed = {"notes": "notes-notes:/var/lib/notes", "db": "db-mysql:/var/lib/mysql", "cache": "cache-data:/data"}

    def write() -> None:
        for name, (_, path) in started.items():
            engine.docker("exec", name, "sh", "-c", f"mkdir -p {os.path.dirname(path)} && echo content > {path}")  # noqa: PTH120

    def kept() -> set[str]:
        return {
            name for name, (_, path) in started.items()
            if engine.docker("exec", name, "cat", path, check=False).stdout == "content\n"
        }  # fmt: skip

    def remove_everything() -> None:
        paste(engine, "docker rm -f $(docker ps -aq)", tmp_path)

    for name, (options, _) in started.items():
        engine.run(name, *options)
    write()
    assert {each["subject"] for each in found(engine).values()} == {"notes", "db", "cache"}
    remove_everything()
    for name, (options, _) in started.items():
        engine.run(name, *options)
    assert kept() == {"web"}
    left = [each for each in found(engine).values() if each["rule"] == "unused-volume"]
    assert ["MySQL or MariaDB files" in each["what"] and "last used by db" in each["what"] for each in left] == [True]
    paste(engine, left[0]["fix"], tmp_path)

    write()
    for _ in range(len(fixed)):
        (finding, *_) = found(engine).values()
        paste(engine, finding["fix"], tmp_path)
    assert found(engine) == {}
    remove_everything()
    for name, (options, _) in started.items():
        engine.run(name, *(("-v", fixed[name]) if name in fixed else options))
    assert kept() == set(started)


@pytest.fixture
def compose() -> None:
    version = subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=20, check=False)
    need(version.returncode == 0, "Docker Compose (package docker-compose)")


LIVE = """
services:
  db:
    image: host
    environment: {GREETING: "${GREETING}"}
    secrets: [deploy, other]
    volumes: ["/usr:/usr:ro", "/etc/alternatives:/etc/alternatives:ro"]
    tmpfs: ["/run:size=64k"]
    command:
    - sh
    - -c
    - |
      mkdir -p /var/lib/mysql
      cd /var/lib/mysql
      test -e ibdata1 || mariadb-install-db --no-defaults --user=root --datadir=$$PWD --skip-test-db
      exec mariadbd --no-defaults --user=root --datadir=$$PWD --socket=/run/s --skip-networking
secrets: {deploy: {file: ./id_ed25519}, other: {file: ./other}}
"""
QUERY = ("exec", "shop-db-1", "mariadb", "--no-defaults", "-N", "-S", "/run/s", "-e")
WRITER = """while :; do
  mariadb --no-defaults -N -S /run/s -e "INSERT INTO test.t VALUES (); SELECT LAST_INSERT_ID()" || exit
done"""


def test_a_fix_of_compose_keeps_all_rows_of_a_live_database(engine: Engine, tmp_path: Path, compose: None) -> None:
    need(mariadb.available(), "mariadbd (package mariadb-server)")
    for name, text in {
        "compose.yaml": LIVE, "prod.env": "GREETING=hello\n", "other": "a word\n",
        "id_ed25519": "a key\n",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    files = ("--env-file", str(tmp_path / "prod.env"), "-f", str(tmp_path / "compose.yaml"))
    engine.docker("compose", "-p", "shop", *files, "up", "-d")
    create = "CREATE DATABASE test; CREATE TABLE test.t (id INT PRIMARY KEY AUTO_INCREMENT)"
    wait(lambda: engine.docker(*QUERY, create, check=False).returncode == 0, 60)
    fix = found(engine)["database-in-layer", "shop-db-1"]["fix"]

    failed = run_fix(engine, fix.replace("| docker cp", "| false"), tmp_path)
    state = engine.inspect("shop-db-1")["State"]
    assert (failed.returncode != 0, state["Running"], state["Paused"]) == (True, True, False)
    wait(lambda: engine.docker(*QUERY, "SELECT 1", check=False).returncode == 0, 60)

    rows = tmp_path / "rows"
    with rows.open("w") as output:
        writer = subprocess.Popen(
            ["docker", "-H", engine.url, "exec", "shop-db-1", "sh", "-c", WRITER],
            stdout=output, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        wait(lambda: rows.read_text() != "")
        paste(engine, fix.replace("# when shop-db-1 works: docker rmi", "# keep"), tmp_path)
        writer.wait(60)
    finally:
        writer.kill()
        writer.wait(10)
    wait(lambda: engine.docker(*QUERY, "SELECT 1", check=False).returncode == 0, 60)
    written = rows.read_text().split()
    assert set(written) - set(engine.docker(*QUERY, "SELECT id FROM test.t").stdout.split()) == set()
    old = engine.run_until_exit("--init=false", "-v/usr:/usr:ro", "before-audit:shop-db-1", "ls", "/var/lib/mysql")
    assert "ibdata1" in old.stdout

    found_key = found(engine)
    assert {rule for rule, _ in found_key} <= {"private-key", "single-file"}
    paste(engine, found_key["private-key", "shop-db-1"]["fix"], tmp_path)
    inspection = engine.inspect("shop-db-1")
    paths = {each["Destination"] for each in inspection["Mounts"]}
    assert paths == {"/usr", "/etc/alternatives", "/var/lib/mysql", "/run/secrets/other"}
    assert inspection["HostConfig"]["Tmpfs"] == {"/run": "size=64k"}
    assert "GREETING=hello" in inspection["Config"]["Env"]


def test_a_service_of_compose_is_fixed_by_its_files(
    engine: Engine, host: Path, tmp_path: Path, compose: None
) -> None:
    (tmp_path / "compose.yaml").write_text(
        "services:\n  db:\n    image: app\n    pull_policy: always\n"
        "    command: [sleep, '9999']\n    stop_grace_period: 1s\n"
        f"    volumes: ['named:/named', '{host}:/srv:ro', '/data']\n    tmpfs: [/run]\nvolumes: {{named: {{}}}}\n"
    )
    engine.docker("compose", "-p", "shop", "-f", str(tmp_path / "compose.yaml"), "up", "-d", "--pull", "never")
    write_data(engine, "shop-db-1")
    engine.docker("exec", "-u0", "shop-db-1", "sh", "-c", "chown 1500:1500 /data /named; echo content > /named/file")
    finding = found(engine)["anonymous-volume", "shop-db-1"]
    owned = owners(engine, "shop-db-1", "/data/file")
    paste(engine, finding["fix"], tmp_path)
    assert owners(engine, "shop-db-1", "/data/file") == owned
    assert [each for each in found(engine) if each[1] == "shop-db-1"] == []
    kept = engine.docker("exec", "-u0", "shop-db-1", "cat", "/data/file", "/named/file").stdout
    assert kept == "content\ncontent\n"
    modes = {each["Destination"]: each["RW"] for each in engine.inspect("shop-db-1")["Mounts"]}
    assert modes == {"/named": True, "/srv": False, "/data": True}
    assert engine.inspect("shop-db-1")["HostConfig"]["Tmpfs"] == {"/run": ""}


def test_exit_codes_and_formats(engine: Engine) -> None:
    memory(engine, Path("/"))
    environment = {"DOCKER_HOST": engine.url}
    assert command("audit", "--fail-on", "high", environment=environment).returncode == 0
    done = command("audit", "--fail-on", "medium", environment=environment)
    assert (done.returncode, "found 1 hazard of severity medium or higher" in done.stderr) == (1, True)
    assert "medium memory:/data: data in memory [data-in-memory]" in done.stdout
    log = json.loads(command("audit", "-o", "sarif", environment=environment).stdout)
    assert [each["ruleId"] for each in log["runs"][0]["results"]] == ["data-in-memory"]
    assert command("audit", "--fail-on", "never", environment=environment).returncode == 2
    assert command("audit", "--mount-table", "/none", environment=environment).returncode == 2
    assert command("audit", environment={"DOCKER_HOST": "unix:///none.sock"}).returncode == 1


@pytest.mark.timeout(600)
def test_an_audit_of_many_containers_changes_nothing(tmp_path: Path) -> None:
    # `bench/audit_fleet.py` measures how long an audit of 300 running containers takes.
    with running_engine(tmp_path / "engine") as engine:
        for number in range(40):
            volume = ("-v", f"many-{number}:/data")
            if number % 10:
                engine.docker("create", "--name", f"many-{number}", *volume, "busybox", "sleep", "1")
            else:
                engine.run(f"many-{number}", *volume, command=("sh", "-c", "echo line > /file; exec sleep 9999"))
        before = engine.state()
        report = audit(engine)
        assert [each["kind"] for each in report["places"]].count("layer") == 4
        assert len(report["places"]) == 44
        assert engine.state() == before


def test_a_service_of_a_swarm_loses_a_key_but_no_data(engine: Engine, host: Path, tmp_path: Path) -> None:
    engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        (host / "id_ed25519").write_text("a key\n")
        key = f"type=bind,source={host}/id_ed25519,target=/key,readonly"
        program = ("sh", "-c", f"test -e /var/lib/mysql || ({DATABASE}); exec sleep 9999")
        engine.docker(
            "service", "create", "--name", "db", "--mount", key, "--stop-grace-period", "1s", "busybox", *program
        )
        (task,) = engine.docker("ps", "--format", "{{.Names}}").stdout.split()
        wait(lambda: engine.docker("exec", task, "ls", "/var/lib/mysql", check=False).stdout == "ibdata1\n")
        before = found(engine)
        paste(engine, before["database-in-layer", task]["fix"], tmp_path)
        assert (tmp_path / f"{task}-mysql" / "ibdata1").read_text() == "content\n"
        assert engine.docker("ps", "--format", "{{.Names}} {{.State}}").stdout.split() == [task, "running"]
        paste(engine, before["private-key", task]["fix"], tmp_path)
        assert "private-key" not in {rule for rule, _ in found(engine)}
    finally:
        engine.docker("swarm", "leave", "--force")
