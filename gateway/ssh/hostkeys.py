"""Which host keys are trusted: files and pins, fail closed, per hop."""

from pathlib import Path

import asyncssh

from gateway.errors import Reason, TunnelError
from gateway.ssh.options import SshOptions


class Verifier(asyncssh.SSHClient):
    """Trusts pinned keys beside `known_hosts`, and remembers what the server offered.

    Args:
        options: The tunnel's options.
    """

    def __init__(self, options: SshOptions) -> None:
        self._fingerprints = {pin for pin in options.host_keys if pin.startswith("SHA256:")}
        self._keys = {_public_key(pin) for pin in options.host_keys if not pin.startswith("SHA256:")}
        self._insecure = options.insecure_host_key
        self.offered: str | None = None
        self.lost: Exception | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a key that `known_hosts` does not trust."""
        del host, addr, port
        self.offered = f"{key.get_algorithm()} {key.get_fingerprint()}"
        return self._insecure or key.get_fingerprint() in self._fingerprints or key.public_data in self._keys

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a certificate whose authority `known_hosts` does not trust."""
        del host, addr, port
        self.offered = f"a certificate of {key.get_algorithm()} {key.get_fingerprint()}"
        return self._insecure

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember why the connection ended."""
        self.lost = exc


def trusted(options: SshOptions) -> asyncssh.SSHKnownHosts:
    """The host keys that the files trust; empty when only pins do.

    Raises:
        TunnelError: A file cannot be read, or nothing at all is trusted; fatal.
    """
    if not (options.known_hosts or options.host_keys or options.insecure_host_key):
        raise TunnelError(
            Reason.HOST_KEY,
            "no host key is trusted: set known_hosts or host_keys (ssh-keyscan shows them)",
            fatal=True,
        )
    return asyncssh.import_known_hosts("\n".join(_read(path) for path in options.known_hosts))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TunnelError(Reason.HOST_KEY, f"{path}: {error}", fatal=True) from error


def _public_key(pin: str) -> bytes:
    try:
        return asyncssh.import_public_key(pin).public_data
    except asyncssh.KeyImportError as error:
        raise TunnelError(
            Reason.HOST_KEY, f"host_keys: {pin[:40]!r} is neither a public key nor SHA256:…", fatal=True
        ) from error
