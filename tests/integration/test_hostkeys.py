"""Tests which host keys an SSH tunnel trusts: key types, fingerprints, certificates, names and addresses."""

import asyncio
import base64
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest
from asyncssh.public_key import SSHLocalKeyPair

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.demo.sshd import Bastion, make_key
from gateway.errors import FailureReason, TunnelError
from gateway.relay.direct_link import DirectLink
from gateway.ssh import known_hosts
from gateway.ssh.host_keys import load_trusted_host_keys
from gateway.ssh.options import SshOptions
from gateway.ssh.pool import SshConnectionPool
from gateway.tunnels.ssh import SshTunnel
from tests.support.host_keys import public, sshd_with, trusting
from tests.support.lateness import Lateness
from tests.support.requirements import need_sshd
from tests.support.ssh_sessions import opened, options, refused

pytestmark = pytest.mark.integration

KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")


class Counting(DirectLink):
    """A link that counts the connections that it opens."""

    opened = 0

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        self.opened += 1
        return await super().socket(to, phases)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bastion]:
    """An sshd with the host key types of Debian's default configuration."""
    with sshd_with(tmp_path_factory.mktemp("keys") / "usual", *KINDS) as server:
        yield server


def fingerprint(server: Bastion, kind: str) -> str:
    return asyncssh.import_public_key(public(server, kind)).get_fingerprint()


def kind_of(link: SshConnectionPool) -> str:
    key = link._connections[0]._conn.get_server_host_key()
    assert key is not None
    return key.get_algorithm()


@pytest.mark.parametrize("form", ["key", "fingerprint", "known_hosts"])
@pytest.mark.parametrize("kind", KINDS)
async def test_trust_in_any_host_key_of_the_server_is_sufficient(usual: Bastion, kind: str, form: str) -> None:
    match form:
        case "key":
            chosen = trusting(usual, public(usual, kind))
        case "fingerprint":
            chosen = trusting(usual, fingerprint(usual, kind))
        case _:
            chosen = trusting(usual, listed=f"[127.0.0.1]:{usual.port} {public(usual, kind)}\n")
    async with opened(chosen) as link:
        assert kind_of(link) == kind


async def test_the_key_type_of_a_fingerprint_is_searched_once(usual: Bastion) -> None:
    """A fingerprint has no key type, so the gateway tries one type per connection, and remembers the match."""
    tunnel = SshTunnel(trusting(usual, fingerprint(usual, "ssh-rsa")))
    via = Counting()
    async with tunnel.open(via, lambda *_: None):
        assert via.opened == len(KINDS)
    async with tunnel.open(via, lambda *_: None) as open_tunnel:
        assert via.opened == len(KINDS) + 1
        assert isinstance(open_tunnel.link, SshConnectionPool)
        assert kind_of(open_tunnel.link) == "ssh-rsa"


async def test_an_unknown_fingerprint_costs_one_connection_per_key_type(usual: Bastion) -> None:
    via = Counting()
    with pytest.raises(TunnelError) as caught:
        async with opened(trusting(usual, "SHA256:" + "A" * 43), via):
            """This block does not run, because the tunnel does not open."""
    assert (caught.value.reason, caught.value.fatal) == (FailureReason.HOST_KEY, True)
    assert via.opened == len(KINDS)
    for kind in KINDS:
        assert f"{kind} {fingerprint(usual, kind)}" in caught.value.detail


