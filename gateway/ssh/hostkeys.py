"""Which host keys are trusted: files and pins, fail closed, per hop."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.public_key import import_certificate_subject

from gateway.errors import Reason, TunnelError
from gateway.ssh.credentials import told
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
        self.known = False
        """Whether the files know other keys for this host: then it has changed, or somebody is in between."""
        self.lost: Exception | None = None
        self.greeting: Callable[[], bytes] = bytes
        """What the server said first."""

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Note where its first words are kept."""
        wire = getattr(conn, "wire", None)
        if wire is not None:
            self.greeting = lambda: bytes(wire.inbox.greeting)

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


_MARKERS = ("@cert-authority", "@revoked")
Match = Callable[[str, str, int | None], Sequence[Sequence[Any]]]
_REVOKED = (2, 4, 6)
"""Where the revoked keys, certificates and subjects stand in what `SSHKnownHosts.match` returns."""


def trusted(options: SshOptions, verifier: Verifier | None = None) -> Match:
    """Finds the host keys that the files trust and revoke; none are trusted when only pins do.

    Raises:
        TunnelError: A file cannot be read, or nothing at all is trusted; fatal.
    """
    if not (options.known_hosts or options.host_keys or options.insecure_host_key):
        raise TunnelError(
            Reason.HOST_KEY,
            "no host key is trusted: set known_hosts or host_keys (ssh-keyscan shows them)",
            fatal=True,
        )
    try:
        known = asyncssh.import_known_hosts("\n".join(_checked(path) for path in options.known_hosts))
    except ValueError as error:
        raise TunnelError(Reason.HOST_KEY, f"known_hosts: {error}", fatal=True) from error

    def match(host: str, addr: str, port: int | None) -> Sequence[Sequence[Any]]:
        found = known.match(host, addr, port)
        if verifier is not None:
            verifier.known = bool(found[0] or found[1])
        if port is None:
            return found
        # When only revoked keys stand under [host]:port, asyncssh looks the bare host up instead and forgets them.
        with_port = known.match(f"[{host}]:{port}", "", None)
        return [[*each, *with_port[at]] if at in _REVOKED else each for at, each in enumerate(found)]

    return match


def _checked(path: Path) -> str:
    """A file whose every line is understood: one that is not might be what revokes a key."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TunnelError(Reason.HOST_KEY, f"{path}: {told(error)}", fatal=True) from error
    for number, line in enumerate(text.splitlines(), 1):
        if not _is_understood(line.strip()):
            detail = f"{path}:{number}: is no line of known_hosts (hosts, kind of key, key): mend it or take it away"
            raise TunnelError(Reason.HOST_KEY, detail, fatal=True)
    return text


def _is_understood(line: str) -> bool:
    """Whether asyncssh reads it; it may do without a kind of key that it does not know, unless that is revoked."""
    words = line.split(None, 2)
    if not words or line.startswith("#"):
        return True
    if line.startswith("@"):
        return words[0] in _MARKERS and len(words) == 3 and (words[0] != "@revoked" or _is_key(words[2]))
    return len(words) > 1


def _is_key(data: str) -> bool:
    for read in (asyncssh.import_public_key, asyncssh.import_certificate, import_certificate_subject):
        try:
            read(data)
        except asyncssh.KeyImportError:
            continue
        return True
    return False


def _public_key(pin: str) -> bytes:
    try:
        return asyncssh.import_public_key(pin).public_data
    except asyncssh.KeyImportError as error:
        raise TunnelError(
            Reason.HOST_KEY, f"host_keys: {pin[:40]!r} is neither a public key nor SHA256:…", fatal=True
        ) from error
