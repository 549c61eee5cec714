"""Simulates an SSH server, which can send legal and illegal packets, and checks the packets from the gateway."""

import hashlib
from dataclasses import dataclass, field
from functools import cache

from asyncssh.packet import MPInt, SSHPacket, String, UInt32
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fuzz.ssh.seal import CIPHER, TAG, Keys, OracleError, Seal

SERVER_VERSION = b"SSH-2.0-fuzz"
SESSION_ID = bytes(32)
DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, KEXINIT, NEWKEYS, KEX_INIT, KEX_REPLY = 1, 2, 3, 4, 20, 21, 30, 31
GLOBAL_REQUEST = 80
OPEN, CONFIRMATION, FAILURE, ADJUST, DATA, EXTENDED, EOF, CLOSE, REQUEST, SUCCESS, REFUSAL = range(90, 101)
_RAW = (Encoding.Raw, PublicFormat.Raw)
_LAST_OF_KEX = 49
_LONGEST = 300_000
_NAMES = (b"curve25519-sha256", b"ssh-ed25519", CIPHER, CIPHER, b"", b"", b"none", b"none", b"", b"")


@cache
def _identity() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(b"h" * 32)


@cache
def _host_key() -> bytes:
    return String("ssh-ed25519") + String(_identity().public_key().public_bytes(*_RAW))


@dataclass
class Line:
    """The simulated SSH server's state of one channel.

    Args:
        number: The channel number that the gateway chose.
        window: Number of bytes that the SSH server is still allowed to send.
        size: The initial value of `window`.
        most: Maximum number of bytes that the SSH server is allowed to send in one packet.
        may_send: Number of bytes that the gateway is still allowed to send.
        max_packet: Maximum number of bytes that the gateway is allowed to send in one packet.
        got: The data that the gateway has sent.
        eof: Whether the gateway sent CHANNEL_EOF.
        close: Whether the gateway sent CHANNEL_CLOSE.
    """

    number: int
    window: int
    size: int
    most: int
    may_send: int = 0
    max_packet: int = 0
    got: bytearray = field(default_factory=bytearray)
    eof: bool = False
    close: bool = False


