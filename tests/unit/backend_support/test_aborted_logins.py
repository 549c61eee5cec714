"""Tests the time until the gateway probes a server again if the server counts aborted logins."""

from gateway.backend_support.aborted_logins import AbortedLogins


def broken(limit: int, count: int) -> AbortedLogins:
    logins = AbortedLogins(limit)
    for _ in range(count):
        logins.record_abort(1000.0)
    return logins


def test_a_quarter_of_the_limit_may_abort_without_a_pause() -> None:
    assert broken(100, 25).pause(1000.0) == 0
    assert broken(100, 26).pause(1000.0) == 10
    assert broken(100, 26).pause(1010.0) == 0
    assert broken(1, 1).pause(1000.0) == 0
    assert [broken(100, count).is_excessive for count in (24, 25)] == [False, True]


def test_pauses_double_up_to_ten_minutes() -> None:
    assert [broken(100, 25 + more).pause(1000.0) for more in (1, 2, 3, 7, 500)] == [10, 20, 40, 600, 600]


def test_probes_of_a_frozen_server_stay_below_its_limit() -> None:
    logins, now = AbortedLogins(100), 0.0
    while now < 10 * 3600:
        now += max(5.0, logins.pause(now))
        logins.record_abort(now)
    assert logins.count < 100


def test_a_login_resets_the_count() -> None:
    logins = broken(100, 30)
    logins.record_success()
    assert (logins.count, logins.pause(1000.0)) == (0, 0)
