"""Tests mounts by a real kernel through the gateway, with the options of container volumes."""

import hashlib
import re
import signal
import statistics
import subprocess
import threading
import time
from pathlib import Path

import pytest

from gateway.demo.nfs import NfsServer
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.clients import touch_nfs
from tests.support.configs import write_nfs
from tests.support.gateway_process import Gateway
from tests.support.guest import Guest, mount, need_guest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]


@pytest.fixture
def server(nfs_server: NfsServer) -> NfsServer:
    need_guest()
    return nfs_server


def carriers(port: int) -> set[str]:
    """Return the process IDs of the sshd processes that have a connection to this port."""
    command = ["ss", "-Htnp", "state", "established", "dport", "=", f":{port}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    return set(re.findall(r'"sshd[^"]*",pid=(\d+)', shown))


def test_files_on_a_mount_work_as_on_a_disk(
    gateway: Gateway, bastion: Bastion, server: NfsServer, tmp_path: Path
) -> None:
    port = free_port()
    write_nfs(gateway, bastion, server, port)
    gateway.start().wait_up("media")
    (server.export / "hello").write_text("hello over NFS\n")
    script = f"""
{mount(port, options="nconnect=4,lookupcache=positive")} && echo MOUNTED
cat /mnt/hello
dd if=/dev/urandom of=/mnt/big bs=1M count=24 conv=fsync 2>/dev/null && echo WROTE
mv /mnt/big /mnt/renamed && echo RENAMED
until [ -e /mnt/continue ]; do usleep 100000; done
echo 3 > /proc/sys/vm/drop_caches
echo "SUM $(sha256sum < /mnt/renamed)"
usleep 500000
lock /mnt/hello
mkdir /mnt/folder && rmdir /mnt/folder && echo FOLDERS
umount /mnt && echo UNMOUNTED
"""
    with Guest(tmp_path / "guest", script) as guest:
        guest.wait_for("RENAMED", 360)
        # The gateway spreads the connections of a mount with `nconnect` over several SSH connections.
        assert len(carriers(server.port)) >= 2
        touch_nfs(server.port, f"{server.pseudo}/continue")
        guest.wait_for("GUEST-DONE", 360)
        for word in ("MOUNTED", "hello over NFS", "WROTE", "RENAMED", "LOCKED", "FOLDERS", "UNMOUNTED"):
            guest.wait_for(word)
        assert guest.said(r"SUM (\w+)") == [hashlib.sha256((server.export / "renamed").read_bytes()).hexdigest()]
    assert (server.export / "renamed").stat().st_size == 24 << 20
    assert gateway.backend("media")["connections"]["total"] >= 4


def test_writes_survive_a_tunnel_that_is_killed_every_second(
    gateway: Gateway, bastion: Bastion, server: NfsServer, tmp_path: Path
) -> None:
    port = free_port()
    write_nfs(gateway, bastion, server, port)
    gateway.start().wait_up("media")
    rounds = 60
    script = f"""
{mount(port)} && echo MOUNTED
i=0
while [ $i -lt {rounds} ]; do
  dd if=/dev/urandom of=/tmp/piece bs=64k count=4 2>/dev/null
  dd if=/tmp/piece of=/mnt/piece.$i bs=64k conv=fsync 2>/tmp/error || echo "IO-ERROR $(cat /tmp/error)"
  echo "PIECE $i $(sha256sum < /tmp/piece)"
  i=$((i+1))
  usleep 200000
done
echo 3 > /proc/sys/vm/drop_caches
i=0
while [ $i -lt {rounds} ]; do echo "BACK $i $(sha256sum < /mnt/piece.$i)"; i=$((i+1)); done
"""
    kills, resumed = 0, []
    with Guest(tmp_path / "guest", script) as guest:
        guest.wait_for("MOUNTED", 300)
        while len(guest.said(r"PIECE (\d+)")) < rounds and kills < 60:
            before = len(guest.said(r"PIECE (\d+)"))
            bastion.kill_sessions()
            kills += 1
            killed = time.monotonic()
            while len(guest.said(r"PIECE (\d+)")) == before and time.monotonic() - killed < 30:
                time.sleep(0.01)
            resumed.append(time.monotonic() - killed)
            time.sleep(max(0.0, 0.5 - (time.monotonic() - killed)))
        guest.wait_for("GUEST-DONE", 360)
        assert not guest.said(r"IO-ERROR (.*)")
        written = dict(line.split() for line in guest.said(r"PIECE (\d+ \w+)"))
        back = dict(line.split() for line in guest.said(r"BACK (\d+ \w+)"))
    assert len(written) == rounds
    assert back == written
    for number, digest in written.items():
        assert hashlib.sha256((server.export / f"piece.{number}").read_bytes()).hexdigest() == digest
    assert kills >= 15
    assert statistics.median(resumed) < 10


def test_a_lock_is_kept_while_its_tunnel_is_lost_again_and_again(
    gateway: Gateway, bastion: Bastion, server: NfsServer, tmp_path: Path
) -> None:
    port = free_port()
    write_nfs(gateway, bastion, server, port)
    gateway.start().wait_up("media")
    (server.export / "ledger").touch(0o666)
    # With `nosharecache`, the server, not the guest's kernel, grants or refuses the locks of the second mount.
    # The first mount holds its lock until the file `released` exists. The script creates this file after the loop.
    # During the loop, the second mount must not get the lock.
    script = f"""
mkdir /other
{mount(port, options="actimeo=1")} && {mount(port, target="/other", options="actimeo=1,nosharecache")} && echo MOUNTED
lock /mnt/ledger /mnt/released > /tmp/held &
until grep LOCKED /tmp/held; do usleep 100000; done
i=0
while [ ! -e /other/enough ]; do
  said=$(lock /other/ledger 2>&1)
  echo "OTHER $i $said"
  i=$((i+1))
  usleep 200000
done
touch /mnt/released
wait
echo "AFTERWARDS $(lock /other/ledger 2>&1)"
"""
    with Guest(tmp_path / "guest", script) as guest:
        guest.wait_for("OTHER 0", 300)
        for _ in range(10):
            bastion.kill_sessions()
            asked = len(guest.said(r"OTHER (\d+)"))
            deadline = time.monotonic() + 30
            while len(guest.said(r"OTHER (\d+)")) < asked + 3:
                assert time.monotonic() < deadline, guest.lines[-10:]
                time.sleep(0.05)
        touch_nfs(server.port, f"{server.pseudo}/enough")
        guest.wait_for("GUEST-DONE", 600)
        assert guest.said(r"^(LOCKED)$") == ["LOCKED"]
        answers = guest.said(r"OTHER \d+ (.*)")
        assert len(answers) > 30
        assert {answer.removeprefix("lock: ") for answer in answers} == {"Resource temporarily unavailable"}
        assert not guest.said(r"(IO-ERROR.*)")
        assert guest.said(r"AFTERWARDS (.*)") == ["LOCKED"]
    assert (server.export / "ledger").read_text() == "held"


def test_a_mount_before_its_tunnel_waits(
    gateway: Gateway, bastion: Bastion, server: NfsServer, tmp_path: Path
) -> None:
    port = free_port()
    write_nfs(gateway, bastion, server, port)
    (server.export / "hello").write_text("hello over NFS\n")
    bastion.stop()
    gateway.start()
    with Guest(tmp_path / "guest", f"{mount(port)} && cat /mnt/hello\n") as guest:
        guest.wait_for("GUEST-STARTED", 300)
        gateway.wait(lambda: gateway.backend("media")["connections"]["active"] >= 1, timeout=30)
        time.sleep(8)
        bastion.start()
        guest.wait_for("hello over NFS", 600)


def test_mounts_survive_a_frozen_bastion_a_restarted_server_and_a_restarted_gateway(
    gateway: Gateway, bastion: Bastion, server: NfsServer, tmp_path: Path
) -> None:
    port = free_port()
    write_nfs(gateway, bastion, server, port)
    gateway.start().wait_up("media")
    script = f"""
{mount(port, options="actimeo=1")} && echo MOUNTED
i=0
while [ $i -lt 4000 ]; do
  echo line-$i >> /mnt/log && sync && echo "LINE $i" || echo "IO-ERROR $i"
  i=$((i+1))
  [ -e /mnt/enough ] && break
  usleep 100000
done
"""
    with Guest(tmp_path / "guest", script) as guest:
        guest.wait_for("MOUNTED", 300)

        def goes_on(timeout: float) -> None:
            before = len(guest.said(r"LINE (\d+)"))
            deadline = time.monotonic() + timeout
            while len(guest.said(r"LINE (\d+)")) < before + 3:
                assert time.monotonic() < deadline, guest.lines[-10:]
                time.sleep(0.05)

        goes_on(20)
        bastion.kill_sessions(signal.SIGSTOP)
        frozen = threading.Timer(12, lambda: bastion.kill_sessions(signal.SIGCONT))
        frozen.start()
        goes_on(30)
        frozen.join()
        server.stop(signal.SIGKILL)
        gateway.wait(lambda: gateway.state("media")[0] == "down", timeout=10)
        server.start()
        goes_on(60)
        gateway.stop()
        time.sleep(1)
        gateway.start()
        goes_on(60)
        touch_nfs(server.port, f"{server.pseudo}/enough")
        guest.wait_for("GUEST-DONE", 600)
        assert not guest.said(r"IO-ERROR (\d+)")
        lines = len(guest.said(r"LINE (\d+)"))
    assert len((server.export / "log").read_text().split()) == lines
