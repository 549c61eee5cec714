"""Every use of asyncssh internals, except the round trip of a keepalive, in one module.

asyncssh keeps handshake, rekeying, global requests and disconnecting. It writes through the packet_transport as
through any transport, and is fed every packet that is not the plane's, still sealed, so that all its own checks
apply.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncssh
from asyncssh.connection import SSHClientConnection, SSHClientConnectionOptions
from asyncssh.encryption import GCMEncryption
from asyncssh.packet import SSHPacket, String, UInt32

from gateway.ssh import algorithms
from gateway.ssh.gcm import Gcm

if TYPE_CHECKING:
    from gateway.ssh.packet_transport import PacketTransport

SUPPORTED_VERSIONS = ("2.24.",)
"""The releases that the data plane was written for; with any other, asyncssh's channels carry the connections."""

_ORIGIN = String("127.0.0.1") + UInt32(0)
_STREAMLOCAL_RESERVED = String("") + UInt32(0)
REKEY_BYTES = 16 << 30
"""Each way. Well below what one AES-GCM key may protect, and rare enough not to be felt (NIST SP 800-38D, 8.3)."""
_FREQUENT_REKEY_BYTES, _FREQUENT_REKEY_SECONDS = 4 << 20, 10.0
"""A key exchange after fewer bytes and seconds than these comes often. OpenSSH counts the bytes of the next packet as
blocks (packet.c, ssh_packet_need_rekeying), so that with a small RekeyLimit each long packet brings an exchange."""

_MAX_DEFERRED_PACKETS = 16 * 1024
"""Packets that wait for the end of a key exchange; a peer that asks for more answers breaks the protocol."""

MSG_IGNORE, MSG_KEXINIT = 2, 20
MSG_CHANNEL_OPEN, MSG_CHANNEL_OPEN_CONFIRMATION = 90, 91
MSG_CHANNEL_WINDOW_ADJUST, MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA, MSG_CHANNEL_EOF = 93, 94, 95, 96
MSG_CHANNEL_CLOSE, MSG_CHANNEL_REQUEST, MSG_CHANNEL_FAILURE = 97, 98, 100
DATA_OVERHEAD = 10
"""What a data packet holds besides its data: padding length, type, channel, data length."""


def is_supported() -> bool:
    """Whether this asyncssh is one that the plane knows."""
    return asyncssh.__version__.startswith(SUPPORTED_VERSIONS)


def has_strict_kex(conn: asyncssh.SSHClientConnection) -> bool:
    """Whether the server agreed to it (OpenSSH's PROTOCOL, section 1.10)."""
    return bool(getattr(conn, "_strict_kex", False))  # no public door to it


class UnreadData(NamedTuple):
    """What a channel of asyncssh's leaves behind.

    Args:
        data: Bytes that its session did not read, in order.
        ended: Whether nothing came after them: the peer said so.
        closed: Whether the peer closed the channel; if not, the connection ended, perhaps without an error.
    """

    data: list[Any]
    ended: bool
    closed: bool


def take_unread_data(channel: Any) -> UnreadData:
    """Take what `channel`, which is closed or lost, did not deliver; None leaves nothing."""
    if channel is None:
        return UnreadData([], ended=False, closed=False)
    data, channel._recv_buf = [piece for piece, _ in channel._recv_buf], []  # noqa: SLF001 - no public way to it
    state = channel._recv_state  # noqa: SLF001 - no public way to it
    closed = state in ("close_pending", "closed")
    return UnreadData(data, closed or state == "eof_pending", closed)


def disable_auto_adjust(conn: asyncssh.SSHClientConnection) -> None:
    """Let channels that `conn` makes from now on grant no window by themselves; `grant` does.

    asyncssh grants the whole window for each packet that a session takes, whatever still waits for the session: one
    that takes little at a time lets a peer send without bound. Their sessions get `resume_writing` whenever the
    peer's window is open: by itself, asyncssh calls it for its own buffer only.
    """
    for name in ("create_tcp_channel", "create_unix_channel"):
        setattr(conn, name, partial(_create_without_auto_adjust, getattr(conn, name)))


