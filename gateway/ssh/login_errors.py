"""Converts SSH login errors to tunnel errors. The error of a refused login names the credentials and the remedy."""

import shlex

import asyncssh

from gateway.errors import FailureReason, TunnelError
from gateway.ssh.host_keys import HostKeyVerifier
from gateway.ssh.options import SshOptions
from gateway.text_sanitizer import error_text

_LOGIN_REFUSED = {
    asyncssh.DISC_HOST_NOT_ALLOWED_TO_CONNECT,
    asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE,
    asyncssh.DISC_ILLEGAL_USER_NAME,
}
_OPENSSH_REFUSALS = ("Not allowed at this time", "Exceeded MaxStartups")
"""Messages that OpenSSH's sshd sends instead of its version string. It sends the first if it penalizes the client,
and the second if too many clients are logging in."""


class UntrustedHostKeyTypeError(TunnelError):
    """The host key is not trusted, but the server might have a trusted host key of another type."""


def login_error(error: Exception, options: SshOptions, verifier: HostKeyVerifier, tried: str) -> TunnelError:
    """Convert an error of a login to a tunnel error.

    Args:
        error: An error of asyncssh or of the socket.
        options: The tunnel's options.
        verifier: Verifies the server's host key on this connection.
        tried: The credentials that the login used; see `gateway.ssh.credentials.describe`.
    """
    where = str(options.endpoint)
    match error:
        case asyncssh.HostKeyNotVerifiable():
            return _host_key_error(error, options, verifier)
        case asyncssh.PermissionDenied():
            return _refusal(options, tried)
        case asyncssh.KeyExchangeFailed() | asyncssh.ProtocolNotSupported():
            return TunnelError(FailureReason.PROTOCOL, f"{where}: {error.reason}", fatal=True)
        case asyncssh.DisconnectError() if error.code == asyncssh.DISC_TOO_MANY_CONNECTIONS:
            return TunnelError(FailureReason.TOO_MANY_CONNECTIONS, f"{where}: {error.reason}")
        case asyncssh.DisconnectError() if error.code in _LOGIN_REFUSED or "authentication" in error.reason:
            return _refusal(options, tried, error.reason)
        case TimeoutError():
            return TunnelError(
                FailureReason.TIMEOUT, f"{where}: {error_text(error)}: check the network and firewalls"
            )
        case _:
            return _connection_error(error, where, verifier)


def _refusal(options: SshOptions, tried: str, reason: str = "") -> TunnelError:
    """Return the error of a refused login. The server does not reveal whether the user name or the key is wrong.

    Args:
        options: The tunnel's options.
        tried: The credentials that the login used.
        reason: The reason that the server sent; empty if it sent none.
    """
    says = f", and says {reason!r}" if reason else ""
    user = options.user
    detail = (
        f"{user}@{options.endpoint}: the server rejects the login{says} (tried: {tried}): check user, and add the key"
        f" to authorized_keys of {user} (gateway render authorized-keys prints the line); the server's log has the"
        " reason, such as a locked account"
    )
    return TunnelError(FailureReason.AUTH, detail, fatal=True)


def _host_key_error(
    error: asyncssh.HostKeyNotVerifiable, options: SshOptions, verifier: HostKeyVerifier
) -> TunnelError:
    endpoint, offered = options.endpoint, verifier.offered
    if offered is None:
        return TunnelError(FailureReason.HOST_KEY, f"{endpoint}: {error.reason}", fatal=True)
    listed = verifier.trust.listed
    if listed.keys or listed.authorities:
        files = ", ".join(map(str, options.known_hosts))
        name = options.host_key_alias or endpoint.host
        entry = name if endpoint.port == 22 else f"[{name}]:{endpoint.port}"
        removal = "; ".join(f"ssh-keygen -R '{entry}' -f {shlex.quote(str(path))}" for path in options.known_hosts)
        detail = (
            f"{endpoint}: the host key has CHANGED (the server offers {offered}, but {files} lists another key): if"
            f" the server was reinstalled, remove the old key ({removal}) and add the new one;"
            " otherwise, another server might be intercepting the connection"
        )
    else:
        detail = (
            f"{endpoint}: the host key is not known (the server offers {offered}): compare it with the output of"
            f" ssh-keygen -l on the server, then add the key (ssh-keyscan -p {endpoint.port} {endpoint.host}) to"
            " known_hosts or host_keys"
        )
    error_type = UntrustedHostKeyTypeError if verifier.has_other_key_types else TunnelError
    return error_type(FailureReason.HOST_KEY, detail, fatal=True)


def _connection_error(error: Exception, where: str, verifier: HostKeyVerifier) -> TunnelError:
    greeting = verifier.greeting().decode("ascii", "replace").strip()
    if greeting.startswith(_OPENSSH_REFUSALS):
        return TunnelError(FailureReason.TOO_MANY_CONNECTIONS, f"{where}: the server says {greeting!r}")
    if greeting and "SSH-" not in greeting:
        sends = f", and sends {greeting[:40]!r}" if greeting.isprintable() else ""
        detail = f"{where}: the server does not speak SSH{sends}: check host and port"
        return TunnelError(FailureReason.PROTOCOL, detail)
    if not isinstance(error, (asyncssh.ConnectionLost, OSError)):
        return TunnelError(
            FailureReason.PROTOCOL, f"{where}: the server violates the SSH protocol ({error}): check host and port"
        )
    when = "during the login" if greeting else "before it sent its SSH version"
    detail = (
        f"{where}: the connection was lost {when} ({error_text(error)}): check host and port, and the server's log"
    )
    return TunnelError(FailureReason.RESET, detail)
