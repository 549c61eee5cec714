"""Checks that AES-GCM in this process never uses a counter twice with the same key (RFC 5647, section 7.1)."""

import hashlib
from collections.abc import Callable
from typing import Any, Self

from gateway.ssh.aes_gcm import COUNTER_AT, AesGcm


class Nonces:
    """Context manager that checks all packets that are encrypted while the context is open."""

    def __init__(self) -> None:
        self.sealed = 0
        """Number of packets that were sealed."""
        self.problems: list[str] = []
        self._last: dict[bytes, int] = {}
        """The last counter of each key, by the key's hash."""
        self._ciphers: dict[bytes, int] = {}
        """The number of the cipher object that sealed with a key, by the key's hash."""
        self._made = 0
        self._original: Callable[..., None] = AesGcm.__init__

    @property
    def keys(self) -> int:
        """Number of keys that have sealed packets."""
        return len(self._last)

    def __enter__(self) -> Self:
        original = self._original

        def watched(gcm: AesGcm, theirs: Any) -> None:
            original(gcm, theirs)
            self._made += 1
            key = hashlib.sha256(theirs._cipher._key).digest()
            gcm.seal_into = self._watch(gcm.seal_into, key, self._made)
            gcm._encrypt = self._watch(gcm._encrypt, key, self._made)

        AesGcm.__init__ = watched  # type: ignore[assignment, method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        AesGcm.__init__ = self._original  # type: ignore[method-assign]

    def _watch(self, seal: Callable[..., Any], key: bytes, cipher: int) -> Callable[..., Any]:
        def watched(nonce: bytes, *packet: Any) -> Any:
            counter = int.from_bytes(nonce[COUNTER_AT:], "big")
            if counter <= self._last.get(key, -1):
                self.problems.append(f"counter {counter} after {self._last[key]} with one key")
            if self._ciphers.setdefault(key, cipher) != cipher:
                self.problems.append("a key was agreed twice")
            self._last[key] = counter
            self.sealed += 1
            return seal(nonce, *packet)

        return watched
