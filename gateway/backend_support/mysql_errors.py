"""Maps MySQL error numbers to the reasons and remedies of failed checks."""

import ssl

import pymysql

from gateway.backend_support.tls_options import describe_tls_error
from gateway.errors import FailureReason, UnusableTargetError

_CLIENT_ERRORS = range(2000, 3000)
"""The error numbers of client libraries (MySQL 8.4 Error Message Reference, "Client Error Message Reference")."""
_REASONS = {
    1040: FailureReason.TOO_MANY_CONNECTIONS,
    1203: FailureReason.TOO_MANY_CONNECTIONS,
    1226: FailureReason.TOO_MANY_CONNECTIONS,
    1129: FailureReason.HOST_BLOCKED,
    1130: FailureReason.HOST_BLOCKED,
    1044: FailureReason.AUTH,
    1045: FailureReason.AUTH,
    1698: FailureReason.AUTH,
    1251: FailureReason.AUTH,
    1820: FailureReason.AUTH,
    1862: FailureReason.AUTH,
    1524: FailureReason.AUTH,
    3118: FailureReason.AUTH,
    3159: FailureReason.AUTH,
    3955: FailureReason.AUTH,
    4151: FailureReason.AUTH,
    1047: FailureReason.STARTING,
    1053: FailureReason.STARTING,
    2026: FailureReason.TLS,
    2002: FailureReason.RESET,
    2003: FailureReason.RESET,
    2006: FailureReason.RESET,
    2013: FailureReason.RESET,
}
"""The failure reason for each error number (see the MySQL and MariaDB manuals). For other numbers, the reason is
`QUERY`.

Error 1130 is not `AUTH`: the server rejects all users from the source address, not only the user of the check.
"""
_LOGIN = "correct check.user and check.password_file, and check that the account can log in from this address"
_TLS = "; an account that requires TLS needs check.tls"
_REMEDIES = {
    1040: "raise max_connections of the server, or lower max_connections of the backend",
    1203: "raise max_user_connections of the server, or lower max_connections of the backend",
    1226: "raise the resource limits of the account",
    1129: "run mysqladmin flush-hosts on the server",
    1130: "create the account for this address, as in CREATE USER gateway@'%'",
    1044: "grant the account access to check.database, or remove check.database",
    1045: _LOGIN,
    1698: _LOGIN,
    1049: "set check.database to an existing database, or remove check.database",
    1820: "set a new password for the account",
    1862: "set a new password for the account",
    1524: "change the plugin of the account, as in ALTER USER … IDENTIFIED WITH caching_sha2_password BY …",
    3118: "unlock the account: ALTER USER … ACCOUNT UNLOCK",
    3159: "set check.tls.mode: verify",
    3955: "unlock the account (ALTER USER … ACCOUNT UNLOCK), and correct check.password_file",
    4151: "unlock the account: ALTER USER … ACCOUNT UNLOCK",
    1053: "start the server",
    2026: "enable TLS on the server, or set check.tls.mode: off",
}


def mysql_error(error: pymysql.err.MySQLError, *, uses_tls: bool) -> UnusableTargetError:
    """Convert a PyMySQL error to the error of the check. Add a remedy if one is known.

    Args:
        error: The PyMySQL error.
        uses_tls: Whether the check uses TLS.
    """
    original = getattr(error, "original_exception", None)
    if isinstance(original, ssl.SSLError):
        return UnusableTargetError(FailureReason.TLS, describe_tls_error(original))
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    if not number:  # PyMySQL has received invalid data instead of an error packet
        return protocol_error(error)
    remedy = _REMEDIES.get(number, "")
    if remedy is _LOGIN and not uses_tls:
        remedy += _TLS
    return UnusableTargetError(_REASONS.get(number, FailureReason.QUERY), f"{text} (error {number})", remedy)


def is_error_packet(error: pymysql.err.MySQLError) -> bool:
    """Return whether the server has sent an error packet. Otherwise, the client library has detected the error."""
    number = error.args[0] if error.args else None
    return isinstance(number, int) and number > 0 and number not in _CLIENT_ERRORS


def protocol_error(error: Exception) -> UnusableTargetError:
    """Return the error to raise if a server's response violates the protocol."""
    detail = f"the response violates the MySQL protocol ({error}): check that the target is a MySQL server"
    return UnusableTargetError(FailureReason.PROTOCOL, detail)
