"""Creates SSH channels for the tests of relays, through OpenSSH and through an SSH server in the test process."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import asyncssh
from asyncssh.packet import UInt32

from gateway.connection_tap import Tap
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import Link, Stream
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.relay import Relay
from gateway.demo.sshd import Bastion
from gateway.relay.direct_link import DirectLink
from gateway.ssh import flow_control
from gateway.ssh.channel_interfaces import SshChannel
from gateway.ssh.options import PoolOptions
from gateway.ssh.pool import SshConnectionPool
from tests.support.channel_end import ChannelEnd
from tests.support.ends import End
from tests.support.far_sides import Straight
from tests.support.plans import Setup, Step
from tests.support.relay_adapter import Joined
from tests.support.requirements import need_data_plane
from tests.support.ssh_sessions import PATIENT, opened, options

_CIPHERS: dict[str, str] = {
    "asyncssh": "aes128-gcm@openssh.com",
    "engine": "aes256-gcm@openssh.com",
    "engine with ChaCha20": "chacha20-poly1305@openssh.com",
}


class _SmallBuffers(DirectLink):
    """A direct link whose sockets have small send buffers, which are soon full if the receiver does not read."""

    async def socket(self, to: HostPort, phases: PhaseTimer | None = None) -> Stream:
        made = await super().socket(to, phases)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        return made


class OpenSsh(Straight):
    """Connects clients to the far side through OpenSSH's sshd, which starts a key exchange after each MiB.

    Args:
        folder: The directory for the files of the SSH server.
        channels: A key of `_CIPHERS`, which selects the data plane and the cipher of the SSH connection.
    """

    link_verbs: tuple[str, ...] = ("rekey",)
    kill_verbs: tuple[str, ...] = ("kill",)
    shows_loss = False
    reports_breaks = False
    pace = 0.002
    _via: Link | None = None

    def __init__(self, folder: Path, channels: str) -> None:
        super().__init__(folder)
        self.name = f"{type(self).__name__.lower()}, {channels} channels"
        self._cipher = _CIPHERS[channels]
        self._engine = channels.startswith("engine")
        if self._engine:
            need_data_plane()
        self._bastion = self._make_bastion(folder)
        self._stack = contextlib.AsyncExitStack()
        self._ssh_link: SshConnectionPool
        self._budget = flow_control.INITIAL_BUDGET.available

    def _make_bastion(self, folder: Path) -> Bastion:
        return Bastion(folder, extra="RekeyLimit 1M")

    async def open(self) -> None:
        await asyncio.to_thread(self._bastion.start)
        await self._connect()

    async def close(self) -> None:
        await self._stack.aclose()
        await asyncio.to_thread(self._bastion.stop)
        await super().close()

    async def join(self, setup: Setup, changed: Callable[[], None], tap: Tap | None) -> Joined:
        joined = await super().join(setup, changed, tap)
        # Compare the name: the class `NativeChannel` cannot be imported if the native engine was not built.
        assert type(joined.relay).__name__ == ("NativeChannel" if self._engine else "AsyncsshRelay")
        return joined

    def refresh(self) -> None:
        if self._engine:
            from gateway.relay.native_engine_runner import native_engines  # noqa: PLC0415 - an optional module

            native_engines().handle_records()

    def order(self, step: Step) -> bool:
        if step.verb == "kill":
            return self._bastion.kill_sessions() > 0
        return step.verb == "rekey" and self._alive and _rekey(self._conn)

    async def restore(self, *, reconnect: bool) -> None:
        if not reconnect and self._alive:
            # A response shows that the SSH server has accepted all data before this request. If the server rejects
            # the data, it disconnects instead of responding.
            await self._conn._make_global_request(b"keepalive@openssh.com")
        lost = not self._alive
        if reconnect or lost:
            await self._stack.aclose()
            await self._connect()
        assert reconnect or not lost, (
            f"{self.name}: the SSH connection was lost, and with it every client on the connection"
        )

    def leftovers(self, relay: Relay) -> list[str]:
        left = super().leftovers(relay)
        if self._alive:
            transport = self._conn.own_transport
            left += ["a channel"] if (transport.channel_count if self._engine else self._conn._channels) else []
            left += ["a relay that waits for its turn"] if not self._engine and transport.queue.contended else []
            left += ["a relay in the session"] if self._ssh_link._connections[0]._relays else []
        left += ["held bytes"] if cast("SshChannel", relay).buffered else []
        budget = flow_control.INITIAL_BUDGET.available
        return left + ([f"a budget of {budget}, not {self._budget}"] if budget != self._budget else [])

    async def _connect(self) -> None:
        chosen = options(
            self._bastion, connections=PoolOptions(1, 1), ciphers=(self._cipher,), keepalive=PATIENT,
            data_plane="native" if self._engine else "asyncssh",
        )  # fmt: skip
        self._ssh_link = await self._stack.enter_async_context(opened(chosen, self._via))

    def _link(self, setup: Setup) -> tuple[Link, HostPort]:
        return self._ssh_link, self._far.address(setup)

    @property
    def _alive(self) -> bool:
        return bool(self._ssh_link._connections) and self._ssh_link._connections[0].alive

    @property
    def _conn(self) -> Any:
        """The client's asyncssh object for the SSH connection."""
        return self._ssh_link._connections[0]._conn


