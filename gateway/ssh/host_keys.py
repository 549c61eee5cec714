"""Verifies host keys against known_hosts files and pinned keys, and orders the host key algorithms to propose."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from gateway.errors import FailureReason, TunnelError
from gateway.ssh import algorithms, asyncssh_internals
from gateway.ssh.asyncssh_transport import transport_of
from gateway.ssh.known_hosts import KnownHostEntries, load_known_hosts
from gateway.ssh.options import SshOptions
from gateway.ssh.ssh_connection import SshConnection


@dataclass(frozen=True)
class TrustedHostKeys:
    """The host keys that a tunnel trusts for one server.

    Args:
        keys: Keys that are pinned or listed in known_hosts.
        fingerprints: Pinned fingerprints. A fingerprint does not reveal the type of the key.
        listed: The entries of the known_hosts files for this server.
        insecure: Whether every key is accepted.
    """

    keys: tuple[Any, ...] = ()
    fingerprints: frozenset[str] = frozenset()
    listed: KnownHostEntries = field(default_factory=KnownHostEntries)
    insecure: bool = False

    def propose(
        self, allowed: Sequence[str], remembered: str | None, refused: Collection[str | None] = ()
    ) -> list[str]:
        """Return the host key algorithms to propose. Algorithms with a trusted key come first, as in OpenSSH.

        The other algorithms follow, so that a server without a trusted key also presents a key. The login error
        describes this key.

        Args:
            allowed: The configured algorithms, in order of preference.
            remembered: The key type to propose first; None if no type is remembered.
            refused: Key types not to propose, because the server's keys of these types are not trusted.
        """
        key_types = {key.get_algorithm() for key in self.keys}

        def rank(algorithm: str) -> tuple[bool, int]:
            key_type, certified = algorithms.key_type_of(algorithm), algorithms.is_certificate(algorithm)
            position = 0 if certified and self.listed.authorities else (1 if key_type in key_types else 3) + certified
            return key_type != remembered, position

        return sorted((each for each in allowed if algorithms.key_type_of(each) not in refused), key=rank)


def load_trusted_host_keys(options: SshOptions, address: str = "") -> TrustedHostKeys:
    """Collect the trusted host keys from the options and the known_hosts files.

    The function blocks, so call it in a thread.

    Args:
        options: The tunnel's options.
        address: The server's IP address; empty if it is not known. Keys that known_hosts revokes for this address are
            not trusted.

    Raises:
        TunnelError: A file or a pinned key is not valid, or no key is trusted; fatal.
    """
    if not (options.known_hosts or options.host_keys or options.insecure_host_key):
        raise TunnelError(
            FailureReason.HOST_KEY,
            "no host key is trusted: set known_hosts or host_keys (ssh-keyscan prints a server's keys)",
            fatal=True,
        )
    pins = tuple(_public_key(pin) for pin in options.host_keys if not pin.startswith("SHA256:"))
    name = options.host_key_alias or options.host
    listed = load_known_hosts(options.known_hosts).look_up(name, options.port, address)
    trust = TrustedHostKeys(
        keys=(*pins, *listed.keys),
        fingerprints=frozenset(pin for pin in options.host_keys if pin.startswith("SHA256:")),
        listed=listed,
        insecure=options.insecure_host_key,
    )
    accepted = {algorithms.key_type_of(each) for each in options.host_key_algorithms}
    key_types = {key.get_algorithm() for key in trust.keys}
    if key_types and not (key_types & accepted or trust.fingerprints or listed.authorities or trust.insecure):
        types = " or ".join(sorted(key_types))
        raise TunnelError(
            FailureReason.HOST_KEY,
            f"host_key_algorithms excludes the types of all trusted host keys: add an algorithm for {types}",
            fatal=True,
        )
    return trust


@dataclass
class RememberedHostKeyType:
    """Remembers which type of host key a tunnel accepted. The next connection proposes this type first.

    The type is remembered only if a fingerprint is pinned. The types of other trusted keys are known, but a
    fingerprint does not reveal the type of its key.

    Args:
        key_type: The type, such as `ssh-ed25519`; None if no type is remembered.
    """

    key_type: str | None = None


class HostKeyVerifier(asyncssh.SSHClient):
    """Accepts or refuses host keys that are not in asyncssh's trusted list, and records the refused keys.

    Args:
        trust: The trusted host keys.
        options: The tunnel's options.
        memory: The remembered key type; `remember_key_type` updates it.
        before: Verifiers that refused this server's host keys on earlier connections.
    """

    def __init__(
        self,
        trust: TrustedHostKeys,
        options: SshOptions,
        memory: RememberedHostKeyType,
        before: "Sequence[HostKeyVerifier]" = (),
    ) -> None:
        self.trust = trust
        self.refused_key_type: str | None = None
        """The type of the untrusted key that the server presented; None if it presented none."""
        self.refused_key: str | None = None
        """A description of the untrusted key or certificate that the server presented; None if it presented none."""
        self.close_error: Exception | None = None
        """The error that closed the connection; None if the connection is open or was closed without an error."""
        self.greeting: Callable[[], bytes] = bytes
        """A function that returns the first bytes that the server sent."""
        self._memory = memory
        self._conn: Any = None
        self._refused_before = [each.refused_key for each in before if each.refused_key]
        self._signatures = {algorithms.signature_algorithm_of(each) for each in options.host_key_algorithms}
        allowed = algorithms.usable("host_key_algorithms", options.host_key_algorithms)
        self.proposal = trust.propose(allowed, memory.key_type, {each.refused_key_type for each in before})
        """The host key algorithms to propose."""

    @property
    def offered(self) -> str | None:
        """A description of the untrusted keys that the server has presented, on this or on an earlier connection.

        None if the server has presented no untrusted key.
        """
        return ", ".join(filter(None, [*self._refused_before, self.refused_key])) or None

    @property
    def has_other_key_types(self) -> bool:
        """Whether the server offers a host key whose type differs from the type of the refused key.

        The other key might match a pinned fingerprint. False if no key was refused, or no fingerprint is pinned.
        """
        if self.refused_key_type is None or not self.trust.fingerprints:
            return False
        theirs = self._conn.host_keys_offered if isinstance(self._conn, SshConnection) else []
        return any(each in theirs and algorithms.key_type_of(each) != self.refused_key_type for each in self.proposal)

    def remember_key_type(self, conn: asyncssh.SSHClientConnection) -> None:
        """Remember the server's key type for the tunnel's next connection. Call this method after the login."""
        key = conn.get_server_host_key()
        if self.trust.fingerprints and key is not None:
            self._memory.key_type = key.get_algorithm()

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Store the connection, and make `greeting` return the first bytes from the server."""
        self._conn = conn
        transport = transport_of(conn)
        if transport is not None:
            self.greeting = lambda: transport.greeting

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Return whether to accept a host key that is not in asyncssh's trusted list."""
        del host, addr, port
        if key.get_fingerprint() in self.trust.fingerprints or self.trust.insecure:
            return True
        self.refused_key_type = key.get_algorithm()
        self.refused_key = _described(key)
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Return whether to accept a host certificate whose CA is not in asyncssh's trusted list."""
        del host, addr, port
        self.refused_key = f"a certificate signed by {_described(key)}"
        return self.trust.insecure

    def signature_problem(self, certificate: Any) -> str | None:
        """Return why the signature of a certificate is refused; None if the signature's algorithm is accepted."""
        name = algorithms.ca_signature_algorithm(certificate)
        accepted = name in self._signatures or self.trust.insecure
        return None if accepted else f"the certificate is signed with {name}, which is not in host_key_algorithms"

    def record_refused_certificate(self, certificate: Any, reason: str) -> None:
        """Record a refused certificate, so that error messages can describe it.

        Call this method only if the key in the certificate is not a trusted host key.
        """
        key, authority = _described(certificate.key), _described(certificate.signing_key)
        self.refused_key = f"{key} with a certificate signed by {authority} ({reason})"

    def begin_auth(self, username: str) -> None:
        """If the server does not support strict key exchange, refuse ciphers that need strict key exchange.

        asyncssh calls this method before it logs in.

        Raises:
            asyncssh.KeyExchangeFailed: The negotiated cipher needs strict key exchange, but the server lacks it.
        """
        del username
        if asyncssh_internals.has_strict_kex(self._conn):
            return
        for direction in ("send", "recv"):
            cipher, mac = (str(self._conn.get_extra_info(f"{direction}_{what}")) for what in ("cipher", "mac"))
            if algorithms.needs_strict_kex(cipher, mac):
                raise asyncssh.KeyExchangeFailed(
                    f"the connection negotiated {cipher}{'' if cipher == mac else f' with {mac}'} without strict key"
                    " exchange (CVE-2023-48795): update the server, or list only AES-GCM in ciphers"
                )

    def connection_lost(self, exc: Exception | None) -> None:
        """Store the error that closed the connection."""
        self.close_error = exc


def _described(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def _public_key(pin: str) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_public_key(pin)
    except asyncssh.KeyImportError as error:
        raise TunnelError(
            FailureReason.HOST_KEY,
            f"host_keys: {pin[:40]!r} is not valid: use a public key or a SHA256:… fingerprint",
            fatal=True,
        ) from error
