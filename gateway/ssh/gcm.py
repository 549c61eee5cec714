"""AES-GCM as SSH uses it (RFC 5647): one cipher object per direction, an integer for the nonce, no copies."""

import struct

from asyncssh.encryption import Encryption, GCMEncryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG = 16
BLOCK, MIN_PADDING = 16, 4
"""What a packet is padded to, and by how much at least (RFC 5647, 7.2; RFC 4253, 6)."""
COUNTER_AT = 4
MASK = (1 << 64) - 1
put_counter = struct.Struct(">Q").pack_into


class Gcm(Encryption):
    """Stands in for asyncssh's `GCMEncryption`, and seals and opens into buffers besides.

    asyncssh's own packets and the plane's share the nonce, which moves on with every packet of either.

    Args:
        theirs: What asyncssh made of the negotiated keys.
    """

    __slots__ = ("_decrypt", "_encrypt", "counter", "nonce", "open_into", "seal_into")

    def __init__(self, theirs: GCMEncryption) -> None:
        key, iv = theirs._cipher._key, theirs._cipher._iv  # noqa: SLF001 - asyncssh keeps them nowhere else
        aes = AESGCM(key)
        self.nonce = bytearray(iv)
        """For the next packet, as `seal_into` and `open_into` want it."""
        self.counter = int.from_bytes(iv[COUNTER_AT:], "big")
        """The part of the nonce that moves on with each packet."""
        self._encrypt = aes.encrypt
        self._decrypt = aes.decrypt
        self.seal_into = aes.encrypt_into
        self.open_into = aes.decrypt_into

    def advance(self) -> None:
        """The packet that had this nonce is done."""
        self.counter = (self.counter + 1) & MASK
        put_counter(self.nonce, COUNTER_AT, self.counter)

    # What asyncssh calls.

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Encrypt and sign a packet."""
        del seq
        sealed = self._encrypt(self.nonce, packet, header)
        self.advance()
        return header + sealed[:-TAG], sealed[-TAG:]

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        """The length stands in the clear."""
        del seq
        return first_block, first_block[:header_len]

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        """Verify and decrypt a packet; None when it was tampered with."""
        del seq
        try:
            opened = self._decrypt(self.nonce, first[header_len:] + rest + mac, first[:header_len])
        except InvalidTag:
            return None
        self.advance()
        return opened
