"""Restricts a server's host key to the negotiated signature algorithm."""

import asyncssh
from asyncssh.packet import SSHPacket

from gateway.ssh import algorithms


class SingleAlgorithmHostKey:
    """A host key that accepts only signatures of one algorithm. asyncssh's keys accept several algorithms.

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
