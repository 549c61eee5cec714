"""Tests whether the kernel's NFS mount waits for a tunnel while the gateway holds the connection of the mount."""

import time
from pathlib import Path

import pytest

from gateway.backend_support.nfs_kernel_mounts import NfsBackendOptions
from gateway.backend_support.volume_definition import VolumeOptions
from gateway.backends.nfs import KIND
from gateway.contracts.config_types import HostPort
from gateway.demo.nfs import NfsServer
from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.support.configs import write_nfs
from tests.support.gateway_process import Gateway
from tests.support.guest import HOST, Guest, need_guest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]


def test_the_mount_of_a_volume_waits_as_long_as_hold(
    gateway: Gateway, bastion: Bastion, nfs_server: NfsServer, tmp_path: Path
) -> None:
    """The tunnel opens 4 minutes 50 seconds after the mount starts; `hold` is 5 minutes."""
    need_guest()
    port = free_port()
    write_nfs(gateway, bastion, nfs_server, port)
    (nfs_server.export / "hello").write_text("hello over NFS\n")
    bastion.stop()
    gateway.start()
    wanted = NfsBackendOptions(export="/media", volume=VolumeOptions("media", address=HOST))
    volume = KIND.volume(wanted, [HostPort("127.0.0.1", port)], KIND.hold)
    assert volume is not None
    options = ",".join((*volume.options, "clientaddr=10.0.2.15"))
    script = f"mount -i -t nfs4 -o {options} {volume.device} /mnt && cat /mnt/hello || echo MOUNT-FAILED\n"
    with Guest(tmp_path / "guest", script) as guest:
        guest.wait_for("GUEST-STARTED", 300)
        gateway.wait(lambda: gateway.backend("media")["connections"]["active"] >= 1, timeout=30)
        time.sleep(290)
        assert not guest.said("(MOUNT-FAILED)")
        bastion.start()
        guest.wait_for("hello over NFS", 600)
