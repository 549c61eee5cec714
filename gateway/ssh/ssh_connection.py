"""Extends asyncssh's client connection with stricter host key checks and with support for the native engine.

After the login, the native engine can take over the socket. The native engine then handles the packets of channels,
and passes all other packets to asyncssh through `NativeTransport`.
"""

import asyncio
import time
from typing import Any

import asyncssh
from asyncssh.connection import SSHClientConnection, SSHClientConnectionOptions
from asyncssh.constants import MSG_IGNORE, MSG_KEXINIT
from asyncssh.packet import SSHPacket

from gateway.ssh import algorithms
from gateway.ssh.native_engine_cipher import CipherKey, PassthroughCipher, cipher_key
from gateway.ssh.single_algorithm_host_key import SingleAlgorithmHostKey
from gateway.ssh.transport_interfaces import NativeTransportInterface, SshConnectionTransport

_FREQUENT_REKEY_BYTES, _FREQUENT_REKEY_SECONDS = 4 << 20, 10.0
"""A key exchange is early if both the received bytes and the time since the previous key exchange are below these
limits. With a small RekeyLimit, OpenSSH starts a key exchange for each long packet that it sends (packet.c,
ssh_packet_need_rekeying)."""

_MAX_DEFERRED_PACKETS = 16 * 1024
"""Maximum number of packets, such as replies to the server, that asyncssh defers during a key exchange. If there are
more, the connection is closed."""


