"""Replaces asyncssh's ciphers for connections whose packets the native engine encrypts and decrypts."""

from typing import NamedTuple

from asyncssh.encryption import ChachaEncryption, Encryption, GCMEncryption

_TAG = 16
"""Length of the authentication tag, in bytes."""
_GCM_NAMES = {16: "aes128-gcm@openssh.com", 32: "aes256-gcm@openssh.com"}
"""AES-GCM cipher names by key size in bytes."""


class CipherKey(NamedTuple):
    """The cipher and key of one direction of an SSH connection.

    Args:
        cipher: The name of the cipher.
        key: The key.
        iv: The nonce of the next packet; empty if the nonce is the sequence number.
    """

    cipher: str
    key: bytes
    iv: bytes


def cipher_key(encryption: Encryption | None) -> CipherKey | None:
    """Return the cipher and key that `encryption` uses; None if the native engine does not support the cipher."""
    if isinstance(encryption, GCMEncryption):
        gcm = encryption._cipher  # noqa: SLF001 - asyncssh keeps the key nowhere else
        return CipherKey(_GCM_NAMES[len(gcm._key)], gcm._key, gcm._iv)  # noqa: SLF001 - asyncssh keeps the key nowhere else
    if isinstance(encryption, ChachaEncryption):
        chacha = encryption._cipher  # noqa: SLF001 - asyncssh keeps the key nowhere else
        return CipherKey("chacha20-poly1305@openssh.com", chacha._key + chacha._adkey, b"")  # noqa: SLF001 - asyncssh keeps the key nowhere else
    return None


class PassthroughCipher(Encryption):
    """A cipher for asyncssh that changes nothing, because the native engine encrypts and decrypts the packets."""

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        """Return the packet unchanged, and an empty tag."""
        del seq
        return header + packet, b""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        """Return the block unchanged, and the header (the packet's length), which is the start of the block."""
        del seq
        return first_block, first_block[:header_len]

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        """Return the packet without its header. The native engine has already decrypted and verified the packet."""
        del seq, mac
        return first[header_len:] + rest


def with_tag(packet: bytes) -> bytes:
    """Return a received packet in asyncssh's format: the length, the packet, and an unused tag of zeros."""
    return len(packet).to_bytes(4, "big") + packet + bytes(_TAG)
