"""What a MySQL or MariaDB says of itself: its role, and how far it is behind."""

from collections.abc import Callable
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from gateway.backends.common.database import seconds
from gateway.contracts import ProbeResult
from gateway.errors import Reason

_NO_GRANTS = ("skip-grants user@", "@")
"""How CURRENT_USER() begins where a server lets everybody in (`--skip-grant-tables`), in MySQL and in MariaDB."""


def look(
    connection: "pymysql.connections.Connection[Any]", max_lag: float | None, *, password: bool = True
) -> ProbeResult:
    """Ask for role, version and lag.

    Args:
        connection: Logged in.
        max_lag: Seconds behind its source after which a replica cannot be used; None: it always can.
        password: Whether the login has one, so that a server which accepts any is reported.

    Raises:
        MySQLError: The server does not answer these queries.
        ValueError: Its answer is none to them.
    """
    with connection.cursor(DictCursor) as cursor:
        cursor.execute(
            "SELECT @@global.read_only AS read_only, @@server_id AS server_id, @@version AS version, "
            "@@global.max_connect_errors AS max_connect_errors, CURRENT_USER() AS account"
        )
        row: dict[str, Any] = cursor.fetchone() or {}
        lag, is_replica, trouble = _replication(cursor)
    read_only = bool(row.get("read_only"))
    unusable: tuple[Reason, str] | None = None
    degraded: tuple[Reason, str] | None = None
    if trouble and (read_only or max_lag is not None):
        unusable = (Reason.LAG, trouble)
    elif trouble:
        # It takes writes, and may be one of two that replicate from each other: it does not fall with the other.
        degraded = (Reason.LAG, f"{trouble}; one that was promoted needs RESET REPLICA ALL")
    elif is_replica and max_lag is not None and lag is not None and lag > max_lag:
        unusable = (Reason.LAG, f"{lag:g} s behind its source (max_lag {max_lag:g} s)")
    if password and str(row.get("account")).startswith(_NO_GRANTS):
        degraded = (Reason.UNAUTHENTICATED, "the server lets everybody in: it runs with --skip-grant-tables")
    return ProbeResult(
        role="replica" if is_replica or read_only else "primary",
        read_only=read_only,
        lag=lag,
        version=str(row.get("version")),
        identity=str(row.get("server_id")),
        abort_limit=int(row["max_connect_errors"]) if row.get("max_connect_errors") else None,
        degraded=degraded,
        unusable=unusable,
    )


def _replication(cursor: DictCursor) -> tuple[float | None, bool, str | None]:
    """Lag in seconds, whether it is a replica, and what is wrong with its replication."""
    rows: dict[str, Any] | None = None
    attempts: tuple[Callable[[], object], ...] = (
        lambda: cursor.execute("SHOW REPLICA STATUS"),
        lambda: cursor.execute("SHOW SLAVE STATUS"),
    )
    for attempt in attempts:
        try:
            attempt()
            rows = cursor.fetchone()
            break
        except pymysql.err.ProgrammingError:  # servers before 8.0.22 and MariaDB before 10.5.1
            continue
        except (pymysql.err.OperationalError, pymysql.err.InternalError):
            return None, False, None  # the check user may not ask (REPLICATION CLIENT); read_only still tells
    if not rows:
        return None, False, None
    behind = rows.get("Seconds_Behind_Source", rows.get("Seconds_Behind_Master"))
    if behind is None:
        error = rows.get("Last_SQL_Error") or rows.get("Last_IO_Error") or "replication is stopped"
        return None, True, str(error)
    return seconds(behind), True, None
