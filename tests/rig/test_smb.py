"""SMB against Debian's Samba, straight and through the gateway."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import read_smb
from conftest import Gateway, need, ssh_tunnel
from servers import Samba, resetting, serving, talking

from gateway.demo.process import find, free_port
from gateway.demo.sshd import Bastion

pytestmark = pytest.mark.rig


@pytest.fixture
def samba(tmp_path: Path) -> Iterator[int]:
    """A server with one share for guests; its port."""
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
