"""What a configuration may say about an SSH tunnel."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.contracts import AT_LEAST_ONE, PORT, POSITIVE, Duration, Endpoint, Secret
from gateway.relay.resolver import is_address
from gateway.ssh import algorithms

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


@dataclass(frozen=True)
class Keepalive:
    """What becomes of an SSH connection that falls silent.

    Args:
        interval: Between two requests for a sign of life.
        suspect: Silence after which new clients go elsewhere, and a replacement is dialled.
        replace: Further silence after which it is given up, when others answer.
        lost: Silence after which it is given up although nothing else answers either: a stall that is over by
            then costs nobody's connection.
    """

    interval: Duration = field(default=Duration(2.0), metadata=POSITIVE)
    suspect: Duration = field(default=Duration(6.0), metadata=POSITIVE)
    replace: Duration = field(default=Duration(3.0), metadata=POSITIVE)
    lost: Duration = field(default=Duration(60.0), metadata=POSITIVE)

    def __post_init__(self) -> None:
        if self.interval >= min(self.suspect, self.lost):
            told = f"interval {self.interval:g} s, suspect {self.suspect:g} s, lost {self.lost:g} s"
            raise ValueError(f"interval must be less than suspect and lost, or what is healthy seems silent: {told}")


@dataclass(frozen=True)
class Connections:
    """How many SSH connections a tunnel keeps for each sort of traffic.

    Args:
        min: Kept open always; with two, losing one costs no time.
        max: Opened at most, when the open ones carry many channels.
    """

    min: int = field(default=2, metadata=AT_LEAST_ONE)
    max: int = field(default=32, metadata=AT_LEAST_ONE)


@dataclass(frozen=True)
class SshOptions:
    """An SSH server that tunnels for us.

    Args:
        host: Name or address of the server, as its `via` tunnel sees it.
        user: The user to log in as.
        port: TCP port of the server.
        identity_files: Private keys, tried in order; a certificate beside a key (`KEY-cert.pub`) is used too.
        certificate_files: OpenSSH certificates for these keys, where they lie elsewhere.
        passphrase: Opens encrypted private keys.
        password: Password login, for servers that ask for nothing better.
        agent: Path of an SSH agent's socket, such as `${SSH_AUTH_SOCK}`.
        known_hosts: Files in OpenSSH's format; `@cert-authority` and `@revoked` lines count.
        host_keys: Keys pinned here: `ssh-ed25519 AAAA…` or a fingerprint `SHA256:…`; they count beside `known_hosts`.
        host_key_alias: The name to look up in `known_hosts` instead of `host`.
        insecure_host_key: Accept any host key: whoever is on the path can read and change everything.
        kex: Key exchange algorithms in order of preference, named as `ssh -Q kex` does. A default that this machine's
            OpenSSL lacks is passed over.
        ciphers: Encryption algorithms in order of preference.
        macs: Message authentication codes in order of preference, for ciphers other than AES-GCM and ChaCha20.
        host_key_algorithms: What the server may prove itself with, and an authority sign with, in order of
            preference; those for which a key is trusted come first.
        data_plane: What carries the channels: `auto` is the gateway's own data plane with AES-GCM and asyncssh's
            channels with other ciphers; `asyncssh` is always the latter, which are slower.
        connect_timeout: For the TCP connection.
        login_timeout: For key exchange and authentication.
        dial_timeout: For a channel to a target.
        keepalive: Detection of a silent connection.
        connections: Size of the pool.
    """

    host: str
    user: str
    port: int = field(default=22, metadata=PORT)
    identity_files: tuple[Path, ...] = ()
    certificate_files: tuple[Path, ...] = ()
    passphrase: Secret | None = None
    password: Secret | None = None
    agent: Path | None = None
    known_hosts: tuple[Path, ...] = ()
    host_keys: tuple[str, ...] = ()
    host_key_alias: str | None = None
    insecure_host_key: bool = False
    kex: tuple[str, ...] = algorithms.KEX
    ciphers: tuple[str, ...] = algorithms.CIPHERS
    macs: tuple[str, ...] = algorithms.MACS
    host_key_algorithms: tuple[str, ...] = algorithms.HOST_KEYS
    data_plane: Literal["auto", "asyncssh"] = "auto"
    connect_timeout: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    login_timeout: Duration = field(default=Duration(15.0), metadata=POSITIVE)
    dial_timeout: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    keepalive: Keepalive = field(default_factory=Keepalive)
    connections: Connections = field(default_factory=Connections)

    def __post_init__(self) -> None:
        if "@" in self.host:
            raise ValueError(f"host: {self.host!r} names a user: that goes to user")
        if "://" in self.host or re.search(r"[\s/\[\]]", self.host):
            raise ValueError(
                f"host: {self.host!r} is neither a name nor an address (an IPv6 address without brackets)"
            )
        if ":" in self.host and not is_address(self.host):
            raise ValueError(f"host: {self.host!r} is no IPv6 address (a port goes to port)")
        for pin in self.host_keys:
            if pin.startswith("SHA256:") and not _FINGERPRINT.fullmatch(pin):
                raise ValueError(f"host_keys: {pin!r} is no fingerprint: SHA256: and 43 characters (ssh-keygen -lf)")
        for key in algorithms.DEFAULTS:
            algorithms.validate(key, getattr(self, key))

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens."""
        return Endpoint(self.host, self.port)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file the tunnel reads when it connects."""
        secrets = (self.passphrase, self.password)
        return (
            *self.identity_files,
            *self.certificate_files,
            *self.known_hosts,
            *(secret.path for secret in secrets if secret and secret.path),
        )
