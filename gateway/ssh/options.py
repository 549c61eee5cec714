"""Defines the configuration keys of SSH tunnels."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gateway.contracts.config_types import AT_LEAST_ONE, PORT, POSITIVE, SENSITIVE, Duration, HostPort
from gateway.contracts.secret import Secret
from gateway.processes.child_environment import check_environment
from gateway.processes.command_template import check_command
from gateway.relay.resolver import is_address
from gateway.ssh import algorithms

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def _check_host(text: str) -> None:
    """Check the name or address of a server.

    Raises:
        ValueError: The string is not a host name or an address. For example, it contains a user or a port.
    """
    if "@" in text:
        raise ValueError(f"{text!r} contains a user: write only the host, and set the key `user`")
    if "://" in text or re.search(r"[\s/\[\]]", text):
        raise ValueError(
            f"{text!r} is neither a host name nor an IP address: write one of them (IPv6 without brackets)"
        )
    if re.fullmatch(r"[^:]+:\d*", text):
        raise ValueError(f"{text!r} contains a port: write only the host, and set the key `port`")
    if ":" in text and not is_address(text):
        raise ValueError(f"{text!r} is not an IPv6 address: write the name or address of the server")


@dataclass(frozen=True)
class KeepaliveOptions:
    """How often the gateway sends keepalives, and when it replaces a silent SSH connection.

    Args:
        interval: Time between two keepalives.
        suspect: Silence after which new clients use another connection, and a replacement is dialed.
        replace: Additional silence after which a suspect connection is closed, if other connections receive data.
        lost: Silence after which a connection is closed even if no other connection receives data. If the network
            recovers before this time, the connections of clients continue.
    """

    interval: Duration = field(default=Duration(2.0), metadata=POSITIVE)
    suspect: Duration = field(default=Duration(6.0), metadata=POSITIVE)
    replace: Duration = field(default=Duration(3.0), metadata=POSITIVE)
    lost: Duration = field(default=Duration(60.0), metadata=POSITIVE)

    def __post_init__(self) -> None:
        if self.interval >= min(self.suspect, self.lost):
            values = f"interval {self.interval:g} s, suspect {self.suspect:g} s, lost {self.lost:g} s"
            raise ValueError(
                f"interval must be less than suspect and lost ({values}), because otherwise idle connections count"
                " as silent: lower interval"
            )


@dataclass(frozen=True)
class PoolOptions:
    """The minimum and maximum number of SSH connections of a tunnel, for each traffic class.

    Args:
        min: Number of connections to keep open. With at least two, new clients do not wait if one connection is lost.
        max: Maximum number of connections. The tunnel opens further connections when the open ones carry many
            channels.
    """

    min: int = field(default=2, metadata=AT_LEAST_ONE)
    max: int = field(default=32, metadata=AT_LEAST_ONE)

    def __post_init__(self) -> None:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is more than max ({self.max}): lower min, or raise max")


@dataclass(frozen=True)
class SshOptions:
    """The options of a tunnel through an SSH server that forwards connections.

    Args:
        host: Name or address of the server, without the port. The tunnel in `via`, if set, resolves the name.
        user: The user to log in as.
        port: TCP port of the server.
        identity_files: Private keys, tried in order. A certificate next to a key (`KEY-cert.pub`) is also used.
        certificate_files: OpenSSH certificates for `identity_files`, if the certificates are not next to the keys.
        passphrase: The passphrase of encrypted private keys.
        password: The password, for servers that do not accept public keys.
        agent: Path of an SSH agent's socket, such as `${SSH_AUTH_SOCK}`.
        known_hosts: Files in OpenSSH's format, including `@cert-authority` and `@revoked` lines.
        host_keys: Pinned keys, in addition to `known_hosts`: `ssh-ed25519 AAAA…` or a fingerprint `SHA256:…`.
        host_key_alias: The name to look up in `known_hosts` instead of `host`.
        insecure_host_key: Accept any host key. An attacker on the network path can then read and change all traffic.
        kex: Key exchange algorithms in order of preference, with the names of `ssh -Q kex`. Defaults that this
            machine's OpenSSL does not support are skipped.
        ciphers: Encryption algorithms in order of preference.
        macs: Message authentication codes in order of preference, for ciphers other than AES-GCM and ChaCha20.
        host_key_algorithms: Algorithms for host keys and for CA signatures, in order of preference. The gateway
            first proposes the algorithms for which it has a trusted key.
        data_plane: The code that moves the bytes of the channels. `auto` uses the native engine (written in C) for
            AES-GCM and ChaCha20-Poly1305. For other ciphers, or if the native engine is not built, `auto` uses
            asyncssh, which is slower. `native` is like `auto`, but fails if the native engine is not built.
            `asyncssh` always uses asyncssh. If all SSH tunnels have `asyncssh`, connections without an SSH tunnel do
            not use the native engine either.
        proxy_command: A program and its arguments. The standard input and output of the program are the connection to
            the server. The program runs without a shell. The gateway replaces `{host}`, `{port}` and `{user}`
            with the values of the keys `host`, `port` and `user`.
        environment: Names of environment variables to pass to `proxy_command`, in addition to PATH, HOME, USER,
            LOGNAME, TZ and the locale.
        login_exit_codes: Exit codes with which `proxy_command` reports that its own login failed. The tunnel is then
            quarantined.
        connect_timeout: Timeout for opening the TCP connection.
        login_timeout: Timeout of key exchange and authentication.
        dial_timeout: Timeout for opening a channel to a target.
        keepalive: Detection of silent connections.
        connections: Size of the connection pool.
    """

    host: str = field(metadata={"check": _check_host})
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
    data_plane: Literal["auto", "native", "asyncssh"] = "auto"
    proxy_command: tuple[str, ...] | None = field(default=None, metadata=SENSITIVE)
    environment: tuple[str, ...] = ()
    login_exit_codes: tuple[int, ...] = ()
    connect_timeout: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    login_timeout: Duration = field(default=Duration(15.0), metadata=POSITIVE)
    dial_timeout: Duration = field(default=Duration(10.0), metadata=POSITIVE)
    keepalive: KeepaliveOptions = field(default_factory=KeepaliveOptions)
    connections: PoolOptions = field(default_factory=PoolOptions)

    def __post_init__(self) -> None:
        for pin in self.host_keys:
            if pin.startswith("SHA256:") and not _FINGERPRINT.fullmatch(pin):
                raise ValueError(
                    f"host_keys: {pin!r} is not a fingerprint; it must be 'SHA256:' followed by 43 base64 characters,"
                    " as printed by ssh-keygen -lf"
                )
        if self.proxy_command is not None:
            check_command("proxy_command", self.proxy_command, ("host", "port", "user"))
        elif self.environment or self.login_exit_codes:
            key = "environment" if self.environment else "login_exit_codes"
            raise ValueError(f"{key}: has no effect without proxy_command: remove it, or add proxy_command")
        check_environment("environment", self.environment)
        for key in algorithms.DEFAULTS:
            algorithms.validate(key, getattr(self, key))

    @property
    def endpoint(self) -> HostPort:
        """The server's address."""
        return HostPort(self.host, self.port)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the tunnel reads when it connects."""
        secrets = (self.passphrase, self.password)
        return (
            *self.identity_files,
            *self.certificate_files,
            *self.known_hosts,
            *(secret.path for secret in secrets if secret and secret.path),
        )
