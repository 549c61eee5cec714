"""Implements AES-GCM for SSH (RFC 5647).

This module does not use the gateway's code, so that the fuzzer can detect errors in the gateway's encryption.
"""

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CIPHER = b"aes128-gcm@openssh.com"
TAG = 16
_BLOCK, _LEAST_PADDING = 16, 4


class OracleError(AssertionError):
    """The gateway violated a rule that the fuzzer checks."""


@dataclass(frozen=True)
class Keys:
    """The encryption keys and initialization vectors of both directions of an SSH connection."""

    to_server: bytes = b"S" * 16
    iv_to_server: bytes = b"s" * 12
    to_client: bytes = b"C" * 16
    iv_to_client: bytes = b"c" * 12


class Seal:
    """Encrypts or decrypts the packets of one direction of an SSH connection.

    Args:
        key: The key, 16 bytes.
        iv: The initialization vector, 12 bytes.
    """

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aes = AESGCM(key)
        self._fixed, self._counter = iv[:4], int.from_bytes(iv[4:], "big")

    def seal(self, payload: bytes, padding: int | None = None) -> bytes:
        """Encrypt a payload; return the complete packet.

        Args:
            payload: The content of the packet.
            padding: The padding length to write into the packet, which can be wrong; None for the correct length.
        """
        fill = -(1 + len(payload)) % _BLOCK
        fill += _BLOCK if fill < _LEAST_PADDING else 0
        head = (1 + len(payload) + fill).to_bytes(4, "big")
        plain = bytes([fill if padding is None else padding]) + payload + bytes(fill)
        return head + self._aes.encrypt(self._nonce(), plain, head)

    def open(self, packet: bytes) -> bytes:
        """Decrypt a complete packet; return its payload.

        Raises:
            OracleError: The packet is malformed.
        """
        try:
            plain = self._aes.decrypt(self._nonce(), packet[4:], packet[:4])
        except InvalidTag:
            raise OracleError("the gateway sent a packet whose tag is wrong") from None
        if len(plain) % _BLOCK or not _LEAST_PADDING <= plain[0] < len(plain) - 1:
            raise OracleError(f"the gateway sent {len(plain)} bytes with a padding of {plain[0]}")
        return plain[1 : -plain[0]]

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) % (1 << 64)
        return nonce
