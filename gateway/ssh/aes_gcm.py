"""Encrypts and decrypts SSH packets with AES-GCM (RFC 5647), without copying them."""

import struct

from asyncssh.encryption import Encryption, GCMEncryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG = 16
"""Length of the authentication tag, in bytes."""
BLOCK, MIN_PADDING = 16, 4
"""Block size and minimum padding of a packet, in bytes (RFC 5647, section 7.2; RFC 4253, section 6)."""
COUNTER_AT = 4
"""Offset of the invocation counter in the nonce (RFC 5647, section 7.1)."""
MASK = (1 << 64) - 1
put_counter = struct.Struct(">Q").pack_into
"""Writes the invocation counter: `put_counter(nonce, COUNTER_AT, counter)`."""


class AesGcm(Encryption):
    """The AES-GCM cipher of one direction. Replaces asyncssh's `GCMEncryption`, and can also work on buffers.

    Packets of asyncssh and of the native data plane share one nonce, which advances with each packet.

    Args:
        theirs: The cipher that asyncssh created from the negotiated keys.
    """

    __slots__ = ("_decrypt", "_encrypt", "counter", "key", "nonce", "open_into", "seal_into")

    def __init__(self, theirs: GCMEncryption) -> None:
        key, iv = theirs._cipher._key, theirs._cipher._iv  # noqa: SLF001 - asyncssh keeps them nowhere else
        aes = AESGCM(key)
        self.key = key
        self.nonce = bytearray(iv)
        """The nonce of the next packet, for `seal_into` and `open_into`."""
        self.counter = int.from_bytes(iv[COUNTER_AT:], "big")
        """The invocation counter of the nonce, as an integer."""
        self._encrypt = aes.encrypt
        self._decrypt = aes.decrypt
        self.seal_into = aes.encrypt_into
        self.open_into = aes.decrypt_into

    def advance(self) -> None:
        """Advance the nonce to the next packet."""
        self.counter = (self.counter + 1) & MASK
        put_counter(self.nonce, COUNTER_AT, self.counter)

    # asyncssh calls these methods.

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Encrypt a packet. Return the header followed by the ciphertext, and the tag."""
        del seq
        sealed = self._encrypt(self.nonce, packet, header)
        self.advance()
        return header + sealed[:-TAG], sealed[-TAG:]

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        """Return the header unchanged, because AES-GCM does not encrypt the packet length."""
        del seq
        return first_block, first_block[:header_len]

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        """Verify and decrypt a packet. Return None if the tag does not match."""
        del seq
        try:
            opened = self._decrypt(self.nonce, first[header_len:] + rest + mac, first[:header_len])
        except InvalidTag:
            return None
        self.advance()
        return opened