def _create_without_auto_adjust(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    channel = make(*args, **kwargs)

    def deliver(data: bytes, datatype: Any) -> None:
        session = channel._session  # noqa: SLF001 - no public way to it
        if session is not None:
            session.data_received(data, datatype)

    flush = channel._flush_send_buf  # noqa: SLF001 - no public way to it

    def flush_and_resume() -> None:
        flush()
        session = channel._session  # noqa: SLF001 - no public way to it
        if session is not None and channel._send_window:  # noqa: SLF001 - no public way to it
            session.resume_writing()

    channel._deliver_data = deliver  # noqa: SLF001 - no public way to it
    channel._flush_send_buf = flush_and_resume  # noqa: SLF001 - no public way to it
    return channel


def send_window(channel: Any) -> int:
    """How many bytes a channel of asyncssh's may send now."""
    return int(channel._send_window)  # noqa: SLF001 - no public way to it


def send_window_adjust(channel: Any, count: int) -> None:
    """Allow the peer to send `count` bytes more on a channel of asyncssh's."""
    channel._recv_window += count  # noqa: SLF001 - no public way to it
    channel.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(count))


class ClientConnection(SSHClientConnection):
    """asyncssh's connection, opened for the plane.

    Args:
        options: asyncssh's own.
        native: Whether the plane may carry the channels, where the ciphers allow it.
    """

    packet_transport: "PacketTransport"

    def __init__(self, options: SSHClientConnectionOptions, *, native: bool = True) -> None:
        self._native = native
        self._host_key_algorithm = ""
        self.host_keys_offered: list[str] = []
        """The host key algorithms that the server has."""
        self._negotiated_send_cipher: Any = None
        self._negotiated_receive_cipher: Any = None
        self.send_cipher: Gcm | None = None
        """The cipher for what we send, where the plane can use it."""
        self.receive_cipher: Gcm | None = None
        """The cipher for what we receive, where the plane can use it."""
        self.kex_started = 0.0
        """When the last key exchange began, in `time.monotonic()`."""
        self.rekeys_often = False
        """Whether the last two exchanges of keys were so close together that the peer should send short packets."""
        self._last_rekey_soon = False
        super().__init__(asyncio.get_running_loop(), options, wait="auth")
        self.bytes_until_rekey = self._rekey_bytes
        """Bytes that the peer may send before `rekey` is due."""

    # Keys: asyncssh sets these two at each key exchange.

    @property
    def _send_encryption(self) -> Any:
        return self._negotiated_send_cipher

    @_send_encryption.setter
    def _send_encryption(self, made: Any) -> None:
        self._negotiated_send_cipher = Gcm(made) if self._native and isinstance(made, GCMEncryption) else made
        self.send_cipher = self._negotiated_send_cipher if isinstance(self._negotiated_send_cipher, Gcm) else None

    @property
    def _recv_encryption(self) -> Any:
        return self._negotiated_receive_cipher

    @_recv_encryption.setter
    def _recv_encryption(self, made: Any) -> None:
        self._negotiated_receive_cipher = Gcm(made) if self._native and isinstance(made, GCMEncryption) else made
        self.receive_cipher = (
            self._negotiated_receive_cipher if isinstance(self._negotiated_receive_cipher, Gcm) else None
        )

    # Host keys.

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        """As asyncssh's; of a proposal, first see what it leads to.

        asyncssh does that in a task, when a server that finds nothing in common may have hung up; and it does not
        look at what the server has for host keys.
        """
        if pkttype == MSG_KEXINIT:
            proposal = SSHPacket(packet.get_remaining_payload())
            proposal.get_bytes(16)  # cookie
            ours = {
                "kex": self._kex_algs,
                "host_key_algorithms": self._server_host_key_algs or [],
                "ciphers": self._enc_algs,
                "macs": self._mac_algs,
            }
            self._host_key_algorithm, self.host_keys_offered = algorithms.agree(proposal, ours)
        return super().process_packet(pkttype, pktid, packet)

    def validate_server_host_key(self, key_data: bytes) -> Any:
        """As asyncssh's, for a key that is what was agreed, and signs as was agreed (RFC 4253, 7.1; RFC 8332, 3).

        Raises:
            asyncssh.HostKeyNotVerifiable: It is not trusted.
            asyncssh.KeyExchangeFailed: It is of another kind.
        """
        if SSHPacket(key_data).get_string() != algorithms.blob_of(self._host_key_algorithm).encode():
            raise asyncssh.KeyExchangeFailed(f"sends another kind of host key than {self._host_key_algorithm}")
        return _SingleAlgorithmKey(super().validate_server_host_key(key_data), self._host_key_algorithm)

    def _validate_openssh_host_certificate(self, host: str, addr: str, port: int, cert: Any) -> Any:
        """As asyncssh's; or the certificate's own key is trusted.

        OpenSSH takes a certificate that it does not accept for the plain key in it (sshconnect.c, check_host_key). So
        the pin of a key holds when its certificate has expired: it vouches for the key, whatever an authority says.
        """
        verifier: Any = self._owner
        refusal = verifier.weakness(cert)
        if refusal is None:
            try:
                return super()._validate_openssh_host_certificate(host, addr, port, cert)
            except ValueError as error:
                refusal = str(error)
        if self._revoked_host_keys & {cert.key, cert.signing_key}:
            raise ValueError(refusal)
        if cert.key in (self._trusted_host_keys or ()) or verifier.validate_host_public_key(
            host, addr, port, cert.key
        ):
            return cert.key
        verifier.certificate_refused(cert, refusal)
        raise ValueError(refusal)

    @property
    def transport_closed(self) -> bool:
        """Whether asyncssh has let go of the packet_transport."""
        return self._transport is None

    @property
    def native_ready(self) -> bool:
        """Whether the plane may take over what arrives from here on."""
        return (
            bool(self._auth_complete)
            and self.send_cipher is not None
            and self.receive_cipher is not None
            and self.between_packets
        )

    # Receiving.

    @property
    def between_packets(self) -> bool:
        """Whether asyncssh is done with every packet it got, so that the next one is anybody's."""
        return not self._inpbuf and self._recv_handler == self._recv_pkthdr

    @property
    def max_packet_length(self) -> int:
        """The longest packet that asyncssh accepts, in bytes."""
        return self._max_recv_pktlen

    def allow_packet_size(self, size: int) -> None:
        """Accept channel data of so many bytes a packet."""
        self._update_recv_pktlen(size)

    def count_received(self, count: int) -> None:
        """Note that the plane took `count` packets."""
        self._recv_seq = (self._recv_seq + count) & 0xFFFFFFFF

    def _finish_recv_packet(self, *args: Any, **kwargs: Any) -> None:
        super()._finish_recv_packet(*args, **kwargs)
        self.packet_transport.schedule_resume()

    # Sending.

    @property
    def may_send_data(self) -> bool:
        """Whether channel data may be sent now: not while keys are exchanged (RFC 4253, 7.1)."""
        return bool(self._kex_complete)

    def count_sent(self, count: int, size: int) -> None:
        """Note that the plane sent `count` packets of `size` bytes together; starts a key exchange when it is due."""
        self._send_seq = (self._send_seq + count) & 0xFFFFFFFF
        self._rekey_bytes_sent += size
        if self._rekey_bytes_sent >= self._rekey_bytes:
            self.rekey()

    def rekey(self) -> None:
        """Start a key exchange, unless one is under way or the login is not complete."""
        if self._kex_complete and self._auth_complete and self._transport:
            self._send_kexinit()
            self._kexinit_sent = True

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        """As asyncssh's, without the empty MSG_IGNORE before each packet: a remedy for CBC, useless with AEAD."""
        if pkttype == MSG_IGNORE and self.send_cipher is not None:
            return
        super().send_packet(pkttype, *args, handler=handler)
        if len(self._deferred_packets) > _MAX_DEFERRED_PACKETS:
            self._deferred_packets.clear()
            self.disconnect_on_violation("asks for too many answers during a key exchange")

    def _send_kexinit(self) -> None:
        now = time.monotonic()
        received = self._rekey_bytes - self.bytes_until_rekey
        soon = (
            self._auth_complete
            and now - self.kex_started < _FREQUENT_REKEY_SECONDS
            and received < _FREQUENT_REKEY_BYTES
        )
        self.rekeys_often, self._last_rekey_soon = soon and self._last_rekey_soon, soon
        self.kex_started, self.bytes_until_rekey = now, self._rekey_bytes
        super()._send_kexinit()
        self.packet_transport.writer.update_may_send()

    def _send_deferred_packets(self) -> None:
        super()._send_deferred_packets()
        self.packet_transport.writer.update_may_send()
        self.packet_transport.writer.schedule_queue()

    def log_sent_packet(self, *args: Any) -> None:
        """Not logged: it would cost more than sending does."""

    def log_received_packet(self, *args: Any) -> None:
        """Not logged: it would cost more than receiving does."""

    # Living and dying.

    def _force_close(self, exc: Exception | None) -> None:
        super()._force_close(exc)  # which closes the packet_transport a turn later
        self.packet_transport.writer.update_may_send()

    def disconnect_on_violation(self, detail: str) -> None:
        """The peer broke the protocol: tell it, and close the connection with everything on it."""
        error = asyncssh.ProtocolError(detail)
        self._send_disconnect(error.code, error.reason, error.lang)
        self._force_close(error)

    # Channels.

    def request_channel(self, channel: Any, host: str, port: int, window: int, max_packet: int) -> int:
        """Ask for a connection from the far side to `host:port` (RFC 4254, 7.2); gives our channel's number.

        A host that begins with a slash is a unix socket there (OpenSSH's PROTOCOL, section 2.4).

        Raises:
            asyncssh.ChannelOpenError: The connection is closed.
        """
        number = self.add_channel(channel)
        self.allow_packet_size(max_packet)
        unix = host.startswith("/")
        kind = b"direct-streamlocal@openssh.com" if unix else b"direct-tcpip"
        where = _STREAMLOCAL_RESERVED if unix else UInt32(port) + _ORIGIN
        self.packet_transport.writer.send_control(
            MSG_CHANNEL_OPEN,
            b"".join((String(kind), UInt32(number), UInt32(window), UInt32(max_packet), String(host), where)),
        )
        return number

    def free_channel(self, number: int) -> None:
        """The channel is closed on both sides: its number may be used again."""
        self._channels.pop(number, None)


