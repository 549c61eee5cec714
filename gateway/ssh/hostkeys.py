"""Which host keys are trusted, and which kind to ask a server for: files and pins, fail closed, per hop."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from gateway.errors import Reason, TunnelError
from gateway.ssh import algorithms, asyncssh_internals
from gateway.ssh.knownhosts import KnownHostEntries, known_hosts
from gateway.ssh.options import SshOptions


@dataclass(frozen=True)
class Trust:
    """What a tunnel trusts of one server, from its pins and its files together.

    Args:
        keys: Keys pinned or listed.
        fingerprints: Pins that do not tell which kind of key they stand for.
        listed: What the files say.
        insecure: Any key is accepted.
    """

    keys: tuple[Any, ...] = ()
    fingerprints: frozenset[str] = frozenset()
    listed: KnownHostEntries = field(default_factory=KnownHostEntries)
    insecure: bool = False

    def propose(
        self, allowed: Sequence[str], remembered: str | None, refused: Collection[str | None] = ()
    ) -> list[str]:
        """The host key algorithms to propose: first those for which a key is trusted, as OpenSSH does.

        The rest follows, so that a server without such a key shows what it has.

        Args:
            allowed: What the configuration accepts, in order of preference.
            remembered: The kind of key that was trusted last.
            refused: Kinds of keys that the server has shown, and that are not trusted.
        """
        kinds = {key.get_algorithm() for key in self.keys}

        def rank(algorithm: str) -> tuple[bool, int]:
            kind, certified = algorithms.key_type_of(algorithm), algorithms.is_certificate(algorithm)
            place = 0 if certified and self.listed.authorities else (1 if kind in kinds else 3) + certified
            return kind != remembered, place

        return sorted((each for each in allowed if algorithms.key_type_of(each) not in refused), key=rank)


def read_trust(options: SshOptions, address: str = "") -> Trust:
    """What the options and the files that they name trust. Blocks: to be called in a thread.

    Args:
        options: The tunnel's options.
        address: Where the connection leads: what is revoked there is revoked for the name as well.

    Raises:
        TunnelError: A file or a pin cannot be used, or nothing at all is trusted; fatal.
    """
    if not (options.known_hosts or options.host_keys or options.insecure_host_key):
        raise TunnelError(
            Reason.HOST_KEY,
            "no host key is trusted: set known_hosts or host_keys (ssh-keyscan shows them)",
            fatal=True,
        )
    pins = tuple(_public_key(pin) for pin in options.host_keys if not pin.startswith("SHA256:"))
    name = options.host_key_alias or options.host
    listed = known_hosts(options.known_hosts).look_up(name, options.port, address)
    trust = Trust(
        keys=(*pins, *listed.keys),
        fingerprints=frozenset(pin for pin in options.host_keys if pin.startswith("SHA256:")),
        listed=listed,
        insecure=options.insecure_host_key,
    )
    accepted = {algorithms.key_type_of(each) for each in options.host_key_algorithms}
    kinds = {key.get_algorithm() for key in trust.keys}
    if kinds and not (kinds & accepted or trust.fingerprints or listed.authorities or trust.insecure):
        raise TunnelError(
            Reason.HOST_KEY,
            f"every trusted host key is of a kind that host_key_algorithms leaves out: {', '.join(sorted(kinds))}",
            fatal=True,
        )
    return trust


@dataclass
class HostKeyMemory:
    """What a tunnel remembers between connections.

    Args:
        kind: The kind of host key that was trusted last, where fingerprints do not tell it.
    """

    kind: str | None = None


class HostKeyVerifier(asyncssh.SSHClient):
    """Judges what asyncssh does not find among the trusted keys, and remembers what the server offered.

    Args:
        trust: What is trusted.
        options: The tunnel's options.
        memory: The tunnel's.
        before: The verifiers of earlier connections to this server, whose keys were not trusted.
    """

    def __init__(
        self, trust: Trust, options: SshOptions, memory: HostKeyMemory, before: "Sequence[HostKeyVerifier]" = ()
    ) -> None:
        self.trust = trust
        self.refused_key_type: str | None = None
        """The kind of the key that the server showed and that is not trusted."""
        self.shown: str | None = None
        """That key, for a person."""
        self.lost: Exception | None = None
        self.greeting: Callable[[], bytes] = bytes
        """What the server said first."""
        self._memory = memory
        self._conn: Any = None
        self._shown_before = [each.shown for each in before if each.shown]
        self._signatures = {algorithms.signature_algorithm_of(each) for each in options.host_key_algorithms}
        allowed = algorithms.usable("host_key_algorithms", options.host_key_algorithms)
        self.proposal = trust.propose(allowed, memory.kind, {each.refused_key_type for each in before})
        """The host key algorithms to propose."""

    @property
    def offered(self) -> str | None:
        """Every key that was offered and is not trusted, on this connection and on those before it."""
        return ", ".join(filter(None, [*self._shown_before, self.shown])) or None

    @property
    def has_other_key_types(self) -> bool:
        """Whether the server has a key of another kind, for which a fingerprint may stand."""
        if self.refused_key_type is None or not self.trust.fingerprints:
            return False
        theirs = getattr(self._conn, "host_keys_offered", ())
        return any(each in theirs and algorithms.key_type_of(each) != self.refused_key_type for each in self.proposal)

    def trusted(self, conn: asyncssh.SSHClientConnection) -> None:
        """Remember what kind of key a connection that is open was trusted for."""
        key = conn.get_server_host_key()
        if self.trust.fingerprints and key is not None:
            self._memory.kind = key.get_algorithm()

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Note where the server's first words are kept."""
        self._conn = conn
        packet_transport = getattr(conn, "packet_transport", None)
        if packet_transport is not None:
            self.greeting = lambda: bytes(packet_transport.reader.greeting)

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a key that is neither pinned nor listed."""
        del host, addr, port
        if key.get_fingerprint() in self.trust.fingerprints or self.trust.insecure:
            return True
        self.refused_key_type = key.get_algorithm()
        self.shown = _described(key)
        return False

    def validate_host_ca_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called for a certificate whose authority is not listed."""
        del host, addr, port
        self.shown = f"a certificate of {_described(key)}"
        return self.trust.insecure

    def signature_problem(self, certificate: Any) -> str | None:
        """What is wrong with how an authority signed a certificate: by default SHA-1 proves nothing."""
        name = algorithms.ca_signature_algorithm(certificate)
        accepted = name in self._signatures or self.trust.insecure
        return None if accepted else f"it is signed with {name}, which host_key_algorithms leaves out"

    def record_refused_certificate(self, certificate: Any, why: str) -> None:
        """Note what a certificate was refused for, whose own key is not trusted either."""
        key, authority = _described(certificate.key), _described(certificate.signing_key)
        self.shown = f"{key} with a certificate of {authority} ({why})"

    def begin_auth(self, username: str) -> None:
        """Called before the user name or a credential is sent: some ciphers are safe only with strict key exchange.

        Raises:
            asyncssh.KeyExchangeFailed: One of these was agreed, and the server lacks it.
        """
        del username
        if asyncssh_internals.has_strict_kex(self._conn):
            return
        for way in ("send", "recv"):
            cipher, mac = (str(self._conn.get_extra_info(f"{way}_{what}")) for what in ("cipher", "mac"))
            if algorithms.needs_strict_kex(cipher, mac):
                raise asyncssh.KeyExchangeFailed(
                    f"offers {cipher}{'' if cipher == mac else f' with {mac}'} without strict key exchange"
                    " (CVE-2023-48795): update it, or list only AES-GCM in ciphers"
                )

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember why the connection ended."""
        self.lost = exc


def _described(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


def _public_key(pin: str) -> asyncssh.SSHKey:
    try:
        return asyncssh.import_public_key(pin)
    except asyncssh.KeyImportError as error:
        raise TunnelError(
            Reason.HOST_KEY, f"host_keys: {pin[:40]!r} is neither a public key nor SHA256:…", fatal=True
        ) from error
