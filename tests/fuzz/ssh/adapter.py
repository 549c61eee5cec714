"""The only module of the SSH fuzzer that uses internals of the gateway and of asyncssh.

`connect` returns a connection that is already logged in. `connect` sets the keys without a key exchange; therefore,
one execution takes only milliseconds. The engine in C carries the channels of the connection `engine`, and asyncssh
those of the connection `asyncssh`.
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
from gateway.ssh.asyncio_ssh_transport import AsyncioSshTransport
from gateway.ssh.asyncssh_relay import AsyncsshRelay
from gateway.ssh.asyncssh_relay_client_side import AsyncsshRelayClientSide
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
"""The names of the connections."""
_FAR_AWAY = 1e9
GATEWAY = str(Path(gateway.__file__).parent)
_OPTIONS: SSHClientConnectionOptions | None = None
_SSH = SshOptions(host="127.0.0.1", user="fuzz", insecure_host_key=True)


class Owner(asyncssh.SSHClient):
    """Accepts every host key, because the handshake is not fuzzed."""

    close_error: Exception | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.close_error = exc


@contextmanager
def small_windows(size: int) -> Iterator[None]:
    """Reset the budgets, and give each new channel a window of only `size` bytes, which fills quickly."""
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
    """Return the bytes of the process's budgets that channels have taken and not returned."""
    taken = flow_control.INITIAL_BUDGET_BYTES - flow_control.INITIAL_BUDGET.available
    return taken + (native_engines().grown_bytes if is_built() else 0)


def run_engine_inside(loop: RelayEventLoop) -> None:
    """Run the native engine inside `loop` instead of in a thread, so that an execution is deterministic."""
    if is_built():
        native_engines().runners.append(NativeEngineRunner(loop, flow_control.GROWTH_BUDGET_BYTES, thread=False))


def registered(loop: RelayEventLoop) -> int:
    """Return the number of descriptors that relays and connections have registered with the loop."""
    return len(loop.relays._handlers) - (len(native_engines().runners) if is_built() else 0)


def least() -> int:
    """Return the bytes that a channel can hold beyond the budgets."""
    return flow_control.MIN_WINDOW


async def _options() -> SSHClientConnectionOptions:
    global _OPTIONS  # noqa: PLW0603 - created once per process, because creating it takes longer than an execution
    if _OPTIONS is None:
        _OPTIONS = await SSHClientConnectionOptions.construct(
            None, config=None, host=_SSH.host, port=_SSH.port, username=_SSH.user, client_keys=None, agent_path=None,
            known_hosts=([], [], []), encryption_algs=[CIPHER.decode()], compression_algs=["none"],
            login_timeout=0, keepalive_interval=0, client_factory=Owner, x509_trusted_certs=None,
        )  # fmt: skip
        _OPTIONS.waiter = None
    return _OPTIONS


class Connection:
    """One SSH connection from the view of its peer, and the gateway's object for the connection.

    Args:
        name: `engine` or `asyncssh`.
        conn: asyncssh's connection, which is logged in.
        pipe: The transport of a connection without a socket; otherwise None.
        sock: The peer's end of the connection's socket; None without a socket.
        problems: List to which internal errors of the gateway are added: each is a defect.
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
            if any(
                frame.filename.startswith(GATEWAY) for frame in frames
            ):  # Without a frame of the gateway, the error only means that asyncssh cannot parse a packet.
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
        """Send the bytes that the socket did not accept before; return whether the socket accepts any now."""
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
        """Return the bytes that the gateway has sent since the last call."""
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
        """Close the peer's socket."""
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
    """Return a connection that is logged in.

    Args:
        name: `engine` or `asyncssh`.
        wired: Whether `asyncssh` uses the gateway's transport, as in production; `engine` always uses it.
        keys: The keys until the first key exchange.
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
        transport = extended.own_transport = AsyncioSshTransport(near, extended)
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
    made.take()  # Discard the version string.
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
    conn._send_deferred_packets()  # After this call, the relays are allowed to send.


def _waiting(relay: object) -> list[Any]:
    """Return the chunks of bytes that asyncssh holds for a relay that has paused reading."""
    channel = relay._channel if isinstance(relay, AsyncsshRelay) else None
    return [] if channel is None else [data for data, _ in channel._recv_buf]


def holds(relay: SshChannel) -> int:
    """Return how many bytes a relay and the relay's asyncssh channel hold for a client that does not read."""
    return relay.buffered + sum(map(len, _waiting(relay)))


def costs(relay: SshChannel) -> int:
    """Return the memory size of a relay's chunks, except the first chunk, which can be partly sent already."""
    if not isinstance(relay, AsyncsshRelayClientSide):
        state: dict[str, int] = relay.inspect()  # type: ignore[attr-defined]
        return state.get("memory", 0)
    chunks = relay._send_buffer._chunks if relay._send_buffer is not None else ()
    return sum(map(sys.getsizeof, [*chunks, *_waiting(relay)][1:]))
