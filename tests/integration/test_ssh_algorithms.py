"""Tests SSH algorithms: modern by default, old ones only by configuration, and all protected from CVE-2023-48795."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.connection import SSHConnection, SSHServerConnection
from asyncssh.constants import MSG_KEXINIT
from asyncssh.kex import get_kex
from asyncssh.packet import NameList, SSHPacket

from gateway.demo.sshd import Bastion
from gateway.errors import FailureReason
from gateway.ssh import algorithms
from tests.support.host_keys import public, sshd_with, trusting
from tests.support.requirements import need
from tests.support.ssh_sessions import opened, options, refused

pytestmark = pytest.mark.integration


@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields")
async def test_errors_name_the_algorithms_that_an_old_server_lacks(tmp_path: Path) -> None:
    """Each error names the algorithms that the server offers, and the configuration key that enables them."""
    old = {
        "kex": ("KexAlgorithms", "diffie-hellman-group14-sha1", "key exchange"),
        "host_key_algorithms": ("HostKeyAlgorithms", "ssh-rsa", "host key algorithm"),
        "ciphers": ("Ciphers", "aes128-cbc", "cipher"),
        "macs": ("MACs", "hmac-sha1", "MAC"),
    }
    lines = "".join(f"{keyword} {name}\n" for keyword, name, _ in old.values())
    with sshd_with(tmp_path / "old", "ssh-rsa", extra=lines) as server:
        chosen: dict[str, Any] = {}
        for key, (_, name, sort) in old.items():
            error = await refused(trusting(server, public(server, "ssh-rsa"), **chosen))
            assert (error.reason, error.fatal) == (FailureReason.PROTOCOL, True)
            assert error.detail.startswith(f"127.0.0.1:{server.port}: no {sort} in common: the server offers {name}")
            assert error.detail.endswith(f" to {key}")
            chosen[key] = (name,)
        async with opened(trusting(server, public(server, "ssh-rsa"), **chosen)) as link:
            assert link.status().cipher == "aes128-cbc"


async def test_post_quantum_hybrids_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mlkem768x25519-sha256" in algorithms.supported("kex"), "an OpenSSL with ML-KEM (3.5)")
    used: list[bytes] = []

    def noted(conn: Any, name: bytes) -> Any:
        used.append(name)
        return get_kex(conn, name)

    monkeypatch.setattr(asyncssh.connection, "get_kex", noted)
    bastion = Bastion(tmp_path / "bastion", embedded=True).start()
    try:
        async with opened(options(bastion)):
            assert used == [b"mlkem768x25519-sha256"]
    finally:
        bastion.stop()


class LoginCounter(asyncssh.SSHServer):
    """An SSH server that counts the logins that clients have started."""

    logins = 0

    def begin_auth(self, username: str) -> bool:
        LoginCounter.logins += 1
        return True


@contextlib.asynccontextmanager
async def without_strict_exchange(folder: Path, patch: pytest.MonkeyPatch, **more: Any) -> AsyncIterator[Bastion]:
    """Run an SSH server (asyncssh) that does not support strict key exchange."""
    LoginCounter.logins = 0
    bastion = Bastion(folder, embedded=True)
    patch.setattr(SSHConnection, "_get_extra_kex_algs", lambda _: [])
    server = await asyncssh.listen(
        "127.0.0.1", bastion.port, server_factory=LoginCounter, server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"), **more,
    )  # fmt: skip
    async with server:
        yield bastion


@pytest.mark.parametrize(
    ("cipher", "mac", "safe"),
    [
        ("aes256-gcm@openssh.com", "hmac-sha2-256-etm@openssh.com", True),
        ("chacha20-poly1305@openssh.com", "hmac-sha2-256", False),
        ("aes256-ctr", "hmac-sha2-256-etm@openssh.com", False),
        ("aes256-cbc", "hmac-sha2-512-etm@openssh.com", False),
        ("aes256-ctr", "hmac-sha2-256", True),
        ("aes256-cbc", "hmac-sha2-256", True),
    ],
)
async def test_ciphers_that_need_strict_key_exchange_are_not_used_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cipher: str, mac: str, *, safe: bool
) -> None:
    weak = {"encryption_algs": [cipher], "mac_algs": [mac]}
    async with without_strict_exchange(tmp_path / "bastion", monkeypatch, **weak) as bastion:
        chosen = options(bastion, ciphers=(cipher,), macs=(mac,))
        if safe:
            async with opened(chosen):
                assert LoginCounter.logins == 1
            return
        error = await refused(chosen)
        assert (error.reason, error.fatal) == (FailureReason.PROTOCOL, True)
        assert "without strict key exchange" in error.detail
        assert LoginCounter.logins == 0


@pytest.mark.parametrize("chacha", ["to the server", "from the server"])
async def test_each_direction_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chacha: str) -> None:
    """RFC 4253, section 7.1, allows a server to offer ChaCha20 for only one direction."""
    offered = [[b"chacha20-poly1305@openssh.com"], [b"aes128-gcm@openssh.com"]]
    if chacha == "from the server":
        offered.reverse()
    send, choose = SSHServerConnection.send_packet, SSHServerConnection._choose_alg
    asked: dict[SSHConnection, int] = {}

    def lopsided(self: SSHServerConnection, pkttype: int, *args: bytes, handler: Any = None) -> None:
        if pkttype == MSG_KEXINIT:
            packet = SSHPacket(args[0])
            head = packet.get_bytes(16) + NameList(packet.get_namelist()) + NameList(packet.get_namelist())
            packet.get_namelist(), packet.get_namelist()
            args = (head + b"".join(map(NameList, offered)) + packet.get_remaining_payload(),)
            self._server_kexinit = bytes([MSG_KEXINIT]) + args[0]
        send(self, pkttype, *args, handler=handler)

    def take_turns(self: SSHServerConnection, alg_type: str, local: Any, remote: Any) -> bytes:
        if alg_type == "encryption":
            asked[self] = asked.get(self, 0) + 1
            local = offered[asked[self] - 1]
        return choose(self, alg_type, local, remote)

    monkeypatch.setattr(SSHServerConnection, "send_packet", lopsided)
    monkeypatch.setattr(SSHServerConnection, "_choose_alg", take_turns)
    async with without_strict_exchange(tmp_path / "bastion", monkeypatch) as bastion:
        error = await refused(options(bastion))
    assert (error.reason, error.fatal) == (FailureReason.PROTOCOL, True)
    assert "negotiated chacha20-poly1305@openssh.com without strict key exchange" in error.detail
    assert LoginCounter.logins == 0
