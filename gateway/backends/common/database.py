"""What every kind of database has: who logs in for the check, and how."""

from dataclasses import dataclass, field

from gateway.backends.common.tls import Tls
from gateway.contracts import Duration, Secret


@dataclass(frozen=True)
class DatabaseCheck:
    """How a database is checked.

    Args:
        user: Who logs in; without one nothing is asked, and the state is `unknown`.
        password: The user's password.
        database: The database to use; absent: none, and in PostgreSQL the one with the user's name.
        tls: Encryption of the check's own connection.
        max_lag: A replica further behind than this is down.
    """

    user: str | None = None
    password: Secret | None = None
    database: str | None = None
    tls: Tls = field(default_factory=Tls)
    max_lag: Duration | None = None
