"""Extends asyncssh's client connection for the native data plane, and with stricter host key checks.

asyncssh handles the handshake, key exchanges, global requests and disconnects. asyncssh writes through
`PacketTransport` as through any asyncio transport. Every packet that the native data plane does not handle goes to
asyncssh, still encrypted, so all checks of asyncssh apply.
"""

import asyncio
import socket
import time
from collections.abc import Mapping
from typing import Any, Protocol

import asyncssh
from asyncssh.connection import SSHClientConnection, SSHClientConnectionOptions
from asyncssh.encryption import GCMEncryption
from asyncssh.packet import SSHPacket, String, UInt32

from gateway.contracts.accepting import AcceptRule
from gateway.ssh import algorithms
from gateway.ssh.aes_gcm import AesGcm
from gateway.ssh.asyncssh_internals import MSG_CHANNEL_OPEN, MSG_IGNORE, MSG_KEXINIT
from gateway.ssh.engine_cipher import CipherKey, PassThroughCipher, cipher_key

_ORIGIN = String("127.0.0.1") + UInt32(0)
_STREAMLOCAL_RESERVED = String("") + UInt32(0)
_FREQUENT_REKEY_BYTES, _FREQUENT_REKEY_SECONDS = 4 << 20, 10.0
"""A key exchange counts as frequent if fewer bytes and fewer seconds than these have passed since the previous one.
OpenSSH adds the length of the next packet in bytes to a count of blocks (packet.c, ssh_packet_need_rekeying). With a
small RekeyLimit, every long packet therefore starts a key exchange."""

_MAX_DEFERRED_PACKETS = 16 * 1024
"""Maximum number of packets, including replies to the peer's requests, that asyncssh delays during a key exchange.
Above this number, the connection is closed."""


class ControlWriter(Protocol):
    """Writes control packets: the methods of `PacketWriter` that `ClientConnection` calls."""

    def send_control(self, msg_type: int, payload: bytes) -> None:
        """See `PacketWriter.send_control`."""

    def update_may_send(self) -> None:
        """See `PacketWriter.update_may_send`."""

    def schedule_queue(self) -> None:
        """See `PacketWriter.schedule_queue`."""


class ConnectionTransport(Protocol):
    """The transport of an SSH connection: the methods of `PacketTransport` that `ClientConnection` calls."""

    @property
    def writer(self) -> ControlWriter:
        """Sends packets."""

    def schedule_resume(self) -> None:
        """See `PacketTransport.schedule_resume`."""

    def abort(self) -> None:
        """See `PacketTransport.abort`."""


class EngineConnection(Protocol):
    """The methods of `EngineTransport`, for modules that cannot import it, because the C engine is optional."""

    host: Any
    token: int

    @property
    def received_bytes(self) -> int:
        """See `EngineTransport.received_bytes`."""

    def set_key(self, key: CipherKey, *, sealing: bool) -> None:
        """See `EngineTransport.set_key`."""

    def set_round_trip(self, seconds: float) -> None:
        """See `EngineTransport.set_round_trip`."""

    def last_heard(self, within: float) -> float:
        """See `EngineTransport.last_heard`."""

    def make_opener(self) -> Any:
        """See `EngineTransport.make_opener`."""

    def make_listener(
        self,
        sock: socket.socket,
        rule: AcceptRule,
        permits: int,
        connections: Mapping[int, Any],
        max_packet: int,
        events: Any,
    ) -> Any:
        """See `EngineTransport.make_listener`."""

    def recall_clients(self) -> None:
        """See `EngineTransport.recall_clients`."""


