"""Tests a running gateway while SSH certificates (valid for a few minutes) and TLS certificates expire."""

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion, make_key
from tests.support.clients import echo
from tests.support.gateway_process import Gateway, command
from tests.support.requirements import need_sshd
from tests.support.servers import echoing, serving

pytestmark = pytest.mark.integration

LIFETIME = 60


class ShortLivedCa:
    """An SSH certificate authority that signs the client's key; each certificate is valid for a few minutes."""

    def __init__(self, folder: Path) -> None:
        make_key(folder / "ca")
        self._ca = asyncssh.read_private_key(folder / "ca")
        self.bastion = Bastion(folder / "bastion", extra=f"TrustedUserCAKeys {folder}/ca.pub")
        (self.bastion.folder / "authorized_keys").write_text("")

    def sign(self, left: float = LIFETIME, lifetime: int = LIFETIME) -> float:
        """Replace the certificate next to the key atomically; return the expiry time of the new certificate."""
        end = int(time.time() + left)
        key, beside = self.bastion.client_key, Path(f"{self.bastion.client_key}-cert.pub")
        made = self._ca.generate_user_certificate(
            asyncssh.read_private_key(key), "id", principals=[self.bastion.user],
            valid_after=end - lifetime, valid_before=end,
        )  # fmt: skip
        new = beside.with_suffix(".new")
        made.write_certificate(new)
        new.replace(beside)
        return end


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[ShortLivedCa]:
    need_sshd()
    made = ShortLivedCa(tmp_path)
    made.bastion.start()
    yield made
    made.bastion.stop()


def expiry(gateway: Gateway, kind: str, name: str) -> float | None:
    _, text = gateway.client.get("/metrics")
    line = rf'^gateway_credential_expiry_timestamp_seconds{{kind="{kind}",name="{name}"}} (\S+)$'
    found = re.search(line, str(text), re.MULTILINE)
    return float(found[1]) if found else None


def test_certificates_that_are_renewed_often_break_no_connection(gateway: Gateway, authority: ShortLivedCa) -> None:
    bastion, listen = authority.bastion, free_port()
    # The remaining 45 s are in the last third of the lifetime, so the gateway warns. The certificate must not expire
    # during the assertions, which can take more than 12 s on a busy machine.
    first = authority.sign(left=45, lifetime=240)
    with serving(echoing) as port:
        gateway.write(f"""
            tunnels:
              bastion: {{kind: ssh, host: 127.0.0.1, port: {bastion.port}, user: {bastion.user},
                         identity_files: {bastion.client_key}, known_hosts: {bastion.known_hosts}}}
            backends:
              echo: {{kind: tcp, via: bastion, targets: ["127.0.0.1:{port}"], listen: "127.0.0.1:{listen}"}}
        """)
        gateway.start()
        gateway.wait_up("echo")
        with socket.create_connection(("127.0.0.1", listen), 10) as client:
            client.settimeout(20)
            assert echo(client) == b"hello"
            gateway.wait(lambda: gateway.tunnel("bastion")["connections"] == 2)
            gateway.wait(lambda: expiry(gateway, "ssh_certificate", "bastion") == first)
            what = f"bastion: {bastion.client_key}-cert.pub: the certificate expires at"
            gateway.wait(lambda: any(each.startswith(what) for each in gateway.status()["warnings"]))
            assert gateway.log.count(what) == 1
            assert what in command("validate", "-c", str(gateway.config)).stderr
            second = authority.sign(left=240, lifetime=240)
            gateway.wait(lambda: expiry(gateway, "ssh_certificate", "bastion") == second)
            gateway.wait(lambda: gateway.status()["warnings"] == [])
            gateway.wait(lambda: echo(client) == b"hello" and time.time() > first)
            # Connections that logged in with the first certificate stay open. Only new connections use the second
            # certificate.
            assert gateway.tunnel("bastion")["connects"] == 1
            assert gateway.tunnel("bastion")["draining_connections"] == 0
            before = set(bastion.sessions())

            def idle() -> list[int]:
                return [each for each in before if not serves(each, port)]

            gateway.wait(lambda: len(idle()) == 1)  # a check can use the second session for a moment
            bastion.kill_session(idle()[0], signal.SIGKILL)
            gateway.wait(lambda: bool(set(bastion.sessions()) - before))
            gateway.wait(lambda: gateway.tunnel("bastion")["connections"] == 2)
            assert gateway.tunnel("bastion")["pool_error"] is None
            assert echo(client) == b"hello"


def test_a_tunnel_whose_certificate_has_expired_is_up_soon_after_it_is_renewed(
    gateway: Gateway, authority: ShortLivedCa
) -> None:
    bastion = authority.bastion
    authority.sign(left=-5)
    gateway.write(f"""
        tunnels:
          bastion: {{kind: ssh, host: 127.0.0.1, port: {bastion.port}, user: {bastion.user},
                     identity_files: {bastion.client_key}, known_hosts: {bastion.known_hosts}}}
        backends:
          echo: {{kind: tcp, via: bastion, targets: ["127.0.0.1:1"]}}
    """)
    gateway.start()
    gateway.wait(lambda: gateway.tunnel("bastion")["state"] == "quarantined")
    gateway.wait(lambda: any("the certificate expired at" in each for each in gateway.status()["warnings"]))
    authority.sign()
    # The new certificate ends the quarantine, which otherwise lasts at least one minute.
    assert gateway.wait(lambda: gateway.tunnel("bastion")["state"] == "up") < 20


def serves(session: int, port: int) -> bool:
    """Return whether an sshd process, or one of its child processes, has a connection to the port."""
    listed = subprocess.run(
        ["ss", "-Htnp", f"dport = :{port}"], capture_output=True, text=True, check=True, timeout=10
    )
    return any(f"pid={pid}," in listed.stdout for pid in (session, *children(session)))


def children(pid: int) -> list[int]:
    return [int(each) for path in Path(f"/proc/{pid}/task").glob("*/children") for each in path.read_text().split()]
