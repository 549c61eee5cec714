"""Tests how the gateway derives the role and health of a MySQL server from the server's replication status."""

from typing import Any, Self

import pymysql
import pytest

from gateway.backend_support.mysql_status import query_status
from gateway.backend_support.replication_facts import LAG
from gateway.errors import FailureReason

STOPPED = {"Seconds_Behind_Source": None, "Last_IO_Error": "error connecting to source"}


class Server:
    """A substitute for PyMySQL's connection and cursor."""

    def __init__(
        self, *, read_only: bool | str, replication: dict[str, Any] | Exception | None, wsrep: str = ""
    ) -> None:
        self._replication = replication if isinstance(replication, Exception) else None
        self._galera = dict(zip(("wsrep_on", "wsrep_ready"), wsrep.split(), strict=False))
        value = read_only if isinstance(read_only, str) else int(read_only)
        row = {"read_only": value, "server_id": 1, "version": "8.4"}
        self._rows: dict[str, Any] = {"SELECT": row, "SHOW": replication}
        self._asked = ""

    def cursor(self, _kind: object) -> "Server":
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing, because the substitute has no resources."""

    def execute(self, statement: str) -> None:
        first = statement.split(maxsplit=1)[0]
        self._asked = next((each for each in ("wsrep_on", "wsrep_ready") if each in statement), first)
        if self._asked == "SHOW" and self._replication is not None:
            raise self._replication

    def fetchone(self) -> Any:
        if self._asked.startswith("wsrep"):
            return {"Value": self._galera[self._asked]} if self._asked in self._galera else None
        return self._rows[self._asked]


@pytest.mark.parametrize(
    ("value", "expected"), [("OFF", False), ("ON", True), ("NO_LOCK", True), ("NO_LOCK_NO_ADMIN", True), ("0", False)]
)
def test_read_only_can_be_a_word_as_in_mariadb_12(value: str, expected: bool) -> None:
    found = query_status(Server(read_only=value, replication=None), None)  # type: ignore[arg-type]
    assert (found.read_only, found.role) == (expected, "replica" if expected else "primary")


@pytest.mark.parametrize(
    ("wsrep", "reason"), [("ON OFF", FailureReason.STARTING), ("ON ON", None), ("OFF OFF", None), ("", None)]
)
def test_a_galera_node_that_is_not_ready_is_down(wsrep: str, reason: FailureReason | None) -> None:
    found = query_status(Server(read_only=False, replication=None, wsrep=wsrep), None)  # type: ignore[arg-type]
    assert (found.unusable[0] if found.unusable else None) is reason


@pytest.mark.parametrize(
    ("read_only", "replication", "role"),
    [
        (False, None, "primary"),
        (True, None, "replica"),
        (True, {"Seconds_Behind_Source": 0}, "replica"),
        (False, {"Seconds_Behind_Source": 0}, "replica"),
        (False, {"Seconds_Behind_Master": 3}, "replica"),
    ],
)
def test_only_a_writable_server_without_a_source_is_the_primary(
    read_only: bool, replication: dict[str, Any] | None, role: str
) -> None:
    found = query_status(Server(read_only=read_only, replication=replication), 10.0)  # type: ignore[arg-type]
    assert (found.role, found.read_only, found.degraded) == (role, read_only, None)


def test_a_writable_server_with_stopped_replication_is_degraded_but_not_down() -> None:
    found = query_status(Server(read_only=False, replication=STOPPED), None)  # type: ignore[arg-type]
    assert found.role == "replica"
    assert found.degraded is not None
    assert found.degraded[0] is FailureReason.LAG


@pytest.mark.parametrize(("read_only", "max_lag"), [(True, None), (True, 10.0), (False, 10.0)])
def test_a_stopped_replica_is_down_and_has_the_role_replica(read_only: bool, max_lag: float | None) -> None:
    found = query_status(Server(read_only=read_only, replication=STOPPED), max_lag)  # type: ignore[arg-type]
    assert found.unusable == (FailureReason.LAG, "error connecting to source")
    assert (found.role, found.read_only) == ("replica", read_only)


def test_a_replica_too_far_behind_is_down() -> None:
    found = query_status(Server(read_only=True, replication={"Seconds_Behind_Source": 12}), 10.0)  # type: ignore[arg-type]
    assert found.unusable == (FailureReason.LAG, "12 s behind its source (max_lag 10 s)")
    assert found.facts[LAG] == 12


def test_a_lag_that_is_not_finite_is_refused() -> None:
    server = Server(read_only=True, replication={"Seconds_Behind_Source": 10**400})
    with pytest.raises(ValueError, match="not a finite number"):
        query_status(server, None)  # type: ignore[arg-type]


def test_without_the_privilege_to_query_the_replication_read_only_decides_the_role() -> None:
    denied = pymysql.err.OperationalError(1227, "Access denied; you need the REPLICATION CLIENT privilege")
    found = query_status(Server(read_only=False, replication=denied), None)  # type: ignore[arg-type]
    assert (found.role, found.unusable, found.degraded) == ("primary", None, None)


@pytest.mark.parametrize(
    "error",
    [
        pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query"),
        pymysql.err.OperationalError(1053, "Server shutdown in progress"),
        pymysql.err.OperationalError(1927, "Connection was killed"),
        pymysql.err.InternalError("Packet sequence number wrong - got 3 expected 1"),
    ],
)
def test_a_lost_connection_or_an_interrupted_query_is_an_error(error: pymysql.err.MySQLError) -> None:
    with pytest.raises(type(error)):
        query_status(Server(read_only=False, replication=error), None)  # type: ignore[arg-type]