class Peer:
    """The simulated SSH server of one connection.

    Args:
        keys: The encryption keys before the first key exchange.
        client_version: The gateway's SSH version string.
    """

    def __init__(self, keys: Keys, client_version: bytes) -> None:
        self.out = bytearray()
        """Encrypted bytes that have not been sent."""
        self.answers = False
        """Whether `out` contains a packet of a key exchange, which must be sent immediately."""
        self.asked: list[Line] = []
        """The channels that the gateway has requested, in the order of the requests."""
        self.lines: dict[int, Line] = {}
        """The confirmed channels, by the channel number that the SSH server chose."""
        self.goodbye = ""
        self._client_version = client_version
        self._seal = Seal(keys.to_client, keys.iv_to_client)
        self._open = Seal(keys.to_server, keys.iv_to_server)
        self._next: Seal | None = None
        self._buffer = bytearray()
        self._ours = self._theirs = b""
        self._their_kex = False
        self._deferred: list[tuple[bytes, int | None]] = []

    @property
    def exchanging(self) -> bool:
        """Whether the SSH server has sent KEXINIT, but not yet NEWKEYS."""
        return bool(self._ours)

    def say(self, payload: bytes, padding: int | None = None, *, now: bool = False) -> None:
        """Encrypt a packet, and append it to `out`.

        During a key exchange, most packets wait until the key exchange ends.

        Args:
            payload: The content of the packet.
            padding: See `Seal.seal`.
            now: Whether to append the packet even during a key exchange, although RFC 4253, section 7.1 forbids this.
                If earlier packets wait, the packet waits, too.
        """
        if self._ours and payload[:1] > bytes([NEWKEYS]) and (self._deferred or not now):
            self._deferred.append((payload, padding))
        else:
            self.out += self._seal.seal(payload, padding)

    def start_exchange(self) -> None:
        """Send KEXINIT, unless a key exchange is in progress."""
        if not self._ours:
            self._ours = bytes([KEXINIT]) + bytes(16) + b"".join(map(String, _NAMES)) + bytes(5)
            self.out += self._seal.seal(self._ours)
            self.answers = True

    def receive(self, data: bytes) -> None:
        """Process bytes from the gateway: check each packet, and respond to a key exchange.

        Raises:
            OracleError: The gateway sent an illegal packet.
        """
        self._buffer += data
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > _LONGEST:
                raise OracleError(f"the gateway sent a packet of {length} bytes")
            stop = 4 + length + TAG
            if len(self._buffer) < stop:
                break
            packet = bytes(self._buffer[:stop])
            del self._buffer[:stop]
            self._packet(self._open.open(packet))

    def _packet(self, payload: bytes) -> None:
        packet = SSHPacket(payload)
        kind = packet.get_byte()
        if self.goodbye:
            raise OracleError(f"packet {kind} after a disconnect")
        if self._their_kex and kind > _LAST_OF_KEX:
            raise OracleError(f"packet {kind} between KEXINIT and NEWKEYS")
        if kind == DISCONNECT:
            packet.get_uint32()
            self.goodbye = packet.get_string().decode()
        elif kind == KEXINIT:
            self._theirs, self._their_kex = payload, True
            self.start_exchange()
        elif kind == KEX_INIT:
            self._agree(packet.get_string())
        elif kind == NEWKEYS:
            self._their_kex = False
            assert self._next is not None
            self._open, self._next = self._next, None
        elif kind == OPEN:
            self._channel_open(packet)
        elif OPEN < kind <= REFUSAL and kind != FAILURE:  # FAILURE refuses a channel that the server requested.
            self._channel(kind, packet)

    def _channel_open(self, packet: SSHPacket) -> None:
        if packet.get_string() != b"direct-tcpip":
            raise OracleError("the gateway opens a channel of another type")
        number, window, most = packet.get_uint32(), packet.get_uint32(), packet.get_uint32()
        self.asked.append(Line(number, window, window, most))

    def _channel(self, kind: int, packet: SSHPacket) -> None:
        ours = packet.get_uint32()
        line = self.lines.get(ours)
        if line is None:
            raise OracleError(f"packet {kind} of channel {ours}, which is not open")
        if line.close:
            raise OracleError(f"packet {kind} of a channel after CHANNEL_CLOSE")
        if kind == DATA:
            self._channel_data(line, packet.get_string())
        elif kind == ADJUST:
            line.window += packet.get_uint32()
        elif kind == EOF:
            if line.eof:
                raise OracleError("two CHANNEL_EOF of one channel")
            line.eof = True
        elif kind == CLOSE:
            line.close = True
            return
        if kind in (DATA, ADJUST, EOF):
            packet.check_end()

    @staticmethod
    def _channel_data(line: Line, data: bytes) -> None:
        if line.eof:
            raise OracleError("data of a channel after CHANNEL_EOF")
        allowed = min(line.max_packet, line.may_send)
        if len(data) > allowed:
            raise OracleError(f"the gateway sent {len(data)} bytes where {allowed} are allowed")
        line.may_send -= len(data)
        line.got += data

    def _agree(self, theirs: bytes) -> None:
        """Finish a key exchange (RFC 4253, sections 7 and 8; RFC 8731)."""
        private = X25519PrivateKey.generate()
        ours = private.public_key().public_bytes(*_RAW)
        secret = MPInt(int.from_bytes(private.exchange(X25519PublicKey.from_public_bytes(theirs)), "big"))
        parts = (self._client_version, SERVER_VERSION, self._theirs, self._ours, _host_key(), theirs, ours)
        digest = hashlib.sha256(b"".join(map(String, parts)) + secret).digest()
        signature = String("ssh-ed25519") + String(_identity().sign(digest))

        def derive(letter: bytes, size: int) -> bytes:
            return hashlib.sha256(secret + digest + letter + SESSION_ID).digest()[:size]

        reply = bytes([KEX_REPLY]) + String(_host_key()) + String(ours) + String(signature)
        self.out += self._seal.seal(reply) + self._seal.seal(bytes([NEWKEYS]))
        self._seal = Seal(derive(b"D", 16), derive(b"B", 12))
        self._next = Seal(derive(b"C", 16), derive(b"A", 12))
        self._ours = self._theirs = b""
        self.answers = True
        deferred, self._deferred = self._deferred, []
        for payload, padding in deferred:
            self.say(payload, padding)


def to_channel(kind: int, number: int, body: bytes = b"") -> bytes:
    """Return the payload of a message about a channel. `number` is the channel number that the gateway chose."""
    return bytes([kind]) + UInt32(number) + body
