"""SMB against Debian's Samba, straight and through the gateway."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Gateway, need, ssh_tunnel
from servers import resetting, serving, talking

from gateway.demo.process import Process, find, free_port
from gateway.demo.sshd import Bastion

pytestmark = pytest.mark.rig


@pytest.fixture
def samba(tmp_path: Path) -> Iterator[int]:
    """A server with one share for guests; its port."""
    need(find("smbd") is not None and find("smbclient") is not None, "smbd and smbclient (packages samba smbclient)")
    folder = tmp_path / "samba"
    (folder / "share").mkdir(parents=True)
    (folder / "share" / "hello.txt").write_text("hello over SMB\n")
    port = free_port()
    (folder / "smb.conf").write_text(f"""
[global]
  smb ports = {port}
  interfaces = 127.0.0.1
  bind interfaces only = yes
  private dir = {folder}
  state directory = {folder}
  cache directory = {folder}
  lock directory = {folder}
  pid directory = {folder}
  ncalrpc dir = {folder}/rpc
  map to guest = Bad User
  guest account = root
  disable netbios = yes
  load printers = no
  log file = {folder}/log
[media]
  path = {folder}/share
  guest ok = yes
""")
    server = Process(
        [find("smbd") or "smbd", "--foreground", "--no-process-group", "-s", str(folder / "smb.conf")], folder / "out"
    )
    server.start(port)
    yield port
    server.stop()


def test_a_share_is_checked_and_read_through_the_gateway(
    gateway: Gateway, shared_bastion: Bastion, samba: int, tmp_path: Path
) -> None:
    listen = free_port()
    check = "check: {interval: 1s, fast_interval: 200ms, timeout: 1s}"
    with serving(resetting) as rude, serving(talking(b"HTTP/1.0 400 no\r\n\r\n" + bytes(200))) as other:
        gateway.write(f"""
            tunnels:
              bastion: {ssh_tunnel(shared_bastion)}
            backends:
              media: {{kind: smb, via: bastion, targets: ["127.0.0.1:{samba}"], share: media,
                       listen: 127.0.0.1:{listen}, {check}}}
              rude: {{kind: smb, targets: ["127.0.0.1:{rude}"], share: x, {check}}}
              other: {{kind: smb, targets: ["127.0.0.1:{other}"], share: x, {check}}}
        """)
        gateway.start().wait_up("media")
        assert gateway.backend("media")["targets"][0]["version"].startswith("SMB 3.0")
        gateway.wait_state("rude", "down", "reset")
        gateway.wait_state("other", "down", "protocol")
        got = tmp_path / "got.txt"
        done = subprocess.run(
            ["smbclient", "//127.0.0.1/media", "-p", str(listen), "-N", "-c", f"get hello.txt {got}"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert got.read_text() == "hello over SMB\n", done.stdout + done.stderr
