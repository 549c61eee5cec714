"""Queries the status of a MySQL or MariaDB server: role, version and replication lag."""

from collections.abc import Callable
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from gateway.backend_support.mysql_errors import is_error_packet
from gateway.backend_support.replication_facts import LAG, READ_ONLY
from gateway.backend_support.sql_check_options import parse_lag
from gateway.contracts.backend import ProbeResult
from gateway.errors import FailureReason
from gateway.facts import IDENTITY, VERSION

_NO_GRANTS = ("skip-grants user@", "@")
"""Prefixes of CURRENT_USER() on a server that runs with `--skip-grant-tables`, in MySQL and in MariaDB."""
_NOT_READY = (
    "the Galera node is not ready (wsrep_ready is OFF), and refuses queries on tables: it is joining the cluster, or"
    " has lost the connection to the other nodes"
)
_INTERRUPTIONS = frozenset({1053, 1158, 1159, 1160, 1161, 1205, 1317, 1927, 1969, 3024, 4031})
"""Server error numbers for interrupted queries. The cause is a shutdown, a killed connection or query, a network
error, or a timeout (MySQL 8.4 Error Message Reference; MariaDB Error Code Reference)."""


def query_status(
    connection: "pymysql.connections.Connection[Any]", max_lag: float | None, *, has_password: bool = True
) -> ProbeResult:
    """Query role, version and replication lag. The call blocks.

    Args:
        connection: A connection that has logged in.
        max_lag: Maximum lag of a usable replica, in seconds. None: no limit.
        has_password: Whether the check has a password. If True, a server that runs with `--skip-grant-tables` is
            degraded, because it accepts every login.

    Raises:
        MySQLError: A query failed.
        ValueError: A result is not valid.
    """
    with connection.cursor(DictCursor) as cursor:
        cursor.execute(
            "SELECT @@global.read_only AS read_only, @@server_id AS server_id, @@version AS version, "
            "@@global.max_connect_errors AS max_connect_errors, CURRENT_USER() AS account"
        )
        row: dict[str, Any] = cursor.fetchone() or {}
        lag, is_replica, failure = _query_replication(cursor)
        is_ready = _query_galera(cursor)
    # Since MariaDB 12, the value of `read_only` is a word, such as OFF or NO_LOCK.
    read_only = str(row.get("read_only")).upper() not in ("0", "OFF", "NONE")
    unusable: tuple[FailureReason, str] | None = None
    degraded: tuple[FailureReason, str] | None = None
    if failure and (read_only or max_lag is not None):
        unusable = (FailureReason.LAG, failure)
    elif failure:
        # The replication has failed, but the server accepts writes (for example in circular replication), so clients
        # can use the server.
        degraded = (FailureReason.LAG, f"{failure}; if the server was promoted, run RESET REPLICA ALL")
    elif is_replica and max_lag is not None and lag is not None and lag > max_lag:
        unusable = (FailureReason.LAG, f"{lag:g} s behind its source (max_lag {max_lag:g} s)")
    if not is_ready:
        unusable = (FailureReason.STARTING, _NOT_READY)
    if has_password and str(row.get("account")).startswith(_NO_GRANTS):
        degraded = (FailureReason.UNAUTHENTICATED, "the server accepts every login: it runs with --skip-grant-tables")
    return ProbeResult(
        role="replica" if is_replica or read_only else "primary",
        read_only=read_only,
        facts={
            READ_ONLY: read_only,
            LAG: lag,
            VERSION: str(row.get("version")),
            IDENTITY: str(row.get("server_id")),
        },
        abort_limit=int(row["max_connect_errors"]) if row.get("max_connect_errors") else None,
        degraded=degraded,
        unusable=unusable,
    )


def _query_replication(cursor: DictCursor) -> tuple[float | None, bool, str | None]:
    """Return the lag in seconds, whether the server is a replica, and the error if its replication has failed."""
    status: dict[str, Any] | None = None
    queries: tuple[Callable[[], object], ...] = (
        lambda: cursor.execute("SHOW REPLICA STATUS"),
        lambda: cursor.execute("SHOW SLAVE STATUS"),
    )
    for query in queries:
        try:
            query()
            status = cursor.fetchone()
            break
        except pymysql.err.ProgrammingError:  # an old server does not support SHOW REPLICA STATUS
            continue
        except (pymysql.err.OperationalError, pymysql.err.InternalError) as failed:
            if not _is_refusal(failed):
                raise
            # The server refused the query, usually because the user lacks the privilege. `query_status` then derives
            # the role from `read_only`.
            return None, False, None
    if not status:
        return None, False, None
    behind = status.get("Seconds_Behind_Source", status.get("Seconds_Behind_Master"))
    if behind is None:
        error = status.get("Last_SQL_Error") or status.get("Last_IO_Error") or "replication is stopped"
        return None, True, str(error)
    return parse_lag(behind), True, None


def _query_galera(cursor: DictCursor) -> bool:
    """Return whether the server executes queries; false for a node of a Galera cluster that is not ready.

    Such a node refuses queries on tables, but executes the other queries of the check (MariaDB documentation, "Galera
    Cluster Status Variables").
    """
    try:
        # A server that is not part of a cluster also has the status wsrep_ready, and its value is then OFF.
        return not (
            _query_value(cursor, "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'") == "ON"
            and _query_value(cursor, "SHOW GLOBAL STATUS LIKE 'wsrep_ready'") == "OFF"
        )
    except pymysql.err.MySQLError as failed:
        if not _is_refusal(failed):
            raise
        return True


def _query_value(cursor: DictCursor, query: str) -> str:
    """Return the value of a variable in upper case; empty if the server does not have the variable."""
    cursor.execute(query)
    row: dict[str, Any] = cursor.fetchone() or {}
    return str(row.get("Value", "")).upper()


def _is_refusal(error: pymysql.err.MySQLError) -> bool:
    """Return whether the server refused the query. False if the connection was lost or the query was interrupted."""
    return is_error_packet(error) and error.args[0] not in _INTERRUPTIONS
