"""Connects to an SSH server over a socket of another link, and logs in."""

import asyncio
import getpass
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh

from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import Progress
from gateway.errors import Reason, TunnelError
from gateway.ssh import algorithms, asyncssh_internals, credentials
from gateway.ssh.client_connection import ClientConnection
from gateway.ssh.host_keys import HostKeyHistory, HostKeyVerifier, read_trust
from gateway.ssh.options import SshOptions
from gateway.ssh.packet_transport import close_now, log_in


class _TryOtherKeyTypeError(TunnelError):
    """The host key is not trusted, but the server might have a trusted host key of another type."""


async def connect(
    options: SshOptions, dial: Callable[[], Awaitable[socket.socket]], progress: Progress, memory: HostKeyHistory
) -> asyncssh.SSHClientConnection:
    """Connect, verify the host key and log in.

    A pinned fingerprint does not reveal the type of its key, and a server presents one key per connection. If that
    key is not trusted, this function connects again and proposes the remaining key types.

    Args:
        options: The tunnel's options.
        dial: Opens a connected, non-blocking socket to the server. The SSH connection owns it.
        progress: Called when the login starts.
        memory: The tunnel's host key memory. It is updated after a successful login.

    Returns:
        An authenticated connection; the caller must close it. Its extra info `verifier` is a `HostKeyVerifier`.

    Raises:
        TunnelError: The login failed; fatal if a retry cannot help.
    """
    refusals: list[HostKeyVerifier] = []
    while True:
        try:
            return await _connect(options, await dial(), progress, memory, refusals)
        except _TryOtherKeyTypeError:
            continue


async def _connect(
    options: SshOptions,
    sock: socket.socket,
    progress: Progress,
    memory: HostKeyHistory,
    refusals: list[HostKeyVerifier],
) -> asyncssh.SSHClientConnection:
    """Connect once. On failure, close the connection and the socket.

    Args:
        options: The tunnel's options.
        sock: The socket to the server. This function takes ownership of it.
        progress: Called when the login starts.
        memory: The tunnel's host key memory.
        refusals: Verifiers of earlier connections. This function adds its verifier if a key of
            another type might be trusted.
    """
    conn: asyncssh.SSHClientConnection | None = None
    verifier: HostKeyVerifier | None = None
    deadline = asyncio.timeout(options.login_timeout)
    try:
        _ensure_user_environment()
        progress(TunnelState.AUTHENTICATING)
        async with deadline:
            trust = await asyncio.to_thread(read_trust, options, _peer_address(sock))
            verifier = HostKeyVerifier(trust, options, memory, refusals)
            async with credentials.login_arguments(options) as login:
                conn = await _log_in(options, sock, verifier, login)
        verifier.remember_key_type(conn)
        conn.set_extra_info(verifier=verifier)
    except BaseException as error:
        _discard(conn, sock)
        if isinstance(error, TimeoutError) and deadline.expired():
            raise TunnelError(
                Reason.TIMEOUT, f"no login within {options.login_timeout:g} s (login_timeout)"
            ) from error
        if verifier is not None and isinstance(error, (asyncssh.Error, OSError, ValueError)):
            translated = _tunnel_error(error, options, verifier)
            if isinstance(translated, _TryOtherKeyTypeError):
                refusals.append(verifier)
            raise translated from error
        raise
    return conn


def _ensure_user_environment() -> None:
    """Set LOGNAME and HOME if they are missing. asyncssh reads both, although it does not need them here."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = "gateway"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _peer_address(sock: socket.socket) -> str:
    """Return the IP address of the peer; an empty string if the socket is not TCP or not connected."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    try:
        return str(sock.getpeername()[0])
    except OSError:  # the connection is already lost
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
        "keepalive_interval": 0,  # the pool sends its own keepalives
        **login,
    }
    if asyncssh_internals.is_supported():
        return await log_in(sock, native=options.data_plane == "auto", **arguments)
    return await asyncssh.connect(sock=sock, **arguments)


def _discard(conn: asyncssh.SSHClientConnection | None, sock: socket.socket) -> None:
    """Close the connection and socket of a failed login. Does not await, so a cancellation cannot interrupt it."""
    if isinstance(conn, ClientConnection):
        close_now(conn)
    elif conn is not None:
        conn.abort()
        return  # asyncio's transport owns the socket
    sock.close()


def _tunnel_error(error: Exception, options: SshOptions, verifier: HostKeyVerifier) -> TunnelError:
    """Convert an error of the login to a `TunnelError`."""
    where = str(options.endpoint)
    match error:
        case asyncssh.HostKeyNotVerifiable() if verifier.offered is None:
            return TunnelError(Reason.HOST_KEY, f"{where}: {error.reason}", fatal=True)
        case asyncssh.HostKeyNotVerifiable():
            listed = verifier.trust.listed
            is_listed = listed.keys or listed.authorities
            what = "the host key has CHANGED" if is_listed else "the host key is not known"
            error_type = _TryOtherKeyTypeError if verifier.has_other_key_types else TunnelError
            remedy = (
                ""
                if is_listed
                else (
                    f"; compare it with the output of ssh-keygen -l on the server, then add the key"
                    f" (ssh-keyscan -p {options.endpoint.port} {options.endpoint.host}) to known_hosts or host_keys"
                )
            )
            return error_type(
                Reason.HOST_KEY, f"{where}: {what}: the server offers {verifier.offered}{remedy}", fatal=True
            )
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
            greeting = verifier.greeting().decode("ascii", "replace").strip()
            if greeting.startswith(_OPENSSH_REFUSALS):
                return TunnelError(Reason.TOO_MANY_CONNECTIONS, f"{where}: the server says {greeting!r}")
            return TunnelError(Reason.RESET, f"{where}: {error}")
        case _:
            return TunnelError(Reason.PROTOCOL, f"{where}: {error}")


_LOGIN_REFUSED = {
    asyncssh.DISC_HOST_NOT_ALLOWED_TO_CONNECT,
    asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
    asyncssh.DISC_ILLEGAL_USER_NAME,
}
_OPENSSH_REFUSALS = ("Not allowed at this time", "Exceeded MaxStartups")
"""Texts that OpenSSH sends instead of its version to a client with a penalty, or when too many clients log in."""
