"""Tests SSH tunnels to OpenSSH's sshd and to asyncssh's server: host keys, credentials, deadlines, leaks."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest
from asyncssh.connection import SSHConnection

from gateway import _dataplane
from gateway.backends import EmptyOptions
from gateway.backends.tcp import TcpBackend, TcpCheckOptions
from gateway.contracts.config_types import Duration, HostPort
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.contracts.secret import Secret
from gateway.contracts.states import CloseReason, TunnelState
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion, make_key
from gateway.errors import DialError, FailureReason, LinkLostError, TargetPathError, TunnelError
from gateway.health.probe import probe_once
from gateway.metric_types import Histogram
from gateway.relay.direct_link import DirectLink
from gateway.relay.sockets import reset, tune
from gateway.ssh import pool
from gateway.ssh.asyncssh_channel_opener import AsyncsshChannelOpener
from gateway.ssh.options import KeepaliveOptions, PoolOptions
from gateway.ssh.pool_policy import CHANNELS_PER_CONNECTION
from gateway.tunnels.ssh import SshTunnel
from tests.support.lateness import Lateness
from tests.support.requirements import need, need_data_plane, need_sshd
from tests.support.servers import echoing, serving, silent, talking
from tests.support.ssh_sessions import PATIENT, echo_once, opened, options, refused

pytestmark = pytest.mark.integration

HASTY = KeepaliveOptions(interval=Duration(0.1), suspect=Duration(0.5), replace=Duration(0.3), lost=Duration(2.5))


@pytest.fixture(params=["openssh", "asyncssh"])
def bastion(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bastion]:
    need_sshd()
    server = Bastion(tmp_path / "bastion", embedded=request.param == "asyncssh").start()
    yield server
    server.stop()


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Bastion]:
    need_sshd()
    server = Bastion(tmp_path / "bastion").start()
    yield server
    server.stop()


async def test_bytes_and_half_closes_are_forwarded(bastion: Bastion) -> None:
    with serving(echoing) as port:
        async with opened(options(bastion)) as link:
            for size in (1, 1000, 32768, 32769, 3_000_000):
                await echo_once(link, port, os.urandom(size))
            async with asyncio.timeout(15):
                while link.status().channels:
                    await asyncio.sleep(0.01)


async def test_a_chain_of_three_tunnels_works(sshd: Bastion) -> None:
    with serving(echoing) as port:
        async with (
            opened(options(sshd)) as first,
            opened(options(sshd), first) as second,
            opened(options(sshd), second) as third,
        ):
            await echo_once(third, port, os.urandom(300_000))


async def test_a_slow_client_holds_no_more_than_its_window(sshd: Bastion) -> None:
    def flood(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client.sendall(bytes(65536))

    with serving(flood) as port:
        async with opened(options(sshd)) as link:
            ours, theirs = socket.socketpair()
            tune(ours)
            tune(theirs)
            relay = await link.join(theirs, HostPort("127.0.0.1", port), Histogram())
            first = 0
            async with asyncio.timeout(20):
                while first == 0 or relay.from_backend != first:
                    first = relay.from_backend
                    await asyncio.sleep(0.5)
            assert 0 < first < 8 << 20
            relay.abort(CloseReason.ABORTED)
            ours.close()


async def test_the_pool_grows_with_its_channels_and_never_beyond_max(sshd: Bastion) -> None:
    with serving(silent) as port:
        async with opened(options(sshd, connections=PoolOptions(min=1, max=2))) as link:
            held = [await link.socket(HostPort("127.0.0.1", port)) for _ in range(CHANNELS_PER_CONNECTION + 6)]
            async with asyncio.timeout(15):
                while link.status().connections != 2:
                    await asyncio.sleep(0.05)
            held += [await link.socket(HostPort("127.0.0.1", port)) for _ in range(CHANNELS_PER_CONNECTION + 6)]
            loads = [session.load for session in link._connections]
            assert sum(loads) == len(held)
            assert max(loads) - min(loads) <= 1
            assert len(sshd.sessions()) == 2
            for sock in held:
                sock.close()


async def test_the_threads_share_the_connections_of_a_tunnel_evenly(
    sshd: Bastion, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_data_plane()
    monkeypatch.setattr(_dataplane.settings, "threads", 2)
    pool_options = options(sshd, connections=PoolOptions(min=4, max=4))
    async with opened(options(sshd, connections=PoolOptions(min=1, max=1))), opened(pool_options) as link:
        async with asyncio.timeout(60):
            while link.status().connections != 4:
                await asyncio.sleep(0.05)
        runners = Counter(each.runner for each in link._connections)
        assert sorted(runners.values()) == [2, 2]
        assert None not in runners


async def test_a_pool_that_loses_one_connection_keeps_its_clients_on_the_other(sshd: Bastion) -> None:
    with serving(echoing) as port:
        async with opened(options(sshd, connections=PoolOptions(min=2, max=2))) as link:
            async with asyncio.timeout(15):
                while link.status().connections != 2:
                    await asyncio.sleep(0.02)
            os.kill(sshd.sessions()[0], signal.SIGKILL)
            for _ in range(20):
                with contextlib.suppress(LinkLostError):
                    await echo_once(link, port)
                    break
                await asyncio.sleep(0.02)
            async with asyncio.timeout(15):
                while link.status().connections != 2:
                    await asyncio.sleep(0.02)
            await echo_once(link, port)


class Mute(asyncssh.SSHServer):
    """An SSH server that accepts every login, and never responds to channel requests."""

    async def connection_requested(self, *_: object) -> bool:  # type: ignore[override]
        await asyncio.Event().wait()
        return False


async def test_a_server_that_forbids_forwarding_is_reported(sshd: Bastion) -> None:
    server = await asyncssh.create_server(
        Mute, "127.0.0.1", 0, server_host_keys=[str(sshd.folder / "host_key")],
        authorized_client_keys=str(sshd.folder / "authorized_keys"),
    )  # fmt: skip
    tcp = TcpBackend(EmptyOptions(), TcpCheckOptions())
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with opened(options(sshd, port=port, known_hosts=(), insecure_host_key=True)) as link:
            result = await probe_once(tcp, link, HostPort("127.0.0.1", 9), 0.5)
            assert result.reason is FailureReason.TIMEOUT
            assert result.detail.endswith(pool._NO_ANSWER_HINT)
    async with opened(options(sshd)) as link:
        closed = HostPort("127.0.0.1", free_port())
        assert (await probe_once(tcp, link, closed, 10)).reason is FailureReason.REFUSED
        # The server has already replied to a CHANNEL_OPEN, so the error contains no hint about forwarding.
        with frozen(sshd):
            result = await probe_once(tcp, link, closed, 0.5)
        assert result.detail == "no response within 0.5 s in the phase channel (completed: nothing)"


async def test_a_wrong_host_key_is_fatal_and_the_error_shows_the_offered_key(bastion: Bastion) -> None:
    make_key(bastion.folder / "other")
    other = (bastion.folder / "other.pub").read_text()
    bastion.known_hosts.write_text(f"[127.0.0.1]:{bastion.port} {other}")
    error = await refused(options(bastion))
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    assert "ssh-ed25519 SHA256:" in error.detail


async def test_without_trusted_keys_the_tunnel_fails_before_connecting(sshd: Bastion) -> None:
    error = await refused(options(sshd, known_hosts=()))
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    assert "set known_hosts or host_keys" in error.detail


async def test_an_unreadable_known_hosts_is_refused(sshd: Bastion) -> None:
    error = await refused(options(sshd, known_hosts=(Path("/nonexistent"),)))
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)


async def test_an_invalid_line_of_known_hosts_is_reported(sshd: Bastion) -> None:
    """The gateway must report an invalid line of known_hosts, because this line could revoke a key."""
    sshd.known_hosts.write_text(f"# ours\n{sshd.known_hosts.read_text()}garbage\n")
    error = await refused(options(sshd))
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)
    number = len(sshd.known_hosts.read_text().splitlines())
    assert error.detail.startswith(f"{sshd.known_hosts}:{number}: not a valid known_hosts line")
    assert "garbage" not in error.detail


@pytest.mark.parametrize(
    "line", ["@revoked * ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "@revoked *", "@trusted * ssh-rsa AAAA"]
)
async def test_an_invalid_revocation_line_is_an_error(sshd: Bastion, line: str) -> None:
    sshd.known_hosts.write_text(f"{line}\n{sshd.known_hosts.read_text()}")
    error = await refused(options(sshd))
    assert error.detail.startswith(f"{sshd.known_hosts}:1: not a valid known_hosts line")


async def test_a_key_of_an_unknown_type_is_ignored(sshd: Bastion) -> None:
    sshd.known_hosts.write_text(f"other ssh-new AAAA\n\n# ours\n{sshd.known_hosts.read_text()}")
    async with opened(options(sshd)):
        """The login succeeds, because another line of known_hosts contains the server's key."""