async def test_an_untrusted_key_costs_one_connection(usual: Bastion, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    via = Counting()
    with pytest.raises(TunnelError) as caught:
        async with opened(trusting(usual, (tmp_path / "other.pub").read_text()), via):
            """This block does not run, because the tunnel does not open."""
    assert via.opened == 1
    assert f"the server offers ssh-ed25519 {fingerprint(usual, 'ssh-ed25519')})" in caught.value.detail


async def test_pinned_keys_and_known_hosts_are_combined(tmp_path: Path) -> None:
    """Two servers share a host name. One server has the pinned key, and the other has the key in known_hosts."""
    with sshd_with(tmp_path / "a", "ssh-rsa") as one, sshd_with(tmp_path / "b", "ecdsa-sha2-nistp256") as other:
        for server, kind in ((one, "ssh-rsa"), (other, "ecdsa-sha2-nistp256")):
            both = trusting(server, public(other, "ecdsa-sha2-nistp256"), listed=f"* {public(one, 'ssh-rsa')}\n")
            async with opened(both) as link:
                assert kind_of(link) == kind
            by_fingerprint = replace(both, host_keys=(fingerprint(other, "ecdsa-sha2-nistp256"),))
            async with opened(by_fingerprint) as link:
                assert kind_of(link) == kind


async def test_keys_of_types_that_are_not_accepted_are_reported_before_connecting(usual: Bastion) -> None:
    only = trusting(usual, public(usual, "ssh-rsa"), host_key_algorithms=("ssh-ed25519",))
    error = await refused(only)
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    assert error.detail == (
        "host_key_algorithms excludes the types of all trusted host keys: add an algorithm for ssh-rsa"
    )


def certify(server: Bastion, authority: Path, *more: str) -> None:
    """Create a certificate for the server's Ed25519 key; the server then presents it on new connections."""
    subprocess.run(
        ["ssh-keygen", "-q", "-s", authority, "-I", "host", "-h", "-n", "127.0.0.1", *more,
         server.folder / "ssh-ed25519.pub"],
        check=True, timeout=10,
    )  # fmt: skip


@pytest.fixture
def certified(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bastion]:
    """An sshd that has only a host certificate.

    The parameters of the fixture are the key type of the CA, and further arguments of `ssh-keygen -s`.
    """
    need_sshd()
    folder = tmp_path / "certified"
    folder.mkdir()
    kind, *more = getattr(request, "param", ["ssh-ed25519"])
    make_key(folder / "authority", kind)
    make_key(folder / "ssh-ed25519")
    server = Bastion(
        folder,
        extra=f"HostKey {folder}/ssh-ed25519\nHostCertificate {folder}/ssh-ed25519-cert.pub\n"
        "HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com\n",
    )
    config = folder / "sshd_config"
    config.write_text(config.read_text().replace(f"HostKey {folder}/host_key\n", ""))
    certify(server, folder / "authority", *more)
    server.start()
    yield server
    server.stop()


EXPIRED = ["ssh-ed25519", "-V", "20200101:20200201"]


@pytest.mark.parametrize("certified", [["ssh-ed25519"], EXPIRED], indirect=True, ids=["valid", "expired"])
@pytest.mark.parametrize("form", ["key", "fingerprint", "known_hosts", "known_hosts and another authority"])
async def test_a_certificate_is_accepted_if_its_key_is_trusted(certified: Bastion, tmp_path: Path, form: str) -> None:
    """Like OpenSSH, the gateway accepts an expired certificate if the key in the certificate is trusted."""
    key = public(certified, "ssh-ed25519")
    match form:
        case "key":
            chosen = trusting(certified, key)
        case "fingerprint":
            chosen = trusting(certified, fingerprint(certified, "ssh-ed25519"))
        case "known_hosts":
            chosen = trusting(certified, listed=f"* {key}\n")
        case _:
            make_key(tmp_path / "other")
            other = (tmp_path / "other.pub").read_text()
            chosen = trusting(certified, listed=f"* {key}\n@cert-authority * {other}\n")
    async with opened(chosen) as link:
        assert kind_of(link) == "ssh-ed25519"


@pytest.mark.parametrize("whose", ["ssh-ed25519", "authority"])
async def test_a_revoked_key_is_refused_in_a_certificate_too(certified: Bastion, whose: str) -> None:
    chosen = trusting(certified, public(certified, "ssh-ed25519"), listed=f"@revoked * {public(certified, whose)}\n")
    error = await refused(chosen)
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    assert "revoked" in error.detail


@pytest.mark.parametrize("certified", [EXPIRED], indirect=True)
async def test_an_expired_certificate_is_not_trusted_through_its_authority(certified: Bastion) -> None:
    error = await refused(trusting(certified, listed=f"@cert-authority * {public(certified, 'authority')}\n"))
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    assert "expired" in error.detail
    assert fingerprint(certified, "ssh-ed25519") in error.detail


@pytest.mark.parametrize("certified", [["ssh-rsa", "-t", "ssh-rsa"]], indirect=True)
async def test_an_authority_that_signs_with_sha1_is_trusted_only_if_configured(certified: Bastion) -> None:
    chosen = trusting(certified, listed=f"@cert-authority * {public(certified, 'authority')}\n")
    error = await refused(chosen)
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    assert "signed with ssh-rsa" in error.detail
    async with opened(replace(chosen, host_key_algorithms=(*chosen.host_key_algorithms, "ssh-rsa"))):
        """The tunnel opens if the operator has permitted ssh-rsa."""


async def test_an_authority_comes_before_plain_keys(tmp_path: Path) -> None:
    """If the tunnel trusts the certificate authority, the gateway requests a certificate, otherwise a plain key."""
    make_key(tmp_path / "authority")
    server = Bastion(tmp_path / "both", host_ca=tmp_path / "authority").start()
    try:
        key = (server.folder / "host_key.pub").read_text()
        authority = (tmp_path / "authority.pub").read_text()
        for listed, algorithm in (
            (f"@cert-authority * {authority}", "ssh-ed25519-cert-v01@openssh.com"),
            (f"* {key}@cert-authority * {authority}", "ssh-ed25519-cert-v01@openssh.com"),
            (f"* {key}", "ssh-ed25519"),
        ):
            async with opened(trusting(server, listed=listed)) as link:
                assert link._connections[0]._conn._host_key_algorithm == algorithm  # type: ignore[attr-defined]
    finally:
        server.stop()


@pytest.mark.parametrize("where", ["127.0.0.1", "[127.0.0.1]:{port}", "127.0.0.0/8"])
async def test_a_key_listed_for_an_address_is_not_trusted_for_a_name_of_that_address(
    usual: Bastion, where: str
) -> None:
    """Like OpenSSH without CheckHostIP, the gateway looks up a host name in known_hosts, but not its address."""
    listed = f"{where.format(port=usual.port)} {public(usual, 'ssh-ed25519')}\n"
    async with opened(trusting(usual, listed=listed)):
        """The tunnel opens if its `host` matches the listed address."""
    error = await refused(trusting(usual, listed=listed, host="localhost"))
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    assert "the host key is not known" in error.detail
    assert "ssh-keyscan -p" in error.detail


@pytest.mark.parametrize(
    "where", ["127.0.0.1", "[127.0.0.1]:{port}", "127.0.0.0/8", "localhost", "[localhost]:{port}"]
)
async def test_a_key_that_is_revoked_for_an_address_is_revoked_for_its_names(usual: Bastion, where: str) -> None:
    key = public(usual, "ssh-ed25519")
    listed = f"@revoked {where.format(port=usual.port)} {key}\nlocalhost {key}\n"
    error = await refused(trusting(usual, key, listed=listed, host="localhost"))
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    assert "revoked" in error.detail


@pytest.mark.parametrize("where", ["localhost", "[localhost]:{port}", "LocalHost"])
@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "listed"])
async def test_a_key_is_revoked_in_every_notation_of_its_host(usual: Bastion, where: str, pinned: bool) -> None:
    """Like OpenSSH (match_hostname), the gateway ignores the case of host names."""
    key = public(usual, "ssh-ed25519")
    listed = f"@revoked {where.format(port=usual.port)} {key}\n* {key}\n"
    error = await refused(trusting(usual, *([key] if pinned else []), listed=listed, host="LOCALHOST"))
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    assert "revoked" in error.detail


