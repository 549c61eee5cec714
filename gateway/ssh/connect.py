"""One SSH connection over a socket that another link opens."""

import asyncio
import getpass
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh

from gateway.contracts import Progress, TunnelState
from gateway.errors import Reason, TunnelError
from gateway.ssh import algorithms, asyncssh_internals, credentials
from gateway.ssh.hostkeys import HostKeyMemory, HostKeyVerifier, read_trust
from gateway.ssh.options import SshOptions
from gateway.ssh.packet_transport import PacketTransport


class _TryOtherKeyTypeError(TunnelError):
    """The host key is not trusted, and the server may have one of another kind that is."""


async def connect(
    options: SshOptions, dial: Callable[[], Awaitable[socket.socket]], progress: Progress, memory: HostKeyMemory
) -> asyncssh.SSHClientConnection:
    """Exchange keys and log in.

    A fingerprint does not tell the kind of its key, and a server shows one key a connection: where it is not the one,
    the next connection asks for the kinds that are left. Each connection rules out one kind.

    Args:
        options: The tunnel's options.
        dial: Opens a connected, non-blocking socket to the server; closed with the connection.
        progress: Called when the login begins.
        memory: The tunnel's.

    Raises:
        TunnelError: With the reason; fatal where only a person can correct it.
    """
    seen: list[HostKeyVerifier] = []
    while True:
        try:
            return await _connect(options, await dial(), progress, memory, seen)
        except _TryOtherKeyTypeError:
            continue


async def _connect(
    options: SshOptions, sock: socket.socket, progress: Progress, memory: HostKeyMemory, seen: list[HostKeyVerifier]
) -> asyncssh.SSHClientConnection:
    """Try once, and leave nothing behind where that fails; `seen` gets the verifier where other kinds are left."""
    conn: asyncssh.SSHClientConnection | None = None
    verifier: HostKeyVerifier | None = None
    deadline = asyncio.timeout(options.login_timeout)
    try:
        _ensure_user_environment()
        progress(TunnelState.AUTHENTICATING)
        async with deadline:
            trust = await asyncio.to_thread(read_trust, options, _peer_address(sock))
            verifier = HostKeyVerifier(trust, options, memory, seen)
            async with credentials.login_arguments(options) as login:
                conn = await _log_in(options, sock, verifier, login)
        verifier.trusted(conn)
        conn.set_extra_info(verifier=verifier)
    except BaseException as error:
        _discard(conn, sock)
        if isinstance(error, TimeoutError) and deadline.expired():
            raise TunnelError(
                Reason.TIMEOUT, f"no login within {options.login_timeout:g} s (login_timeout)"
            ) from error
        if verifier is not None and isinstance(error, (asyncssh.Error, OSError, ValueError)):
            explained = _tunnel_error(error, options, verifier)
            if isinstance(explained, _TryOtherKeyTypeError):
                seen.append(verifier)
            raise explained from error
        raise
    return conn


def _ensure_user_environment() -> None:
    """Have a name and a home: asyncssh asks for both, though it needs neither, and some users have none."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = "gateway"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _peer_address(sock: socket.socket) -> str:
    """Where the connection leads, as far as this host sees it."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    try:
        return str(sock.getpeername()[0])
    except OSError:  # it is lost already
        return ""


async def _log_in(
    options: SshOptions, sock: socket.socket, verifier: HostKeyVerifier, login: dict[str, Any]
) -> asyncssh.SSHClientConnection:
    trust = verifier.trust
    arguments: dict[str, Any] = {
        "host": options.host,
        "port": options.port,
        "config": None,
        "client_factory": lambda: verifier,
        "known_hosts": (trust.keys, trust.listed.authorities, trust.listed.revoked),
        "host_key_alias": options.host_key_alias,
        "x509_trusted_certs": None,
        "server_host_key_algs": verifier.proposal,
        "kex_algs": algorithms.usable("kex", options.kex),
        "encryption_algs": algorithms.usable("ciphers", options.ciphers),
        "mac_algs": algorithms.usable("macs", options.macs),
        "compression_algs": ["none"],
        "login_timeout": 0,
        "keepalive_interval": 0,  # the pool asks by itself
        **login,
    }
    if asyncssh_internals.is_supported():
        return await asyncssh_internals.log_in(
            sock, PacketTransport, native=options.data_plane == "auto", **arguments
        )
    return await asyncssh.connect(sock=sock, **arguments)


def _discard(conn: asyncssh.SSHClientConnection | None, sock: socket.socket) -> None:
    """Close what a login that failed has opened, without waiting: nothing can come in between."""
    if isinstance(conn, asyncssh_internals.ClientConnection):
        asyncssh_internals.close_now(conn)
    elif conn is not None:
        conn.abort()
        return  # asyncio's transport closes the socket
    sock.close()


def _tunnel_error(error: Exception, options: SshOptions, verifier: HostKeyVerifier) -> TunnelError:
    where = str(options.endpoint)
    match error:
        case asyncssh.HostKeyNotVerifiable() if verifier.offered is None:
            return TunnelError(Reason.HOST_KEY, f"{where}: {error.reason}", fatal=True)
        case asyncssh.HostKeyNotVerifiable():
            listed = verifier.trust.listed
            known = listed.keys or listed.authorities
            what = "the host key has CHANGED" if known else "the host key is not known"
            kind = _TryOtherKeyTypeError if verifier.has_other_key_types else TunnelError
            remedy = (
                ""
                if known
                else (
                    f"; compare it with what ssh-keygen -l shows of the key on the server itself, then add it"
                    f" (ssh-keyscan -p {options.endpoint.port} {options.endpoint.host}) to known_hosts or host_keys"
                )
            )
            return kind(Reason.HOST_KEY, f"{where}: {what}: it offers {verifier.offered}{remedy}", fatal=True)
        case asyncssh.PermissionDenied():
            return TunnelError(Reason.AUTH, f"{options.user}@{where}: {error.reason}", fatal=True)
        case asyncssh.KeyExchangeFailed() | asyncssh.ProtocolNotSupported():
            return TunnelError(Reason.PROTOCOL, f"{where}: {error.reason}", fatal=True)
        case asyncssh.DisconnectError() if error.code == asyncssh.DISC_TOO_MANY_CONNECTIONS:
            return TunnelError(Reason.TOO_MANY_CONNECTIONS, f"{where}: {error.reason}")
        case asyncssh.DisconnectError() if error.code in _LOGIN_REFUSED or "authentication" in error.reason:
            return TunnelError(Reason.AUTH, f"{options.user}@{where}: {error.reason}", fatal=True)
        case TimeoutError():
            return TunnelError(Reason.TIMEOUT, f"{where}: {error}")
        case asyncssh.ConnectionLost() | OSError():
            said = verifier.greeting().decode("ascii", "replace").strip()
            if said.startswith(_OPENSSH_REFUSALS):
                return TunnelError(Reason.TOO_MANY_CONNECTIONS, f"{where}: it says {said!r}")
            return TunnelError(Reason.RESET, f"{where}: {error}")
        case _:
            return TunnelError(Reason.PROTOCOL, f"{where}: {error}")


_LOGIN_REFUSED = {
    asyncssh.DISC_HOST_NOT_ALLOWED_TO_CONNECT,
    asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
    asyncssh.DISC_ILLEGAL_USER_NAME,
}
_OPENSSH_REFUSALS = ("Not allowed at this time", "Exceeded MaxStartups")
"""What OpenSSH says instead of its version, for a source with penalties and when it is busy."""