async def test_a_file_without_a_certificate_is_reported(sshd: Bastion) -> None:
    error = await refused(options(sshd, certificate_files=(sshd.client_key,)))
    assert (error.reason, error.fatal) == (FailureReason.AUTH, True)
    assert str(sshd.client_key) in error.detail


async def test_a_secret_that_is_not_text_is_an_error(sshd: Bastion, tmp_path: Path) -> None:
    binary = tmp_path / "passphrase"
    binary.write_bytes(b"\xff\xfe")
    error = await refused(options(sshd, passphrase=Secret(path=binary)))
    problem = f"passphrase_file: {binary}: not valid UTF-8 text: correct the file or its path"
    assert (error.reason, error.detail) == (FailureReason.AUTH, problem)


@pytest.mark.parametrize("form", ["key", "fingerprint"])
async def test_only_the_pinned_host_key_is_trusted(sshd: Bastion, form: str) -> None:
    public = sshd.folder / "host_key.pub"
    printed = subprocess.run(  # noqa: ASYNC221
        ["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    pin = public.read_text().strip() if form == "key" else printed.split()[1]
    async with opened(options(sshd, known_hosts=(), host_keys=(pin,))):
        pass
    make_key(sshd.folder / "other")
    wrong = (sshd.folder / "other.pub").read_text().strip()
    assert (await refused(options(sshd, known_hosts=(), host_keys=(wrong,)))).reason is FailureReason.HOST_KEY


async def test_a_host_certificate_of_a_trusted_authority(tmp_path: Path) -> None:
    need_sshd()
    make_key(tmp_path / "ca")
    server = Bastion(tmp_path / "bastion", host_ca=tmp_path / "ca").start()
    try:
        assert "@cert-authority" in server.known_hosts.read_text()
        async with opened(options(server)):
            pass
        make_key(tmp_path / "other_ca")
        authority = (tmp_path / "other_ca.pub").read_text()
        server.known_hosts.write_text(f"@cert-authority [127.0.0.1]:{server.port} {authority}")
        assert (await refused(options(server))).reason is FailureReason.HOST_KEY
    finally:
        server.stop()


async def test_a_revoked_key_is_refused_even_when_it_is_pinned(sshd: Bastion) -> None:
    public = (sshd.folder / "host_key.pub").read_text()
    sshd.known_hosts.write_text(f"@revoked [127.0.0.1]:{sshd.port} {public}")
    error = await refused(options(sshd, host_keys=(public.strip(),)))
    assert (error.reason, error.fatal) == (FailureReason.HOST_KEY, True)


async def test_insecure_host_key_accepts_any_key_only_if_configured(sshd: Bastion) -> None:
    async with opened(options(sshd, known_hosts=(), insecure_host_key=True)):
        pass


async def test_each_hop_uses_its_own_keys(sshd: Bastion, tmp_path: Path) -> None:
    inner = Bastion(tmp_path / "inner").start()
    try:
        async with opened(options(sshd)) as outer:
            async with opened(options(inner), outer):
                pass
            with pytest.raises(TunnelError) as caught:
                async with opened(options(inner, known_hosts=(sshd.known_hosts,)), outer):
                    pass
            assert caught.value.reason is FailureReason.HOST_KEY
    finally:
        inner.stop()


async def test_a_refused_login_is_fatal(bastion: Bastion) -> None:
    bastion.authorize()
    make_key(bastion.folder / "stranger")
    error = await refused(options(bastion, identity_files=(bastion.folder / "stranger",)))
    assert (error.reason, error.fatal) == (FailureReason.AUTH, True)


async def test_a_key_that_others_can_read_is_refused_with_advice(sshd: Bastion) -> None:
    sshd.client_key.chmod(0o644)
    error = await refused(options(sshd))
    assert (error.reason, error.fatal) == (FailureReason.AUTH, True)
    assert f"chmod 600 {sshd.client_key}" in error.detail


@pytest.mark.parametrize(("passphrase", "message"), [(None, "passphrase_file"), ("wrong", "cannot be decrypted")])
async def test_an_encrypted_key_and_its_passphrase(sshd: Bastion, passphrase: str | None, message: str) -> None:
    make_key(sshd.client_key, "ssh-ed25519", "open sesame")
    sshd.authorize()
    async with opened(options(sshd, passphrase=Secret("open sesame"))):
        pass
    error = await refused(options(sshd, passphrase=Secret(passphrase) if passphrase else None))
    assert (error.reason, error.fatal) == (FailureReason.AUTH, True)
    assert message in error.detail


async def test_a_login_with_a_user_certificate(sshd: Bastion) -> None:
    make_key(sshd.folder / "user_ca")
    authority = (sshd.folder / "user_ca.pub").read_text()
    (sshd.folder / "authorized_keys").write_text(f"cert-authority {authority}")
    assert (await refused(options(sshd))).reason is FailureReason.AUTH
    subprocess.run(  # noqa: ASYNC221
        ["ssh-keygen", "-q", "-s", str(sshd.folder / "user_ca"), "-I", "gateway", "-n", sshd.user, "-V", "+1h",
         str(sshd.client_key.with_suffix(".pub"))],
        check=True, timeout=10,
    )  # fmt: skip
    certificate = sshd.folder / "client_key-cert.pub"
    async with opened(options(sshd)):  # the gateway finds the certificate in the directory of the key
        pass
    certificate.rename(sshd.folder / "elsewhere.pub")
    async with opened(options(sshd, certificate_files=(sshd.folder / "elsewhere.pub",))):
        pass


async def test_a_login_with_a_key_of_an_ssh_agent(sshd: Bastion, tmp_path: Path) -> None:
    need(find("ssh-agent") is not None, "ssh-agent (package openssh-client)")
    path = tmp_path / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as agent:  # noqa: ASYNC220
        try:
            while not path.exists():
                await asyncio.sleep(0.01)
            environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
            subprocess.run(["ssh-add", "-q", sshd.client_key], env=environment, check=True, timeout=10)  # noqa: ASYNC221
            async with opened(options(sshd, identity_files=(), agent=path)):
                pass
        finally:
            agent.kill()


async def test_chacha_is_refused_from_a_server_without_strict_key_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bastion = Bastion(tmp_path / "bastion", embedded=True)
    folder = tmp_path / "bastion"

    monkeypatch.setattr(SSHConnection, "_get_extra_kex_algs", lambda _: [])
    server = await asyncssh.listen(
        "127.0.0.1",
        bastion.port,
        server_factory=asyncssh.SSHServer,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"),
    )
    async with server:
        async with opened(options(bastion, ciphers=("aes128-gcm@openssh.com",))):
            pass
        error = await refused(options(bastion, ciphers=("chacha20-poly1305@openssh.com",)))
        assert (error.reason, error.fatal) == (FailureReason.PROTOCOL, True)
        assert "without strict key exchange" in error.detail


async def test_refused_silent_and_foreign_servers_have_their_reasons(sshd: Bastion) -> None:
    error = await refused(options(sshd, port=free_port()))
    assert (error.reason, error.fatal) == (FailureReason.REFUSED, False)
    for behavior, reasons in (
        (silent, {FailureReason.TIMEOUT}),
        (talking(b"HTTP/1.1 400\r\n\r\n"), {FailureReason.TIMEOUT, FailureReason.PROTOCOL}),
    ):
        with serving(behavior) as port:
            started = time.monotonic()
            error = await refused(options(sshd, port=port, login_timeout=Duration(0.5)))
            assert time.monotonic() - started < 10  # the default of `login_timeout` is 15 s
            assert error.reason in reasons


async def test_prohibited_refused_and_unknown_targets_have_their_reasons(tmp_path: Path) -> None:
    need_sshd()
    with serving(echoing) as port:
        closed = free_port()
        permits = f'permitopen="127.0.0.1:{port}",permitopen="127.0.0.1:{closed}",permitopen="no-such-host.invalid:1"'
        server = Bastion(tmp_path / "bastion", restrict=f"restrict,port-forwarding,{permits}").start()
        try:
            async with opened(options(server)) as link:
                await echo_once(link, port)
                for to, reason in (
                    (HostPort("127.0.0.1", closed), FailureReason.REFUSED),
                    (HostPort("localhost", port), FailureReason.CHANNEL_PROHIBITED),
                    (HostPort("no-such-host.invalid", 1), FailureReason.DNS),
                ):
                    with pytest.raises(DialError) as caught:
                        await link.socket(to)
                    assert caught.value.reason is reason, caught.value.detail
        finally:
            server.stop()


async def test_a_frozen_bastion_costs_a_dial_its_deadline_and_leaks_no_channel(sshd: Bastion) -> None:
    """If a cancelled channel request succeeds later, the gateway must close the channel (asyncssh #823)."""
    with serving(echoing) as port:
        slow = options(sshd, dial_timeout=Duration(1.5), keepalive=PATIENT)
        async with opened(slow) as link:
            sshd.kill_sessions(signal.SIGSTOP)
            late = asyncio.ensure_future(link.socket(HostPort("127.0.0.1", port)))
            given_up = asyncio.ensure_future(link.socket(HostPort("127.0.0.1", port)))
            await asyncio.sleep(0.1)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            with pytest.raises(DialError) as caught:
                await late
            assert caught.value.reason is FailureReason.TIMEOUT
            assert link.status().channels == 2
            sshd.kill_sessions(signal.SIGCONT)
            async with asyncio.timeout(15):
                while link.status().channels:
                    await asyncio.sleep(0.02)
            conn = link._connections[0]._conn
            async with asyncio.timeout(15):
                while conn._channels:
                    await asyncio.sleep(0.02)
            await echo_once(link, port)


@pytest.mark.parametrize("cipher", ["chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com"])
async def test_a_slow_client_gets_all_data_sent_before_the_end(sshd: Bastion, cipher: str) -> None:
    """The gateway sends the client all data, and then closes the connection without a reset.

    If a channel closes before asyncssh has delivered the EOF to the gateway, asyncssh discards the EOF.
    """
    answer = bytes(range(256)) * 6000

    def answering(client: socket.socket) -> None:
        while client.recv(4096):
            pass
        client.sendall(answer)

    with serving(answering) as port, socket.create_server(("127.0.0.1", 0)) as door:
        async with opened(options(sshd, ciphers=(cipher,))) as link:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                client.connect(door.getsockname())
                theirs, _ = door.accept()
                theirs.setblocking(False)
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                relay = await link.join(theirs, HostPort("127.0.0.1", port), Histogram())
                client.sendall(b"ask")
                client.shutdown(socket.SHUT_WR)
                await asyncio.sleep(1)  # the channel closes while most data is still buffered
                client.setblocking(False)
                got = bytearray()
                async with asyncio.timeout(20):
                    while data := await asyncio.get_running_loop().sock_recv(client, 65536):
                        got += data
                    assert await relay.ended is CloseReason.FINISHED
                assert got == answer


@pytest.mark.parametrize("complete", [True, False])
async def test_complete_responses_outlive_the_ssh_connection_and_incomplete_ones_are_reset(*, complete: bool) -> None:
    """The client is slow, so the gateway still buffers a part of the response when the SSH connection closes."""
    answer = bytes(1_500_000)
    conns: list[asyncssh.SSHServerConnection] = []

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            conns.append(conn)

        def begin_auth(self, username: str) -> bool:
            return False

        def connection_requested(self, *_: object) -> bool:
            return True

    def answering(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(answer)
        if complete:
            client.shutdown(socket.SHUT_WR)
        client.recv(1)

    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=[key])
    connected = await asyncssh.connect("127.0.0.1", server.sockets[0].getsockname()[1], known_hosts=None, config=None,
                                       client_keys=None, username="u")  # fmt: skip
    try:
        with serving(answering) as port, socket.create_server(("127.0.0.1", 0)) as door, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.connect(door.getsockname())
            theirs, _ = door.accept()
            theirs.setblocking(False)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            relay = await AsyncsshChannelOpener(connected).open(HostPort("127.0.0.1", port), Histogram(), 5)
            relay.attach(theirs)
            client.sendall(b"ask")
            async with asyncio.timeout(10):
                while not (relay._backend_eof if complete else relay.buffered + relay.from_backend == len(answer)):
                    await asyncio.sleep(0.02)
            conns[0].abort()
            client.setblocking(False)
            got = 0
            with contextlib.nullcontext() if complete else pytest.raises(ConnectionResetError):
                async with asyncio.timeout(10):
                    while piece := await asyncio.get_running_loop().sock_recv(client, 65536):
                        got += len(piece)
            assert await relay.ended is CloseReason.LINK_LOST
            assert got == len(answer) if complete else got < len(answer)
    finally:
        connected.abort()
        server.close()


async def test_an_open_that_is_cancelled_as_it_completes_leaks_no_channel(sshd: Bastion) -> None:
    with serving(echoing) as port:
        async with opened(options(sshd, data_plane="asyncssh")) as link:
            session = link._connections[0]
            channels = session._opener
            assert isinstance(channels, AsyncsshChannelOpener)
            opening = asyncio.ensure_future(channels.open(HostPort("127.0.0.1", port), Histogram(), 5))
            while not channels._opening:
                await asyncio.sleep(0)
            (inner,) = channels._opening
            inner.add_done_callback(lambda _: opening.cancel())
            with pytest.raises(asyncio.CancelledError):
                await opening
            async with asyncio.timeout(15):
                while session._conn._channels:
                    await asyncio.sleep(0.02)


async def test_a_closed_ssh_connection_is_not_a_failure_of_the_target(sshd: Bastion) -> None:
    async with opened(options(sshd)) as link:
        session = link._connections[0]
        client, theirs = socket.socketpair()
        with client, theirs:
            session._conn.own_transport._close(None)  # type: ignore[attr-defined]
            assert not session.alive
            with pytest.raises(LinkLostError):
                await session.join(theirs, HostPort("127.0.0.1", 9), Histogram(), 5)


async def test_a_frozen_connection_is_replaced_and_its_clients_are_reset(sshd: Bastion) -> None:
    with serving(echoing) as port:
        # The assertions allow 9 s. `lost` is longer, so only `replace` can close the frozen connection in time.
        keepalive = replace(HASTY, replace=Duration(1.0), lost=Duration(10.0))
        async with opened(options(sshd, keepalive=keepalive)) as link:
            held = await link.socket(HostPort("127.0.0.1", port))
            silent_one = link._connections[0]
            started = time.monotonic()
            sshd.kill_sessions(signal.SIGSTOP)
            await echo_once(link, port)  # the dial moves from the frozen connection to a new connection
            assert 0.3 < time.monotonic() - started < 9
            with held:
                assert await asyncio.get_running_loop().sock_recv(held, 10) == b""
            assert 1.0 < time.monotonic() - started < 9
            assert not silent_one.alive
            assert link.status().connections
            sshd.kill_sessions(signal.SIGCONT)


async def test_a_dial_moves_from_a_frozen_connection_immediately(
    sshd: Bastion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_TICK_SECONDS", 60.0)  # prevent periodic checks of the connections
    with serving(echoing) as port:
        patient = options(sshd, connections=PoolOptions(min=2, max=2), keepalive=PATIENT)
        async with opened(patient) as link:
            async with asyncio.timeout(15):
                while link.status().connections != 2:
                    await asyncio.sleep(0.02)
            frozen = sshd.sessions()[0]
            sshd.kill_session(frozen, signal.SIGSTOP)
            try:
                await asyncio.sleep(0.5)
                started = time.monotonic()
                with Lateness() as machine:
                    await asyncio.gather(*(echo_once(link, port) for _ in range(4)))
                assert time.monotonic() - started < 4 + machine.sum
            finally:
                sshd.kill_session(frozen, signal.SIGCONT)


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"])
async def test_abandoned_dials_of_a_check_that_connect_later_are_reported(sshd: Bastion, cipher: str) -> None:
    broken: list[int] = []

    def counting(client: socket.socket) -> None:
        if data := client.recv(100):
            client.sendall(data)
        else:
            broken.append(1)

    reported: list[int] = []
    probe = PhaseTimer(on_abandoned=lambda: reported.append(1))
    with serving(counting) as port:
        to = HostPort("127.0.0.1", port)
        two = options(sshd, connections=PoolOptions(2, 2), keepalive=replace(PATIENT, interval=Duration(2.0)),
                      ciphers=(cipher,))  # fmt: skip
        async with opened(two) as link:
            async with asyncio.timeout(15):
                while link.status().connections != 2:
                    await asyncio.sleep(0.02)
            frozen_one = sshd.sessions()[0]
            sshd.kill_session(frozen_one, signal.SIGSTOP)
            try:
                socks = await asyncio.gather(*(link.socket(to, probe) for _ in range(10)))
            finally:
                sshd.kill_session(frozen_one, signal.SIGCONT)
            moved_on = len(reported)
            assert 3 <= moved_on <= 7  # about half of the channel requests were first sent on the frozen connection
            for sock in socks:
                with sock:
                    await asyncio.get_running_loop().sock_sendall(sock, b"x")
                    assert await asyncio.get_running_loop().sock_recv(sock, 1) == b"x"
            with frozen(sshd):
                checks = [asyncio.ensure_future(link.socket(to, probe)) for _ in range(4)]
                await asyncio.wait(checks, timeout=0.1)
                for check in checks:
                    check.cancel()
                await asyncio.wait(checks)
            assert len(reported) >= moved_on + 4
            async with asyncio.timeout(15):
                while len(broken) < len(reported) or link.status().channels:
                    await asyncio.sleep(0.02)
            await echo_once(link, port)
            assert len(broken) == len(reported)


async def test_a_dial_that_is_under_way_when_its_connection_ends_is_reported(sshd: Bastion) -> None:
    reported: list[int] = []
    async with opened(options(sshd, keepalive=PATIENT)) as link:
        with frozen(sshd):
            check = asyncio.ensure_future(
                link.socket(HostPort("127.0.0.1", 9), PhaseTimer(on_abandoned=lambda: reported.append(1)))
            )
            await asyncio.sleep(0.1)
            link._connections[0].abort("it is enough")
            with pytest.raises(LinkLostError):
                await check
            assert reported == [1]
            with pytest.raises(LinkLostError):
                await link.socket(HostPort("127.0.0.1", 9), PhaseTimer(on_abandoned=lambda: reported.append(1)))
            assert reported == [1]  # the connection had ended, so the second call started no dial


async def test_a_stall_of_the_whole_path_closes_no_connection(sshd: Bastion) -> None:
    states: list[TunnelState] = []
    loop = asyncio.get_running_loop()
    tunnel = SshTunnel(options(sshd, keepalive=replace(HASTY, lost=Duration(30.0))))
    with serving(echoing) as port:
        async with tunnel.open(DirectLink(), lambda state, *_: states.append(state)) as open_tunnel:
            link = open_tunnel.link
            tunnel._options = replace(tunnel._options, login_timeout=Duration(0.4))  # applies only to later logins
            held = await link.socket(HostPort("127.0.0.1", port))
            with frozen(sshd):
                async with asyncio.timeout(15):
                    while states[-1:] != [TunnelState.SUSPECT]:
                        await asyncio.sleep(0.02)
                # A silent connection closes after 0.8 s (`suspect` plus `replace`) only if other connections receive
                # data. Here, all connections are silent.
                await asyncio.sleep(1.0)
                with pytest.raises(LinkLostError):
                    await link.socket(HostPort("127.0.0.1", port))
                await loop.sock_sendall(held, b"still there?")
            with held:
                async with asyncio.timeout(15):
                    assert await loop.sock_recv(held, 100) == b"still there?"
            async with asyncio.timeout(15):
                while states[-1:] != [TunnelState.UP]:
                    await asyncio.sleep(0.02)
            await echo_once(link, port)


async def test_a_path_that_stays_silent_is_closed(sshd: Bastion) -> None:
    tunnel = SshTunnel(options(sshd, keepalive=HASTY))
    async with tunnel.open(DirectLink(), lambda *_: None) as open_tunnel:
        link = open_tunnel.link
        tunnel._options = replace(tunnel._options, login_timeout=Duration(0.4))  # applies only to later logins
        started = time.monotonic()
        with frozen(sshd):
            async with asyncio.timeout(20):
                assert "silent for" in (await link.lost()).detail
            # A silent connection closes after 0.8 s (`suspect` plus `replace`) only if other connections receive
            # data. Here, all connections are silent.
            assert time.monotonic() - started > 2.0
            with pytest.raises(TargetPathError):
                await link.socket(HostPort("127.0.0.1", 1))


@pytest.mark.parametrize(("suspect", "lost", "slept"), [(1.5, 1.8, 2.0), (0.5, 0.8, 0.9)])
async def test_a_pause_of_the_gateway_does_not_make_connections_suspect(
    sshd: Bastion, suspect: float, lost: float, slept: float
) -> None:
    keepalive = replace(HASTY, suspect=Duration(suspect), lost=Duration(lost))
    with serving(echoing) as port:
        async with opened(options(sshd, keepalive=keepalive)) as link:
            held = await link.socket(HostPort("127.0.0.1", port))
            time.sleep(slept)  # noqa: ASYNC251 - the test blocks the event loop
            await asyncio.sleep(0.25)
            assert link.status().suspect_connections == 0
            link._options = replace(link._options, keepalive=PATIENT)  # further delays must not close the connection
            loop = asyncio.get_running_loop()
            with held:
                await loop.sock_sendall(held, b"x")
                assert await loop.sock_recv(held, 1) == b"x"


async def test_renewed_credentials_replace_the_connection_and_drain_the_old_one(sshd: Bastion) -> None:
    loop = asyncio.get_running_loop()
    with serving(echoing) as port:
        async with opened(options(sshd)) as link:
            held = await link.socket(HostPort("127.0.0.1", port))
            before = sshd.sessions()
            make_key(sshd.client_key)
            sshd.authorize()
            link.renew()
            async with asyncio.timeout(15):
                while link.status().connections != 2:
                    await asyncio.sleep(0.02)
            await echo_once(link, port)
            assert link.status().draining_connections == 1
            await loop.sock_sendall(held, b"x")
            assert await loop.sock_recv(held, 1) == b"x"
            held.close()
            async with asyncio.timeout(15):
                while set(sshd.sessions()) & set(before):
                    await asyncio.sleep(0.02)
            assert link.status().connections == 1


async def test_a_new_key_that_is_refused_closes_no_connection(sshd: Bastion) -> None:
    with serving(echoing) as port:
        async with opened(options(sshd)) as link:
            make_key(sshd.client_key)
            link.renew()
            async with asyncio.timeout(15):
                while link.status().pool_error is None:
                    await asyncio.sleep(0.02)
            await echo_once(link, port)
            sshd.authorize()
            link.renew()
            async with asyncio.timeout(15):
                while link.status().pool_error or link.status().draining_connections:
                    await asyncio.sleep(0.02)
            await echo_once(link, port)


async def test_an_invalid_known_hosts_resets_no_connected_client(sshd: Bastion) -> None:
    loop = asyncio.get_running_loop()
    good = sshd.known_hosts.read_text()
    with serving(echoing) as port:
        async with opened(options(sshd)) as link:
            held = await link.socket(HostPort("127.0.0.1", port))
            sshd.known_hosts.write_text("garbage\n")
            link.renew()
            async with asyncio.timeout(15):
                while link.status().pool_error is None:
                    await asyncio.sleep(0.02)
            assert f"{sshd.known_hosts}:1:" in str(link.status().pool_error)
            await loop.sock_sendall(held, b"x")
            assert await loop.sock_recv(held, 1) == b"x"
            held.close()
            sshd.known_hosts.write_text(good)
            link.renew()
            async with asyncio.timeout(15):
                while link.status().pool_error or link.status().draining_connections:
                    await asyncio.sleep(0.02)
            await echo_once(link, port)


async def test_a_server_that_refuses_before_the_handshake_has_too_many_connections(tmp_path: Path) -> None:
    with serving(talking(b"Not allowed at this time\r\n", then_close=True)) as port:
        error = await refused(options(sshd_like(tmp_path, port)))
        assert (error.reason, error.fatal) == (FailureReason.TOO_MANY_CONNECTIONS, False)
        assert "Not allowed at this time" in error.detail


async def test_at_most_four_concurrent_handshakes_per_server(tmp_path: Path) -> None:
    now = most = 0

    def count(client: socket.socket) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.1)
        now -= 1

    with serving(count) as port:
        await asyncio.gather(*(refused(options(sshd_like(tmp_path, port))) for _ in range(12)))
    assert most == 4


@contextlib.contextmanager
def frozen(server: Bastion) -> Iterator[None]:
    """Stop all processes of a bastion, including the listener, with SIGSTOP until the block ends."""
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def sshd_like(folder: Path, port: int) -> Bastion:
    """Return a bastion that does not run. The tests need its keys and files; another server listens on `port`."""
    made = Bastion(folder / "bastion")
    made.port = port
    return made


async def test_a_lost_path_resets_the_client_and_never_ends_it_cleanly(sshd: Bastion) -> None:
    with serving(echoing) as port, socket.create_server(("127.0.0.1", 0)) as server:
        async with opened(options(sshd)) as link:
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
            tune(accepted)
            tune(client)
            relay: Relay = await link.join(accepted, HostPort("127.0.0.1", port), Histogram())
            sshd.kill_sessions()
            assert await relay.ended is CloseReason.LINK_LOST
            with client, pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(client, 10)


async def test_ten_thousand_aborted_clients_leak_nothing(sshd: Bastion) -> None:
    """Clients reset their connections while the channel opens, as health checks with a short timeout do."""
    # Start the native engine before the descriptors are counted, because its descriptors stay open.
    async with opened(options(sshd)):
        pass
    before = _descriptors()
    with serving(echoing) as port, socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        server.setblocking(False)
        async with opened(options(sshd, connections=PoolOptions(1, 4))) as link:
            loop = asyncio.get_running_loop()

            async def abort_one(at: int) -> None:
                client = socket.create_connection(server.getsockname())
                accepted, _ = await loop.sock_accept(server)
                tune(accepted)
                joining = asyncio.ensure_future(link.join(accepted, HostPort("127.0.0.1", port), Histogram()))
                if at % 3:
                    await asyncio.sleep(0)
                reset(client)
                if at % 2:
                    joining.cancel()
                try:
                    await (await joining).ended
                except (asyncio.CancelledError, TargetPathError):
                    accepted.close()

            for batch in range(0, 10_000, 100):
                await asyncio.gather(*(abort_one(batch + at) for at in range(100)))
            async with asyncio.timeout(10):
                while link.status().channels or any(session._conn._channels for session in link._connections):
                    await asyncio.sleep(0.05)
            await echo_once(link, port)
            others = [task for task in asyncio.all_tasks() if "join" in repr(task) or "_channel" in repr(task)]
            assert not others
    async with asyncio.timeout(15):
        while _descriptors() > before + 2:
            await asyncio.sleep(0.05)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_the_states_of_an_attempt_are_reported_in_order(sshd: Bastion) -> None:
    states: list[TunnelState] = []
    async with SshTunnel(options(sshd)).open(DirectLink(), lambda state, *_: states.append(state)):
        pass
    assert states == [TunnelState.CONNECTING, TunnelState.AUTHENTICATING]