def _rekey(conn: Any) -> bool:
    """Start a key exchange; return False if a key exchange is already running, or if the connection is closed."""
    if not conn._kex_complete or conn._transport is None:
        return False
    conn._send_kexinit()
    conn._kexinit_sent = True
    return True


class Scripted(OpenSsh):
    """Connects clients to an SSH server in the test process. The test controls the packets that the server sends.

    The SSH client and the SSH server use the same event loop. If the server sends several packets in one iteration of
    the event loop, the client therefore receives all of them with a single read.
    """

    far_verbs = ChannelEnd.VERBS
    far_last_verbs = ChannelEnd.LAST_VERBS
    link_verbs = ("rekey", "rekey_by_peer", "stall", "unstall")
    kill_verbs = ("kill", "disconnect", "corrupt")
    reports_breaks = True
    pace = 0.0
    _via = _SmallBuffers()
    _server: asyncssh.SSHAcceptor
    _there: Any
    """The server's asyncssh object for the SSH connection."""
    _made: "asyncio.Future[ChannelEnd]"
    _next: tuple[Setup, Callable[[], None]]

    def _make_bastion(self, folder: Path) -> Bastion:
        return Bastion(folder, embedded=True)  # creates the keys; `open` starts the SSH server

    async def open(self) -> None:
        adapter, folder = self, self._bastion.folder

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                adapter._there = conn

            def connection_requested(self, *_: object) -> Any:
                setup, changed = adapter._next
                end = ChannelEnd(changed, adapter._there, setup)
                adapter._made.set_result(end)
                return end, None

        listening = socket.create_server(("127.0.0.1", self._bastion.port))
        # If the server stops reading, this small receive buffer is soon full, and the client must wait.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        self._server = await asyncssh.listen(
            sock=listening,
            server_factory=Server,
            server_host_keys=[str(folder / "host_key")],
            authorized_client_keys=str(folder / "authorized_keys"),
            encryption_algs=[self._cipher],
            kex_algs=["curve25519-sha256"],
        )
        await self._connect()

    async def close(self) -> None:
        await super().close()
        self._server.close()
        await self._server.wait_closed()

    def order(self, step: Step) -> bool:
        transport = self._there._transport
        if transport is None:
            return False
        if step.verb in self.kill_verbs:
            self.order(Step("link", "unstall"))  # a server that does not read cannot detect that the link closes
        match step.verb:
            case "rekey_by_peer":
                return _rekey(self._there)
            case "stall" | "unstall":
                if self.stalled is (step.verb == "stall"):
                    return False
                self.stalled = step.verb == "stall"
                (transport.pause_reading if self.stalled else transport.resume_reading)()
            case "kill":
                self._there.abort()
            case "disconnect":
                self._there.disconnect(asyncssh.DISC_BY_APPLICATION, "enough")
            case "corrupt":
                transport.write(UInt32(32) + os.urandom(64))
            case _:
                return super().order(step)
        return True

    async def _connect(self) -> None:
        await super()._connect()
        self.stalled = False

    def _link(self, setup: Setup) -> tuple[Link, HostPort]:
        return self._ssh_link, HostPort("db", 1)

    async def _far_side(self, setup: Setup, changed: Callable[[], None]) -> End:
        self._next = setup, changed
        self._made = asyncio.get_running_loop().create_future()
        return await self._made
