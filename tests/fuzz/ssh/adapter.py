"""Creates the two SSH connections that the SSH fuzzer compares.

The native engine handles the channels of the connection `engine`, and asyncssh handles the channels of the connection
`asyncssh`. To save time, `connect` sets the encryption keys directly, instead of through a key exchange and a login.
This module uses internals of the gateway and of asyncssh, so that the other modules in `tests/fuzz/ssh/` need not use
them.
"""

import asyncio
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.connection import SSHClientConnection, SSHClientConnectionOptions
from asyncssh.encryption import get_encryption

import gateway
from gateway._dataplane import is_built
from gateway.relay.event_loop import RelayEventLoop
from gateway.ssh import flow_control
from gateway.ssh.asyncssh_relay import AsyncsshRelay
from gateway.ssh.asyncssh_relay_client_side import AsyncsshRelayClientSide
from gateway.ssh.asyncssh_transport import AsyncsshTransport
from gateway.ssh.channel_interfaces import SshChannel
from gateway.ssh.options import SshOptions
from gateway.ssh.pooled_connection import PooledConnection
from gateway.ssh.ssh_connection import SshConnection
from tests.fuzz.ssh.peer import SERVER_VERSION, SESSION_ID
from tests.fuzz.ssh.pipe import Pipe
from tests.fuzz.ssh.seal import CIPHER, Keys

if is_built():
    from gateway.relay.native_engine_runner import NativeEngineRunner, native_engines
    from gateway.ssh.native_hand_over import hand_over

NAMES = (*(("engine",) if is_built() else ()), "asyncssh")
"""The names of the SSH connections that the fuzzer compares."""
_FAR_AWAY = 1e9
GATEWAY = str(Path(gateway.__file__).parent)
_OPTIONS: SSHClientConnectionOptions | None = None
_SSH = SshOptions(host="127.0.0.1", user="fuzz", insecure_host_key=True)


class Owner(asyncssh.SSHClient):
    """Replaces `HostKeyVerifier`. Accepts every host key, because the fuzzer does not test the SSH handshake.

    `close_error` is the error with which the connection was closed, as in `HostKeyVerifier`.
    """

    close_error: Exception | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.close_error = exc


