"""Opens an authenticated SSH connection: connects, verifies the server's host key, and logs in."""

import asyncio
import getpass
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh

from gateway._dataplane import is_built
from gateway.contracts.states import TunnelState
from gateway.contracts.tunnel import TunnelStateCallback
from gateway.errors import FailureReason, TunnelError
from gateway.ssh import algorithms, asyncssh_internals, credentials
from gateway.ssh.asyncssh_transport import close_now, log_in
from gateway.ssh.host_keys import HostKeyVerifier, RememberedHostKeyType, load_trusted_host_keys
from gateway.ssh.login_errors import UntrustedHostKeyTypeError, login_error
from gateway.ssh.options import SshOptions
from gateway.ssh.ssh_connection import SshConnection


async def connect(
    options: SshOptions,
    dial: Callable[[], Awaitable[socket.socket]],
    progress: TunnelStateCallback,
    memory: RememberedHostKeyType,
) -> asyncssh.SSHClientConnection:
    """Connect, verify the host key and log in.

    A server presents only one of its host keys per connection. If this key is not trusted, another key of the server
    might match a pinned fingerprint. Therefore, if a fingerprint is pinned and the server offers other key types,
    connect again and propose only the other types.

    Args:
        options: The tunnel's options.
        dial: Opens a connected, non-blocking socket to the server. The SSH connection owns the socket.
        progress: Called when the login starts.
        memory: Remembers the type of the tunnel's last trusted host key. A successful login updates `memory`. Pass
            the same object for all connections of a tunnel, because `hand_over` identifies the tunnel by this object.

    Returns:
        An authenticated connection; the caller must close it. Its method `get_extra_info("verifier")`
        returns the `HostKeyVerifier`.

    Raises:
        TunnelError: The login failed; fatal if a retry cannot help.
    """
    refusals: list[HostKeyVerifier] = []
    while True:
        try:
            return await _connect(options, await dial(), progress, memory, refusals)
        except UntrustedHostKeyTypeError:
            continue


async def _connect(
    options: SshOptions,
    sock: socket.socket,
    progress: TunnelStateCallback,
    memory: RememberedHostKeyType,
    refusals: list[HostKeyVerifier],
) -> asyncssh.SSHClientConnection:
    """Connect once. On failure, close the connection and the socket.

    Args:
        options: The tunnel's options.
        sock: The socket to the server. This function takes ownership of it.
        progress: Called when the login starts.
        memory: Remembers the type of the tunnel's last trusted host key.
        refusals: The verifiers that refused the server's host keys on earlier connections. If this connection's
            verifier also refuses the key, and another key type is left to try, this function appends the verifier.
    """
    conn: asyncssh.SSHClientConnection | None = None
    verifier: HostKeyVerifier | None = None
    tried = ""
    deadline = asyncio.timeout(options.login_timeout)
    try:
        _ensure_user_environment()
        progress(TunnelState.AUTHENTICATING)
        async with deadline:
            trust = await asyncio.to_thread(load_trusted_host_keys, options, _peer_address(sock))
            verifier = HostKeyVerifier(trust, options, memory, refusals)
            async with credentials.login_arguments(options) as login:
                tried = credentials.describe(options, login)
                conn = await _log_in(options, sock, verifier, login, memory)
        verifier.remember_key_type(conn)
        conn.set_extra_info(verifier=verifier)
    except BaseException as error:
        _discard(conn, sock)
        if isinstance(error, TimeoutError) and deadline.expired():
            raise TunnelError(
                FailureReason.TIMEOUT,
                f"{options.endpoint}: no login within {options.login_timeout:g} s (login_timeout): check that an SSH"
                " server listens on this port",
            ) from error
        if verifier is not None and isinstance(error, (asyncssh.Error, OSError, ValueError)):
            translated = login_error(error, options, verifier, tried)
            if isinstance(translated, UntrustedHostKeyTypeError):
                refusals.append(verifier)
            raise translated from error
        raise
    return conn


def _ensure_user_environment() -> None:
    """Set LOGNAME and HOME if they are missing, because asyncssh fails without them."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = "gateway"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _peer_address(sock: socket.socket) -> str:
    """Return the IP address of the peer; an empty string if the socket is not a connected TCP socket."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    try:
        return str(sock.getpeername()[0])
    except OSError:  # `getpeername` fails if the connection is already lost
        return ""


async def _log_in(
    options: SshOptions,
    sock: socket.socket,
    verifier: HostKeyVerifier,
    login: dict[str, Any],
    memory: RememberedHostKeyType,
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
        "keepalive_interval": 0,  # disable asyncssh's keepalives, because the pool sends keepalives
        **login,
    }
    if not asyncssh_internals.is_supported():
        return await asyncssh.connect(sock=sock, **arguments)
    conn = await log_in(sock, **arguments)
    if options.data_plane != "asyncssh" and is_built():
        from gateway.ssh.native_hand_over import hand_over  # noqa: PLC0415 - the native engine is optional

        try:
            await hand_over(conn, memory)
        except BaseException:
            close_now(conn)
            raise
    return conn


def _discard(conn: asyncssh.SSHClientConnection | None, sock: socket.socket) -> None:
    """Close the connection and socket of a failed login.

    This function contains no `await`, so a cancellation cannot interrupt it.
    """
    if isinstance(conn, SshConnection):
        close_now(conn)
    elif conn is not None:
        conn.abort()
        return  # the asyncio transport of `conn` owns `sock`, and closes it
    sock.close()