class _SingleAlgorithmKey:
    """A host key that verifies signatures of one algorithm only: asyncssh takes any that the key can make.

    Args:
        key: Trusted.
        algorithm: The host key algorithm that was agreed.
    """

    def __init__(self, key: asyncssh.SSHKey, algorithm: str) -> None:
        self._key = key
        self._signature = algorithms.signature_of(algorithm).encode()

    def verify(self, data: bytes, sig: bytes) -> bool:
        """Whether `sig` is the key's signature of `data` (RFC 4253, 6.6)."""
        return SSHPacket(sig).get_string() == self._signature and self._key.verify(data, sig)


async def log_in(
    sock: Any, packet_transport: type["PacketTransport"], *, native: bool, **arguments: Any
) -> ClientConnection:
    """As `asyncssh.connect` over `sock`, with a packet_transport for its transport.

    Args:
        sock: Connected and non-blocking; closed with the connection, and when this fails.
        packet_transport: What makes the transport.
        native: Whether the plane may carry the channels.
        arguments: asyncssh's.

    Raises:
        asyncssh.Error, OSError, ValueError: As `asyncssh.connect`.
    """
    options = await SSHClientConnectionOptions.construct(None, rekey_bytes=REKEY_BYTES, **arguments)
    options.waiter = asyncio.get_running_loop().create_future()
    conn = ClientConnection(options, native=native)
    conn.packet_transport = packet_transport(sock, conn)
    try:
        conn.connection_made(conn.packet_transport)
        conn.set_extra_info(host=arguments["host"], port=arguments["port"])
        await options.waiter
    except BaseException:
        options.waiter.cancel()
        close_now(conn)
        raise
    return conn


def close_now(conn: ClientConnection) -> None:
    """Close a connection now: its socket, its place in the event loop, its tasks. Nothing is waited for."""
    conn.packet_transport.abort()
    for task in list(conn._tasks):  # noqa: SLF001 - no public door to them
        task.cancel()