class ClientConnection(SSHClientConnection):
    """asyncssh's client connection, extended for the native data plane and stricter host key checks.

    Args:
        options: asyncssh's options.
        native: Whether the native data plane carries the channels if AES-GCM is negotiated.
    """

    packet_transport: ConnectionTransport

    def __init__(self, options: SSHClientConnectionOptions, *, native: bool = True) -> None:
        self._native = native
        self._host_key_algorithm = ""
        self.host_keys_offered: list[str] = []
        """The host key algorithms that the server proposed."""
        self._send_encryption_object: Any = None
        self._recv_encryption_object: Any = None
        self.send_cipher: AesGcm | None = None
        """The cipher for sending, if the native data plane supports it."""
        self.receive_cipher: AesGcm | None = None
        """The cipher for receiving, if the native data plane supports it."""
        self.engine: EngineConnection | None = None
        """The transport, if the engine encrypts and decrypts the packets."""
        self.kex_started = 0.0
        """The monotonic time at which the last key exchange started, in seconds."""
        self.rekeys_often = False
        """Whether the last two key exchanges were frequent. If so, the peer should send short packets."""
        self._last_rekey_soon = False
        super().__init__(asyncio.get_running_loop(), options, wait="auth")
        self.bytes_until_rekey = self._rekey_bytes
        """Bytes to receive before `rekey` is due."""

    # Keys: asyncssh sets these two attributes at each key exchange.

    @property
    def _send_encryption(self) -> Any:
        return self._send_encryption_object

    @_send_encryption.setter
    def _send_encryption(self, cipher: Any) -> None:
        replaced = self._replacement(cipher, sealing=True)
        self._send_encryption_object = replaced
        self.send_cipher = replaced if isinstance(replaced, AesGcm) else None

    @property
    def _recv_encryption(self) -> Any:
        return self._recv_encryption_object

    @_recv_encryption.setter
    def _recv_encryption(self, cipher: Any) -> None:
        replaced = self._replacement(cipher, sealing=False)
        self._recv_encryption_object = replaced
        self.receive_cipher = replaced if isinstance(replaced, AesGcm) else None

    def _replacement(self, cipher: Any, *, sealing: bool) -> Any:
        """Return the object that asyncssh uses in place of `cipher`, which has a new key."""
        if self.engine is not None:
            key = cipher_key(cipher)
            if key is None:
                raise asyncssh.KeyExchangeFailed(
                    "the server changed to a cipher that the data plane does not support"
                )
            self.engine.set_key(key, sealing=sealing)
            return PassThroughCipher()
        return AesGcm(cipher) if self._native and isinstance(cipher, GCMEncryption) else cipher

    def cipher_keys(self) -> tuple[CipherKey, CipherKey] | None:
        """Return the keys for sending and receiving; None if the engine does not support the ciphers."""
        seal, open_ = cipher_key(self._send_encryption_object), cipher_key(self._recv_encryption_object)
        return None if seal is None or open_ is None else (seal, open_)

    def use_engine(self, transport: Any) -> None:
        """Use `transport`, an `EngineTransport`, from now on. The engine has the keys of this connection."""
        self._send_encryption_object = self._recv_encryption_object = PassThroughCipher()
        self.send_cipher = self.receive_cipher = None
        self.engine = self._transport = self.packet_transport = transport

    # Host keys.

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        """Negotiate algorithms when the server's proposal arrives, then call asyncssh's method.

        asyncssh negotiates later, in a task. By then, a server without a common algorithm might have disconnected.
        Also, asyncssh does not report the server's host key algorithms.
        """
        if pkttype == MSG_KEXINIT:
            proposal = SSHPacket(packet.get_remaining_payload())
            proposal.get_bytes(16)  # cookie
            proposed = {
                "kex": self._kex_algs,
                "host_key_algorithms": self._server_host_key_algs or [],
                "ciphers": self._enc_algs,
                "macs": self._mac_algs,
            }
            self._host_key_algorithm, self.host_keys_offered = algorithms.negotiate(proposal, proposed)
        return super().process_packet(pkttype, pktid, packet)

    def validate_server_host_key(self, key_data: bytes) -> Any:
        """Check that key type and signature algorithm are as negotiated (RFC 4253, section 7.1; RFC 8332, section 3).

        Raises:
            asyncssh.HostKeyNotVerifiable: The key is not trusted.
            asyncssh.KeyExchangeFailed: The key has another type.
        """
        if SSHPacket(key_data).get_string() != algorithms.key_blob_type(self._host_key_algorithm).encode():
            raise asyncssh.KeyExchangeFailed(
                f"the server sent a host key of another type than {self._host_key_algorithm}"
            )
        return _SingleAlgorithmKey(super().validate_server_host_key(key_data), self._host_key_algorithm)

    def _validate_openssh_host_certificate(self, host: str, addr: str, port: int, cert: Any) -> Any:
        """Validate a host certificate. If the certificate is not valid, accept its key if that key itself is trusted.

        OpenSSH does the same (sshconnect.c, check_host_key). A pinned key therefore stays trusted after its
        certificate has expired.
        """
        verifier: Any = self._owner
        refusal = verifier.signature_problem(cert)
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
        verifier.record_refused_certificate(cert, refusal)
        raise ValueError(refusal)

    @property
    def transport_closed(self) -> bool:
        """Whether asyncssh has released the transport."""
        return self._transport is None

    @property
    def has_native_ciphers(self) -> bool:
        """Whether the native data plane supports the ciphers of both directions."""
        return self.send_cipher is not None and self.receive_cipher is not None

    @property
    def native_ready(self) -> bool:
        """Whether the native data plane can handle the packets that follow."""
        return bool(self._auth_complete) and self.has_native_ciphers and self.between_packets

    # Receiving.

    @property
    def between_packets(self) -> bool:
        """Whether asyncssh has processed every packet that it received."""
        return not self._inpbuf and self._recv_handler == self._recv_pkthdr

    @property
    def max_packet_length(self) -> int:
        """The maximum length of a packet that asyncssh accepts, in bytes."""
        return self._max_recv_pktlen

    def allow_packet_size(self, size: int) -> None:
        """Allow the peer to send packets with up to `size` bytes of channel data."""
        self._update_recv_pktlen(size)

    @property
    def receive_number(self) -> int:
        """The sequence number of the next received packet (RFC 4253, section 6.4)."""
        return self._recv_seq

    def set_receive_number(self, number: int) -> None:
        """Set the sequence number of the next packet that asyncssh receives."""
        self._recv_seq = number

    def count_received(self, count: int) -> None:
        """Advance the sequence number by `count` packets that the native data plane received."""
        self._recv_seq = (self._recv_seq + count) & 0xFFFFFFFF

    def _finish_recv_packet(self, *args: Any, **kwargs: Any) -> None:
        super()._finish_recv_packet(*args, **kwargs)
        self.packet_transport.schedule_resume()

    # Sending.

    @property
    def may_send_data(self) -> bool:
        """Whether channel data can be sent now. During a key exchange, it must not (RFC 4253, section 7.1)."""
        return bool(self._kex_complete)

    @property
    def send_number(self) -> int:
        """The sequence number of the next packet to send (RFC 4253, section 6.4)."""
        return self._send_seq

    @property
    def rekey_bytes(self) -> int:
        """Bytes in one direction after which a key exchange is due."""
        return self._rekey_bytes

    def count_sent(self, count: int, size: int) -> None:
        """Advance the sequence number for packets that the native data plane sent. Starts a key exchange when due.

        Args:
            count: The number of packets.
            size: Their total length in bytes.
        """
        self._send_seq = (self._send_seq + count) & 0xFFFFFFFF
        self._rekey_bytes_sent += size
        if self._rekey_bytes_sent >= self._rekey_bytes:
            self.rekey()

    def rekey(self) -> None:
        """Start a key exchange. Do nothing if one is in progress or the login is not complete."""
        if self._kex_complete and self._auth_complete and self._transport:
            self._send_kexinit()
            self._kexinit_sent = True

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        """Send a packet without asyncssh's empty MSG_IGNORE packet before it: only CBC ciphers need that packet."""
        if pkttype == MSG_IGNORE and (self.send_cipher is not None or self.engine is not None):
            return
        super().send_packet(pkttype, *args, handler=handler)
        if len(self._deferred_packets) > _MAX_DEFERRED_PACKETS:
            self._deferred_packets.clear()
            self.disconnect_on_violation("requests too many answers during a key exchange")

    def _send_kexinit(self) -> None:
        now = time.monotonic()
        received = (
            self.engine.received_bytes if self.engine is not None else self._rekey_bytes - self.bytes_until_rekey
        )
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
        """Do nothing: logging would cost more than sending."""

    def log_received_packet(self, *args: Any) -> None:
        """Do nothing: logging would cost more than receiving."""

    # Closing.

    def _force_close(self, exc: Exception | None) -> None:
        super()._force_close(exc)  # closes the transport in the next turn of the loop
        self.packet_transport.writer.update_may_send()

    def disconnect_on_violation(self, detail: str) -> None:
        """Send a disconnect message for a protocol violation by the peer, and close the connection."""
        self.disconnect_on_error(asyncssh.ProtocolError(detail))

    def disconnect_on_error(self, error: asyncssh.DisconnectError) -> None:
        """Send `error` as a disconnect message, and close the connection."""
        self._send_disconnect(error.code, error.reason, error.lang)
        self._force_close(error)

    # Channels.

    def request_channel(self, channel: Any, host: str, port: int, window: int, max_packet: int) -> int:
        """Send a CHANNEL_OPEN for a TCP port or for a unix socket on the server (RFC 4254, section 7.2).

        Args:
            channel: Handles the channel's packets.
            host: A host name or address, or with a leading slash the path of a unix socket (OpenSSH's PROTOCOL,
                section 2.4).
            port: The TCP port; ignored for a unix socket.
            window: The initial window in bytes.
            max_packet: The maximum packet size in bytes.

        Returns:
            The local channel number.

        Raises:
            asyncssh.ChannelOpenError: The connection is closed.
        """
        number = self.add_channel(channel)
        self.allow_packet_size(max_packet)
        channel_type, where = channel_target(host, port)
        self.packet_transport.writer.send_control(
            MSG_CHANNEL_OPEN,
            b"".join((channel_type, UInt32(number), UInt32(window), UInt32(max_packet), where)),
        )
        return number

    def free_channel(self, number: int) -> None:
        """Free the number of a channel that is closed on both sides."""
        self._channels.pop(number, None)


def channel_target(host: str, port: int) -> tuple[bytes, bytes]:
    """Return two parts of CHANNEL_OPEN: the channel type, and what follows the maximum packet size.

    Args:
        host: See `ClientConnection.request_channel`.
        port: See `ClientConnection.request_channel`.
    """
    unix = host.startswith("/")
    channel_type = b"direct-streamlocal@openssh.com" if unix else b"direct-tcpip"
    return String(channel_type), String(host) + (_STREAMLOCAL_RESERVED if unix else UInt32(port) + _ORIGIN)


class _SingleAlgorithmKey:
    """A host key that accepts signatures of one algorithm only, although asyncssh would accept others.

    Args:
        key: The trusted key.
        algorithm: The negotiated host key algorithm.
    """

    def __init__(self, key: asyncssh.SSHKey, algorithm: str) -> None:
        self._key = key
        self._signature = algorithms.signature_algorithm_of(algorithm).encode()

    def verify(self, data: bytes, sig: bytes) -> bool:
        """Return whether `sig` is a valid signature of `data` (RFC 4253, section 6.6)."""
        return SSHPacket(sig).get_string() == self._signature and self._key.verify(data, sig)
