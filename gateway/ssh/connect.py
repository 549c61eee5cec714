"""One SSH connection over a socket that somebody else opened."""

import asyncio
import getpass
import os
import socket
from pathlib import Path
from typing import Any

import asyncssh

from gateway.contracts import Progress, TunnelState
from gateway.errors import Reason, TunnelError
from gateway.ssh import credentials, doors, hostkeys
from gateway.ssh.options import SshOptions
from gateway.ssh.wire import Wire


async def connect(options: SshOptions, sock: socket.socket, progress: Progress) -> asyncssh.SSHClientConnection:
    """Exchange keys and log in over `sock`, which the connection owns from then on.

    Raises:
        TunnelError: With the reason; fatal where only a person can mend it.
    """
    try:
        return await _connect(options, sock, progress)
    except BaseException:
        sock.close()
        raise


async def _connect(options: SshOptions, sock: socket.socket, progress: Progress) -> asyncssh.SSHClientConnection:
    _be_somebody()
    verifier = hostkeys.Verifier(options)
    trusted = hostkeys.trusted(options, verifier)
    progress(TunnelState.AUTHENTICATING)
    conn: asyncssh.SSHClientConnection | None = None
    try:
        async with asyncio.timeout(options.login_timeout), credentials.login(options) as login:
            conn = await _log_in(
                sock,
                host=options.host,
                port=options.port,
                config=None,
                client_factory=lambda: verifier,
                known_hosts=trusted,
                host_key_alias=options.host_key_alias,
                x509_trusted_certs=None,
                encryption_algs=list(options.ciphers),
                compression_algs=["none"],
                login_timeout=0,
                keepalive_interval=0,  # the pool asks by itself
                **login,
            )
            conn.set_extra_info(verifier=verifier)
            _refuse_terrapin(conn, options)
    except TimeoutError as error:
        raise TunnelError(Reason.TIMEOUT, f"no login within {options.login_timeout:g} s (login_timeout)") from error
    except (asyncssh.Error, OSError, ValueError) as error:
        raise _explain(error, options, verifier) from error
    except BaseException:
        if conn is not None:
            conn.abort()
            await conn.wait_closed()
        raise
    return conn


def _be_somebody() -> None:
    """Have a name and a home: asyncssh asks for both, though it needs neither, and some users have none."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = "gateway"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _refuse_terrapin(conn: asyncssh.SSHClientConnection, options: SshOptions) -> None:
    """Without strict key exchange, ChaCha20 lets a man in the middle drop packets unseen (CVE-2023-48795)."""
    cipher = str(conn.get_extra_info("send_cipher"))
    if cipher.startswith("chacha20") and not doors.strict_key_exchange(conn):
        conn.abort()
        raise TunnelError(
            Reason.PROTOCOL,
            f"{options.endpoint}: offers {cipher} without strict key exchange: update it, or use an AES-GCM cipher",
            fatal=True,
        )


async def _log_in(sock: socket.socket, **arguments: Any) -> asyncssh.SSHClientConnection:
    if doors.known():
        return await doors.log_in(sock, Wire, **arguments)
    return await asyncssh.connect(sock=sock, **arguments)


def _explain(error: Exception, options: SshOptions, verifier: hostkeys.Verifier) -> TunnelError:
    where = str(options.endpoint)
    match error:
        case asyncssh.HostKeyNotVerifiable():
            offered = f": it offers {verifier.offered}" if verifier.offered else f": {error.reason}"
            what = "the host key has CHANGED" if verifier.known else "the host key is not known"
            return TunnelError(Reason.HOST_KEY, f"{where}: {what}{offered}", fatal=True)
        case asyncssh.PermissionDenied():
            return TunnelError(Reason.AUTH, f"{options.user}@{where}: {error.reason}", fatal=True)
        case asyncssh.KeyExchangeFailed() | asyncssh.ProtocolNotSupported():
            return TunnelError(Reason.PROTOCOL, f"{where}: {error.reason}", fatal=True)
        case asyncssh.DisconnectError() if error.code == asyncssh.DISC_TOO_MANY_CONNECTIONS:
            return TunnelError(Reason.TOO_MANY_CONNECTIONS, f"{where}: {error.reason}")
        case asyncssh.DisconnectError() if error.code in _LOGIN_REFUSED or "authentication" in error.reason:
            return TunnelError(Reason.AUTH, f"{options.user}@{where}: {error.reason}", fatal=True)
        case asyncssh.ConnectionLost() | OSError():
            said = verifier.greeting().decode("ascii", "replace").strip()
            if said.startswith(_TURNED_AWAY):
                return TunnelError(Reason.TOO_MANY_CONNECTIONS, f"{where}: it says {said!r}")
            return TunnelError(Reason.RESET, f"{where}: {error}")
        case _:
            return TunnelError(Reason.PROTOCOL, f"{where}: {error}")


_LOGIN_REFUSED = {
    asyncssh.DISC_HOST_NOT_ALLOWED_TO_CONNECT,
    asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
    asyncssh.DISC_ILLEGAL_USER_NAME,
}
_TURNED_AWAY = ("Not allowed at this time", "Exceeded MaxStartups")
"""What OpenSSH says instead of its version, for a source with penalties and when it is busy."""
