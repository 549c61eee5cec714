"""Tests the pauses between the probes of a server that counts aborted logins."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.backend_support.probe_login_limiter import ProbeLoginLimiter
from tests.support.counting_server import CountingServer

HOUR = 3600.0


def broken(limit: int, count: int) -> ProbeLoginLimiter:
    logins = ProbeLoginLimiter(limit)
    for _ in range(count):
        logins.record_abort(1000.0)
    return logins


def joined(paths: int, limit: int = 100) -> list[ProbeLoginLimiter]:
    logins = [ProbeLoginLimiter(limit) for _ in range(paths)]
    for each in logins:
        each.same_server = logins
    return logins


def test_a_quarter_of_the_limit_may_abort_without_a_pause() -> None:
    assert broken(100, 25).pause(1000.0) == 0
    assert broken(100, 26).pause(1000.0) == 10
    assert broken(100, 26).pause(1010.0) == 0
    assert broken(1, 1).pause(1000.0) == 0


def test_pauses_double_up_to_ten_minutes_for_each_path_that_fails() -> None:
    assert [broken(100, 25 + more).pause(1000.0) for more in (1, 2, 3, 7, 500)] == [10, 20, 40, 600, 600]
    a, b = joined(2)
    for _ in range(50):
        a.record_abort(1000.0)
        b.record_abort(1000.0)
    assert (a.pause(1000.0), b.pause(1000.0)) == (1200, 1200)


def test_a_login_resets_the_count_of_its_path_only() -> None:
    a, b = joined(2)
    for each in (a, b):
        for _ in range(30):
            each.record_abort(1000.0)
    a.record_success(1001.0)
    assert (a.aborted, a.pause(1001.0)) == (0, 0)
    assert b.aborted == 30
    assert b.pause(1001.0) > 0


def test_a_path_that_works_does_not_pause_for_one_that_fails() -> None:
    a, b = joined(2)
    for at in range(60):
        b.record_abort(float(at))
        a.record_success(at + 0.5)
    a.record_abort(100.0)
    assert a.pause(100.0) == 0
    assert b.pause(100.0) > 0


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.integers(1, 12),
    st.floats(0, 20),
    st.sets(st.integers(0, 3)),
)
@example(addresses=[0, 0, 0, 0], backends=4, offset=0.0, working=set())
@example(addresses=[0, 1], backends=4, offset=1.0, working={0})
def test_checks_of_a_server_that_does_not_answer_stay_below_its_limit(
    addresses: list[int], backends: int, offset: float, working: set[int]
) -> None:
    """Simulate the probes of several backends for eight hours. Logins succeed only over the paths in `working`."""
    server, paths = CountingServer(addresses, 100), joined(len(addresses))
    due = [(path * offset + backend, path) for path in range(len(paths)) for backend in range(backends)]
    attempts = 0
    while (check := min(due))[0] < 8 * HOUR:
        now, path = check
        due.remove(check)
        pause = paths[path].pause(now)
        if pause:
            due.append((now + max(5.0, pause), path))
            continue
        attempts += 1
        if path in working:
            server.log_in(path)
            paths[path].record_success(now)
            due.append((now + 300.0, path))
        else:
            server.abort(path)
            paths[path].record_abort(now)
            due.append((now + 5.0, path))
        assert not server.blocked
    assert attempts >= 8 * 6  # on average, at least one attempt every ten minutes


@pytest.mark.timeout(30)
async def test_few_logins_are_in_progress_at_the_same_time() -> None:
    paths = joined(2)
    entered, release = 0, asyncio.Event()

    async def check(logins: ProbeLoginLimiter) -> None:
        nonlocal entered
        async with logins.attempt():
            entered += 1
            await release.wait()
            logins.record_abort(1.0)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(check(each)) for each in paths for _ in range(40)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert entered == 25 + len(paths)  # a quarter of the limit of 100, and one more login on each path
        for task in tasks:
            task.cancel()
    assert [each.in_progress for each in paths] == [0, 0]
