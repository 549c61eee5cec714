"""Why a login to PostgreSQL failed, from libpq's text: it gives no SQLSTATE for one."""

from gateway.errors import ProbeError, Reason

NO_PASSWORD = "the server asks for no password: write scram-sha-256 in pg_hba.conf"  # noqa: S105 - says that there is none
_CONNECT_PHRASES = {
    "too many clients": Reason.TOO_MANY_CONNECTIONS,
    "remaining connection slots": Reason.TOO_MANY_CONNECTIONS,
    "too many connections": Reason.TOO_MANY_CONNECTIONS,
    "starting up": Reason.STARTING,
    "shutting down": Reason.STARTING,
    "in recovery mode": Reason.STARTING,
    "not yet accepting connections": Reason.STARTING,
    "authenticated client without channel binding": Reason.UNAUTHENTICATED,
    "channel binding": Reason.AUTH,
    "authentication failed": Reason.AUTH,
    "no password supplied": Reason.AUTH,
    "pg_hba.conf": Reason.AUTH,
    'role "': Reason.AUTH,
    "authentication method requirement": Reason.AUTH,
    "does not support ssl": Reason.TLS,
    "ssl error": Reason.TLS,
    "certificate": Reason.TLS,
    "sslmode": Reason.TLS,
    'database "': Reason.QUERY,
    "expected authentication request": Reason.PROTOCOL,
    "invalid response": Reason.PROTOCOL,
    "received invalid": Reason.PROTOCOL,
    "protocol": Reason.PROTOCOL,
    "server closed the connection": Reason.RESET,
    "connection reset": Reason.RESET,
    "could not receive data": Reason.RESET,
}
"""In this order; both the server's words and libpq's own."""
_REMEDIES = {
    "requested a hashed password": "the server asks for MD5, which reveals too much: set password_encryption ="
    " 'scram-sha-256', set the user's password again, and write scram-sha-256 in pg_hba.conf",
    "requested a cleartext password": "the server asks for the password itself: write scram-sha-256 in pg_hba.conf",
    "did not offer an authentication method that supports channel binding": "nothing proves that this is the server:"
    " with a pooler or proxy that has no channel binding, set check.tls.mode: verify",
    "authenticated client without channel binding": NO_PASSWORD,
}
"""What to do about a login that libpq refuses, by what it says."""


def refusal(text: str) -> ProbeError:
    """The error for a failed login of which libpq says `text`, with what to do about it where that is known."""
    lowered = text.lower()
    reason = next((reason for phrase, reason in _CONNECT_PHRASES.items() if phrase in lowered), Reason.PROTOCOL)
    remedy = next((remedy for phrase, remedy in _REMEDIES.items() if phrase in lowered), None)
    return ProbeError(reason, f"{remedy} ({text})" if remedy else text)
