"""Tests SMB backends with Debian's Samba: direct access, and access through the gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.docker_desired_state import volumes
from gateway.config import ConfigSources, load
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from tests.support.clients import read_smb
from tests.support.configs import ssh_tunnel
from tests.support.gateway_process import Gateway
from tests.support.guest import HOST, Guest, need_guest
from tests.support.requirements import need
from tests.support.servers import Samba, resetting, serving, talking

pytestmark = pytest.mark.integration

SMB_MODULES = ("cifs", "md5", "cmac", "hmac", "sha256", "sha512", "ccm", "gcm", "aes_generic", "ecb", "ctr", "ghash")


@pytest.fixture
def samba(tmp_path: Path) -> Iterator[int]:
    """The port of a Samba server that has one share with guest access."""
    need(find("smbd") is not None and find("smbclient") is not None, "smbd and smbclient (packages samba smbclient)")
    server = Samba(tmp_path / "samba").start()
    yield server.port
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
        assert read_smb(listen, tmp_path) == "hello over SMB\n"


@pytest.mark.timeout(240)
def test_a_kernel_can_mount_the_smb_volume(
    gateway: Gateway, shared_bastion: Bastion, samba: int, tmp_path: Path
) -> None:
    """A virtual machine mounts the share with the options of the Docker volume."""
    need_guest()
    listen = free_port()
    gateway.write(f"""
        tunnels:
          bastion: {ssh_tunnel(shared_bastion)}
        backends:
          media: {{kind: smb, via: bastion, targets: ["127.0.0.1:{samba}"], share: media,
                   listen: 127.0.0.1:{listen}, volume: {{name: media, address: {HOST}}}}}
    """)
    (spec,) = volumes(load(ConfigSources(file=gateway.config, environment={})))
    gateway.start().wait_up("media")
    script = f"""
mount -i -t {spec.kind} -o {",".join(spec.options)} {spec.device} /mnt && cat /mnt/hello.txt
echo written > /mnt/new.txt && umount /mnt && echo UNMOUNTED
dmesg | tail -5
"""
    with Guest(tmp_path / "guest", script, modules=SMB_MODULES) as guest:
        guest.wait_for("hello over SMB", 90)
        guest.wait_for("UNMOUNTED")
    assert (tmp_path / "samba/share/new.txt").read_text() == "written\n"
