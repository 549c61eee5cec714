"""Derives the reason for a failed PostgreSQL login from the message of libpq.

The messages of a server can be in any language. Therefore, `PostgresLogin` makes libpq add the SQLSTATE to them
(PostgreSQL documentation, PQsetErrorVerbosity). Messages of libpq and of connection poolers can lack the SQLSTATE.
"""

import re

from gateway.errors import FailureReason, UnusableTargetError

NO_PASSWORD = "the server requests no password: write scram-sha-256 in pg_hba.conf"  # noqa: S105 - no password
_NO_PRIVILEGE = "grant the user of the check access: GRANT CONNECT ON DATABASE … TO …"
_BY_SQLSTATE = {
    "28000": (FailureReason.AUTH, ""),
    "28P01": (FailureReason.AUTH, "correct check.user and check.password_file"),
    "3D000": (FailureReason.QUERY, "set check.database to an existing database"),
    "42501": (FailureReason.AUTH, _NO_PRIVILEGE),
    "53300": (
        FailureReason.TOO_MANY_CONNECTIONS,
        "raise max_connections of the server, or lower max_connections of the backend",
    ),
    "57P01": (FailureReason.STARTING, ""),
    "57P03": (FailureReason.STARTING, ""),
}
"""Maps the SQLSTATE of the server's message (PostgreSQL documentation, Appendix A) to the reason and the remedy."""
_SQLSTATE = re.compile(r"(?:^|:\s\s?)(?=\w*\d)([0-9A-Z]{5}): ")
_LOCATION = re.compile(r"\n\S+:\s+\w+, \w+\.c:\d+$")
"""Matches the location in the server's source code at the end of a message."""
_REASONS = {
    "too many clients": FailureReason.TOO_MANY_CONNECTIONS,
    "remaining connection slots": FailureReason.TOO_MANY_CONNECTIONS,
    "too many connections": FailureReason.TOO_MANY_CONNECTIONS,
    "starting up": FailureReason.STARTING,
    "shutting down": FailureReason.STARTING,
    "in recovery mode": FailureReason.STARTING,
    "not yet accepting connections": FailureReason.STARTING,
    "not accepting connections": FailureReason.STARTING,
    "permission denied for database": FailureReason.AUTH,
    "authenticated client without channel binding": FailureReason.UNAUTHENTICATED,
    "channel binding": FailureReason.AUTH,
    "authentication failed": FailureReason.AUTH,
    "no password supplied": FailureReason.AUTH,
    "pg_hba.conf": FailureReason.AUTH,
    'role "': FailureReason.AUTH,
    "authentication method requirement": FailureReason.AUTH,
    "does not support ssl": FailureReason.TLS,
    "ssl error": FailureReason.TLS,
    "certificate": FailureReason.TLS,
    "sslmode": FailureReason.TLS,
    'database "': FailureReason.QUERY,
    "expected authentication request": FailureReason.PROTOCOL,
    "invalid response": FailureReason.PROTOCOL,
    "received invalid": FailureReason.PROTOCOL,
    "protocol": FailureReason.PROTOCOL,
    "server closed the connection": FailureReason.RESET,
    "connection reset": FailureReason.RESET,
    "could not receive data": FailureReason.RESET,
}
"""Maps phrases in messages of the server or of libpq to reasons. The first matching phrase applies."""
_REMEDIES = {
    "requested a hashed password": "the server requests MD5 authentication, which is weak: set password_encryption ="
    " 'scram-sha-256', set the user's password again, and write scram-sha-256 in pg_hba.conf",
    "requested a cleartext password": "the server requests the plain password: write scram-sha-256 in pg_hba.conf",
    "did not offer an authentication method that supports channel binding": "the server's identity is not verified:"
    " for a pooler or proxy without channel binding, set check.tls.mode: verify",
    "authenticated client without channel binding": NO_PASSWORD,
    "password authentication failed": "correct check.user and check.password_file",
    "no pg_hba.conf entry": "add a line for this user, database and address to pg_hba.conf, or set check.tls if the"
    " line requires TLS",
    "no password supplied": "set check.password_file",
    'role "': "create the role on the server, or correct check.user",
    "too many clients": "raise max_connections of the server, or lower max_connections of the backend",
    "remaining connection slots": "raise max_connections of the server, or lower max_connections of the backend",
    "does not support ssl": "enable ssl on the server, or set check.tls.mode: off",
    "certificate verify failed": "set check.tls.ca_file to the authority that signed the server's certificate",
    "does not match host name": "set check.tls.server_name to a name in the server's certificate",
    "permission denied for database": _NO_PRIVILEGE,
    'database "': "set check.database to an existing database",
    "invalid response": "check that the target is a PostgreSQL server",
    "expected authentication request": "check that the target is a PostgreSQL server",
}
"""Maps phrases in messages of libpq to remedies. The first matching phrase applies."""


def login_error(text: str) -> UnusableTargetError:
    """Convert libpq's message about a failed login to the error of the check. Add a remedy if one is known.

    Args:
        text: The error message of libpq.
    """
    text = _LOCATION.sub("", text.strip())
    found = _SQLSTATE.search(text)
    known = _BY_SQLSTATE.get(found[1]) if found else None
    text = text[: found.start(1)] + text[found.end() :] if found else text
    lowered = text.lower()
    reason = next((reason for phrase, reason in _REASONS.items() if phrase in lowered), FailureReason.PROTOCOL)
    remedy = next((remedy for phrase, remedy in _REMEDIES.items() if phrase in lowered), "")
    if known is not None:
        return UnusableTargetError(known[0], text, remedy or known[1])
    return UnusableTargetError(reason, text, remedy)