async def test_a_large_known_hosts_does_not_block_the_event_loop(usual: Bastion, tmp_path: Path) -> None:
    """A lookup takes more than 0.1 s, because known_hosts contains 20,000 hashed names."""
    path = tmp_path / "known_hosts"
    key = public(usual, "ssh-ed25519")
    salt = base64.b64encode(bytes(20)).decode()
    lines = (f"|1|{salt}|{base64.b64encode(number.to_bytes(20)).decode()} {key}" for number in range(20_000))
    path.write_text("\n".join(lines) + f"\n[127.0.0.1]:{usual.port} {key}\n")
    chosen = options(usual, known_hosts=(path,))
    started = time.monotonic()
    load_trusted_host_keys(chosen, "127.0.0.1")
    direct = time.monotonic() - started
    assert direct > 0.1
    for _ in range(5):
        known_hosts._parsed.clear()
        late = await _worst_delay_of_login(chosen)
        if late < direct / 2:
            return
    pytest.fail(f"the event loop was blocked for {late:.3f} s; the lookup takes {direct:.3f} s")


async def _worst_delay_of_login(chosen: SshOptions) -> float:
    """Open a tunnel, and return the longest delay of the event loop in seconds, without delays of the process."""
    worst, done = 0.0, asyncio.Event()

    async def beat() -> None:
        nonlocal worst
        while not done.is_set():
            due = time.monotonic() + 0.005
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - due)

    beating = asyncio.ensure_future(beat())
    with Lateness() as machine:
        async with opened(chosen):
            done.set()
    await beating
    return worst - machine.worst