class SshConnection(SSHClientConnection):
    """asyncssh's client connection, extended with stricter host key checks and with support for the native engine.

    Args:
        options: asyncssh's options.
    """

    own_transport: SshConnectionTransport
    """The transport. Unlike asyncssh's `_transport`, this attribute remains set after the connection is closed."""

    def __init__(self, options: SSHClientConnectionOptions) -> None:
        self._host_key_algorithm = ""
        self.host_keys_offered: list[str] = []
        """The host key algorithms that the server proposed."""
        self._send_encryption_object: Any = None
        self._recv_encryption_object: Any = None
        self.native_transport: NativeTransportInterface | None = None
        """The transport, if the native engine encrypts and decrypts the packets; otherwise None."""
        self.kex_started = 0.0
        """The monotonic time at which the most recent key exchange started, in seconds."""
        self.rekeys_often = False
        """Whether the two most recent key exchanges were early (see `_FREQUENT_REKEY_BYTES`). If so, new channels
        permit only short packets, because OpenSSH might start a key exchange for each long packet."""
        self._last_rekey_soon = False
        super().__init__(asyncio.get_running_loop(), options, wait="auth")
        self._bytes_until_rekey = self._rekey_bytes
        """Number of bytes to receive until the next key exchange is due."""

    # asyncssh assigns new ciphers to `_send_encryption` and `_recv_encryption` at each key exchange.

    @property
    def _send_encryption(self) -> Any:
        return self._send_encryption_object

    @_send_encryption.setter
    def _send_encryption(self, cipher: Any) -> None:
        self._send_encryption_object = self._replacement(cipher, sealing=True)

    @property
    def _recv_encryption(self) -> Any:
        return self._recv_encryption_object

    @_recv_encryption.setter
    def _recv_encryption(self, cipher: Any) -> None:
        self._recv_encryption_object = self._replacement(cipher, sealing=False)

    def _replacement(self, cipher: Any, *, sealing: bool) -> Any:
        """Return the cipher that asyncssh must use.

        If the native engine encrypts the packets, pass the key of `cipher` to the native engine, and return a
        `PassthroughCipher`. Otherwise, return `cipher`.
        """
        if self.native_transport is None:
            return cipher
        key = cipher_key(cipher)
        if key is None:
            raise asyncssh.KeyExchangeFailed("the server changed to a cipher that the data plane does not support")
        self.native_transport.set_key(key, sealing=sealing)
        return PassthroughCipher()

    def cipher_keys(self) -> tuple[CipherKey, CipherKey] | None:
        """Return the keys for sending and receiving; None if the native engine does not support the ciphers."""
        seal, open_ = cipher_key(self._send_encryption_object), cipher_key(self._recv_encryption_object)
        return None if seal is None or open_ is None else (seal, open_)

    def use_native_engine(self, transport: Any) -> None:
        """Use a `NativeTransport` from now on. The native engine must already have this connection's keys."""
        self._send_encryption_object = self._recv_encryption_object = PassthroughCipher()
        self.native_transport = self._transport = self.own_transport = transport

    # The methods below negotiate algorithms, and check the server's host key.

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        """Negotiate algorithms when the server's proposal arrives, then call asyncssh's method.

        asyncssh itself negotiates later, in a task. By then, a server without a common algorithm might have
        disconnected, and the error would not name the server's algorithms.
        """
        if pkttype == MSG_KEXINIT:
            proposal = SSHPacket(packet.get_remaining_payload())
            proposal.get_bytes(16)  # skip the random cookie (RFC 4253, section 7.1)
            proposed = {
                "kex": self._kex_algs,
                "host_key_algorithms": self._server_host_key_algs or [],
                "ciphers": self._enc_algs,
                "macs": self._mac_algs,
            }
            self._host_key_algorithm, self.host_keys_offered = algorithms.negotiate(proposal, proposed)
        return super().process_packet(pkttype, pktid, packet)

    def validate_server_host_key(self, key_data: bytes) -> Any:
        """Check the server's host key. Return a key that accepts only signatures of the negotiated algorithm.

        See RFC 8332, section 3.

        Raises:
            asyncssh.HostKeyNotVerifiable: The key is not trusted.
            asyncssh.KeyExchangeFailed: The type of the key is not the negotiated one (RFC 4253, section 7.1).
        """
        if SSHPacket(key_data).get_string() != algorithms.key_blob_type(self._host_key_algorithm).encode():
            raise asyncssh.KeyExchangeFailed(
                f"the type of the server's host key does not match the negotiated {self._host_key_algorithm}"
            )
        return SingleAlgorithmHostKey(super().validate_server_host_key(key_data), self._host_key_algorithm)

    def _validate_openssh_host_certificate(self, host: str, addr: str, port: int, cert: Any) -> Any:
        """Return the key of a host certificate if the certificate is valid or if the key itself is trusted.

        A pinned key therefore stays trusted after its certificate has expired. OpenSSH does the same (sshconnect.c,
        `check_host_key`).
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
        """Whether the transport is closed."""
        return self._transport is None

    # The methods below handle received packets.

    @property
    def between_packets(self) -> bool:
        """Whether asyncssh has processed all received bytes, and no packet is incomplete."""
        return not self._inpbuf and self._recv_handler == self._recv_pkthdr

    @property
    def max_packet_length(self) -> int:
        """The maximum length of received packets, in bytes."""
        return self._max_recv_pktlen

    def allow_packet_size(self, size: int) -> None:
        """Make asyncssh accept packets with up to `size` bytes of channel data."""
        self._update_recv_pktlen(size)

    @property
    def receive_number(self) -> int:
        """The sequence number of the next received packet (RFC 4253, section 6.4)."""
        return self._recv_seq

    def set_receive_number(self, number: int) -> None:
        """Set the sequence number of the next packet that asyncssh receives."""
        self._recv_seq = number

    def count_received(self, size: int) -> None:
        """Count `size` received bytes. If a key exchange is due, start one."""
        self._bytes_until_rekey -= size
        if self._bytes_until_rekey <= 0:
            self.rekey()

    def _finish_recv_packet(self, *args: Any, **kwargs: Any) -> None:
        super()._finish_recv_packet(*args, **kwargs)
        self.own_transport.on_packet_processed()

    # The methods below send packets and start key exchanges.

    @property
    def may_send_data(self) -> bool:
        """Whether channel data can be sent now. A key exchange forbids channel data (RFC 4253, section 7.1)."""
        return bool(self._kex_complete)

    @property
    def send_number(self) -> int:
        """The sequence number of the next packet to send (RFC 4253, section 6.4)."""
        return self._send_seq

    @property
    def rekey_bytes(self) -> int:
        """Number of bytes in one direction after which a key exchange is due."""
        return self._rekey_bytes

    def rekey(self) -> None:
        """Start a key exchange. Do nothing if one is in progress or the login is not complete."""
        if self._kex_complete and self._auth_complete and self._transport:
            self._send_kexinit()
            self._kexinit_sent = True

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        """Send a packet, unless it is an unnecessary MSG_IGNORE packet.

        asyncssh sends empty MSG_IGNORE packets before other packets. Only CBC ciphers need them.
        """
        if pkttype == MSG_IGNORE and not str(self.get_extra_info("send_cipher")).endswith("-cbc"):
            return
        super().send_packet(pkttype, *args, handler=handler)
        if len(self._deferred_packets) > _MAX_DEFERRED_PACKETS:
            self._deferred_packets.clear()
            self.disconnect_on_violation("the server requests too many replies during a key exchange")

    def _send_kexinit(self) -> None:
        now = time.monotonic()
        soon = (
            self.native_transport is not None
            and now - self.kex_started < _FREQUENT_REKEY_SECONDS
            and self.native_transport.received_bytes < _FREQUENT_REKEY_BYTES
        )
        self.rekeys_often, self._last_rekey_soon = soon and self._last_rekey_soon, soon
        self.kex_started, self._bytes_until_rekey = now, self._rekey_bytes
        super()._send_kexinit()
        self.own_transport.on_sending_changed()

    def _send_deferred_packets(self) -> None:
        super()._send_deferred_packets()
        self.own_transport.on_sending_changed()

    def log_sent_packet(self, *args: Any) -> None:
        """Do nothing, because logging a packet would use more CPU time than sending it."""

    def log_received_packet(self, *args: Any) -> None:
        """Do nothing, because logging a packet would use more CPU time than receiving it."""

    # The methods below close the connection.

    def _force_close(self, exc: Exception | None) -> None:
        super()._force_close(exc)  # asyncssh closes the transport in the next loop iteration
        self.own_transport.on_sending_changed()

    def disconnect_on_violation(self, detail: str) -> None:
        """Send a disconnect message for a protocol violation by the server, and close the connection."""
        self.disconnect_on_error(asyncssh.ProtocolError(detail))

    def disconnect_on_error(self, error: asyncssh.DisconnectError) -> None:
        """Send `error` as a disconnect message, and close the connection."""
        self._send_disconnect(error.code, error.reason, error.lang)
        self._force_close(error)
