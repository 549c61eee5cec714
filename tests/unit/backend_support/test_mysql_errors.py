import pymysql
import pytest

from gateway.backend_support.mysql_errors import mysql_error
from gateway.errors import FailureReason


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(1129, "flush-hosts"), (1130, "CREATE USER"), (3118, "UNLOCK"), (9999, "")],
)
def test_each_error_has_its_own_remedy(number: int, remedy: str) -> None:
    error = mysql_error(pymysql.err.OperationalError(number, "no"), uses_tls=True)
    assert error.remedy in error.detail
    assert remedy in error.remedy
    assert (error.reason is FailureReason.HOST_BLOCKED) == (number in (1129, 1130))
    assert ("flush-hosts" in error.detail) == (number == 1129)