async def listening(bastion: Bastion, key: asyncssh.SSHKey) -> asyncssh.SSHAcceptor:
    """Start an asyncssh server with the host key `key`, in the process of the test."""
    clients = str(bastion.folder / "authorized_keys")
    return await asyncssh.listen(
        "127.0.0.1", bastion.port, server_factory=asyncssh.SSHServer, server_host_keys=[key],
        authorized_client_keys=clients,
    )  # fmt: skip


async def test_a_server_that_signs_with_another_algorithm_than_agreed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the negotiation of rsa-sha2-512, the gateway rejects a signature with ssh-rsa (RFC 8332, section 3)."""
    key = asyncssh.generate_private_key("ssh-rsa")
    bastion = Bastion(tmp_path / "bastion", embedded=True)
    server = await listening(bastion, key)
    chosen = trusting(bastion, key.export_public_key().decode())
    async with server:
        async with opened(chosen):
            """The tunnel opens if the server signs with the negotiated algorithm."""
        original = SSHLocalKeyPair.sign

        def sign(self: SSHLocalKeyPair, data: bytes) -> bytes:
            return key.sign(data, b"ssh-rsa") if self.key_public_data == key.public_data else original(self, data)

        monkeypatch.setattr(SSHLocalKeyPair, "sign", sign)
        error = await refused(chosen)
        assert (error.reason, error.fatal) == (FailureReason.PROTOCOL, True)
        async with opened(replace(chosen, host_key_algorithms=("ssh-rsa",))):
            """The tunnel opens if both sides have negotiated ssh-rsa."""


async def test_a_server_that_sends_another_kind_of_key_than_agreed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    bastion = Bastion(tmp_path / "bastion", embedded=True)
    server = await listening(bastion, key)
    pins = [each.export_public_key().decode() for each in (key, other)]
    async with server:
        async with opened(trusting(bastion, *pins)):
            """The tunnel opens if the server sends the key of the negotiated type."""
        (theirs,) = asyncssh.public_key.load_keypairs([other])
        monkeypatch.setattr(asyncssh.connection.SSHServerConnection, "get_server_host_key", lambda _: theirs)
        error = await refused(trusting(bastion, *pins))
        assert (error.reason, error.fatal) == (FailureReason.PROTOCOL, True)
        assert "the type of the server's host key does not match the negotiated ssh-ed25519" in error.detail