@contextmanager
def small_windows(size: int) -> Iterator[None]:
    """In the `with` block, set the initial receive window of new channels to `size` bytes.

    Also scale the related limits in proportion to `size`, and make the whole budget for initial windows available.
    """
    flow_control.INITIAL_BUDGET.available = flow_control.INITIAL_BUDGET_BYTES
    names = {"INITIAL_WINDOW": size, "MIN_WINDOW": size // 4, "ADJUST_BYTES": size // 8}
    before = {name: getattr(flow_control, name) for name in names}
    try:
        for name, value in names.items():
            setattr(flow_control, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(flow_control, name, value)


def budget_taken() -> int:
    """Return how many bytes of the memory budgets for receive windows are in use."""
    taken = flow_control.INITIAL_BUDGET_BYTES - flow_control.INITIAL_BUDGET.available
    return taken + (native_engines().grown_bytes if is_built() else 0)


def run_engine_inside(loop: RelayEventLoop) -> None:
    """Run the native engine in the thread of `loop`, so that an input gives the same result in each run."""
    if is_built():
        native_engines().runners.append(NativeEngineRunner(loop, flow_control.GROWTH_BUDGET_BYTES, thread=False))


def registered(loop: RelayEventLoop) -> int:
    """Return the number of file descriptors that relays and SSH connections have registered with the event loop."""
    return len(loop.relays._handlers) - (len(native_engines().runners) if is_built() else 0)


def least() -> int:
    """Return how many bytes a channel is allowed to buffer without using the memory budgets."""
    return flow_control.MIN_WINDOW


async def _options() -> SSHClientConnectionOptions:
    global _OPTIONS  # noqa: PLW0603 - created only once, because its creation is slow
    if _OPTIONS is None:
        _OPTIONS = await SSHClientConnectionOptions.construct(
            None, config=None, host=_SSH.host, port=_SSH.port, username=_SSH.user, client_keys=None, agent_path=None,
            known_hosts=([], [], []), encryption_algs=[CIPHER.decode()], compression_algs=["none"],
            login_timeout=0, keepalive_interval=0, client_factory=Owner, x509_trusted_certs=None,
        )  # fmt: skip
        _OPTIONS.waiter = None
    return _OPTIONS


class Connection:
    """An SSH connection between the gateway and the simulated SSH server.

    Args:
        name: `engine` or `asyncssh`.
        conn: The gateway's asyncssh object for the connection, after the login.
        pipe: The transport that replaces a socket; None if the connection uses a socket.
        sock: The socket of the simulated SSH server; None if the connection uses no socket.
        problems: List to which the connection adds each internal error of the gateway.
    """

    def __init__(
        self,
        name: str,
        conn: SSHClientConnection,
        pipe: Pipe | None,
        sock: socket.socket | None,
        problems: list[str],
    ) -> None:
        self.name = name
        self.conn = conn
        self.pooled = PooledConnection(conn, _SSH)
        self._pipe = pipe
        self._sock = sock
        self._unsent = bytearray()
        original = conn.internal_error

        def internal_error(exc_info: Any = None, error_logger: Any = None) -> None:
            info = exc_info or sys.exc_info()
            frames = traceback.extract_tb(info[2])
            # An error without a stack frame in the gateway only means that asyncssh cannot parse a packet.
            if any(frame.filename.startswith(GATEWAY) for frame in frames):
                problems.append("".join(traceback.format_exception(*info)))
            original(exc_info, error_logger)

        conn.internal_error = internal_error  # type: ignore[method-assign]

    def feed(self, data: bytes) -> None:
        """Send `data` to the gateway."""
        if self._pipe is not None:
            if not self._pipe.closed and self.conn._transport is not None:
                self.conn.data_received(data)
        else:
            self._unsent += data
            self.push()

    def push(self) -> bool:
        """Try again to send the unsent bytes. Return whether the number of unsent bytes has decreased."""
        if not self._unsent or self._sock is None:
            return False
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return False
        except OSError:
            sent = len(self._unsent)
        del self._unsent[:sent]
        return True

    def take(self) -> bytes:
        """Receive bytes from the gateway. Return an empty result if no bytes are available."""
        if self._pipe is not None:
            data = bytes(self._pipe.written)
            self._pipe.written.clear()
            return data
        assert self._sock is not None
        try:
            return self._sock.recv(1 << 16)
        except OSError:
            return b""

    def hang_up(self) -> None:
        """Close the SSH server's end of the connection."""
        if self._pipe is not None:
            if not self._pipe.closed:
                self._pipe.closed = True
                self.conn.connection_lost(None)
        elif self._sock is not None:
            self._sock.close()

    @property
    def dead(self) -> bool:
        """Whether asyncssh has closed the connection."""
        return self.conn._transport is None

    @property
    def forgotten(self) -> bool:
        """Whether the connection has removed all of its channels."""
        transport: Any = self.conn.native_transport if isinstance(self.conn, SshConnection) else None
        return not self.conn._channels and (transport is None or not transport.channel_count)

    def rekey(self) -> None:
        """Make the gateway start a key exchange, as if it had sent many bytes."""
        if isinstance(self.conn, SshConnection) and self.conn.native_transport is not None:
            self.conn.rekey()
        self.conn._rekey_bytes_sent = self.conn._rekey_bytes


async def connect(name: str, *, wired: bool, keys: Keys, narrow: bool, problems: list[str]) -> Connection:
    """Return an SSH connection that is logged in.

    Args:
        name: `engine` or `asyncssh`.
        wired: Whether the connection `asyncssh` uses the gateway's transport, as in production. The connection
            `engine` always uses this transport.
        keys: The encryption keys before the first key exchange.
        narrow: Whether the gateway's socket has a small send buffer.
        problems: See `Connection`.
    """
    options = await _options()
    pipe: Pipe | None = None
    far: socket.socket | None = None
    conn: SSHClientConnection
    if name != "asyncssh" or wired:
        near, far = socket.socketpair()
        for sock in (near, far):
            sock.setblocking(False)
        if narrow:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        conn = extended = SshConnection(options)
        transport = extended.own_transport = AsyncsshTransport(near, extended)
    else:
        pipe = Pipe()
        conn = pipe.conn = SSHClientConnection(asyncio.get_running_loop(), options)
        transport = pipe  # type: ignore[assignment]
    conn.connection_made(transport)
    _log_in(conn, keys)
    if isinstance(conn, SshConnection) and name == "engine":
        await hand_over(conn)
    conn.set_extra_info(verifier=conn._owner)
    made = Connection(name, conn, pipe, far, problems)
    await asyncio.sleep(0)
    made.take()  # Discard the gateway's SSH version string.
    return made


def _log_in(conn: Any, keys: Keys) -> None:
    """Set the state that a connection has after a handshake and a login."""
    conn._server_version = SERVER_VERSION
    conn._session_id = SESSION_ID
    conn._send_encryption = get_encryption(CIPHER, keys.to_server, keys.iv_to_server)
    conn._recv_encryption = get_encryption(CIPHER, keys.to_client, keys.iv_to_client)
    conn._send_enchdrlen, conn._send_blocksize = 1, 16
    conn._recv_blocksize, conn._recv_macsize = 16, 16
    conn._recv_handler = conn._recv_pkthdr
    conn._kex_complete = conn._auth_complete = conn._strict_kex = True
    conn._send_seq = conn._recv_seq = 7
    conn._rekey_time = time.monotonic() + _FAR_AWAY
    conn._wait = None
    conn._send_deferred_packets()  # Notify the gateway's transport that packets can be sent.


def _waiting(relay: object) -> list[Any]:
    """Return the received data that asyncssh buffers because the relay has paused reading."""
    channel = relay._channel if isinstance(relay, AsyncsshRelay) else None
    return [] if channel is None else [data for data, _ in channel._recv_buf]


def holds(relay: SshChannel) -> int:
    """Return the number of received bytes that the gateway buffers for the client."""
    return relay.buffered + sum(map(len, _waiting(relay)))


def costs(relay: SshChannel) -> int:
    """Return how much memory the buffered data uses.

    The first chunk of data does not count, because the gateway can already have sent a part of it.
    """
    if not isinstance(relay, AsyncsshRelayClientSide):
        state: dict[str, int] = relay.inspect()  # type: ignore[attr-defined]
        return state.get("memory", 0)
    chunks = relay._send_buffer._chunks if relay._send_buffer is not None else ()
    return sum(map(sys.getsizeof, [*chunks, *_waiting(relay)][1:]))
