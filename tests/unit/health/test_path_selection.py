"""Tests of the choice of the path for new clients."""

from dataclasses import replace
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts.states import HealthState, PathPreference
from gateway.health.path_selection import (
    RETURN_AFTER,
    PathCandidate,
    PathSelector,
    choose_path,
    order_paths,
    working_paths,
)

UP = PathCandidate(is_open=True, state=HealthState.UP)
CLOSED = PathCandidate(is_open=False, state=HealthState.BLOCKED)
DOWN = PathCandidate(is_open=True, state=HealthState.DOWN)
OPENED = PathCandidate(is_open=True, state=HealthState.BLOCKED)

some_paths = st.lists(
    st.builds(
        PathCandidate,
        is_open=st.booleans(),
        state=st.sampled_from(HealthState),
        latency=st.none() | st.floats(0.0001, 10),
        dial_failed=st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
preferences: st.SearchStrategy[PathPreference] = st.sampled_from(["order", "latency"])


@given(some_paths, st.data(), preferences)
def test_new_clients_never_use_a_closed_path_while_another_is_open(
    paths: list[PathCandidate], data: st.DataObject, prefer: PathPreference
) -> None:
    worked_for = data.draw(st.lists(st.floats(-inf, inf, allow_nan=False), min_size=len(paths), max_size=len(paths)))
    current = data.draw(st.none() | st.integers(0, len(paths) - 1))
    working = working_paths(paths)
    assert bool(working) == any(path.is_open for path in paths)
    chosen = choose_path(paths, worked_for, current, prefer)
    if working:
        assert chosen in working
        assert paths[chosen].is_open
    if any(path.is_open and path.state is HealthState.UP and not path.dial_failed for path in paths):
        assert not paths[chosen].dial_failed
        assert paths[chosen].state is not HealthState.DOWN
        assert paths[chosen].state is not HealthState.BLOCKED
    if current in working and chosen != current:
        assert worked_for[chosen] >= RETURN_AFTER


@given(some_paths, st.data(), preferences)
def test_the_choice_does_not_alternate(
    paths: list[PathCandidate], data: st.DataObject, prefer: PathPreference
) -> None:
    current = data.draw(st.none() | st.integers(0, len(paths) - 1))
    chosen = choose_path(paths, [inf] * len(paths), current, prefer)
    assert choose_path(paths, [inf] * len(paths), chosen, prefer) == chosen


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 20)), max_size=40))
def test_flapping_paths_cause_at_most_one_return_per_pause(events: list[tuple[int, bool, float]]) -> None:
    choice, paths, now = PathSelector("abcd", "order"), [UP] * 4, 0.0
    choice.update(paths, now)
    returns = 0
    for at, is_open, pause in events:
        now += pause
        before = choice.current
        paths[at] = UP if is_open else CLOSED
        chosen = choice.update(paths, now)
        assert not working_paths(paths) or paths[chosen].is_open
        returns += before is not None and paths[before].is_open and chosen != before
    assert returns <= now / RETURN_AFTER


def test_a_target_that_fails_over_all_paths_does_not_discredit_them() -> None:
    assert working_paths([DOWN, DOWN, CLOSED]) == [0, 1]
    assert working_paths([DOWN, UP, CLOSED]) == [1]
    assert working_paths([DOWN, replace(UP, state=HealthState.UNKNOWN)]) == [0, 1]
    assert working_paths([replace(UP, dial_failed=True), UP]) == [1]
    assert working_paths([replace(UP, dial_failed=True), CLOSED]) == [0]
    assert working_paths([CLOSED, CLOSED]) == []
    assert working_paths([OPENED, UP]) == [1]
    assert working_paths([OPENED, CLOSED]) == [0]


def test_clients_leave_a_path_at_once_and_return_when_it_has_worked_for_a_while() -> None:
    choice = PathSelector(["a", "b"], "order")
    assert choice.update([CLOSED, UP], 0.0) == 1
    for state in (HealthState.BLOCKED, HealthState.UNKNOWN, HealthState.DOWN):
        assert choice.update([replace(UP, state=state), UP], 0.5) == 1  # No check over path a has succeeded.
    assert choice.update([UP, UP], 1.0) == 0  # Path a works for the first time, so clients use it at once.
    assert choice.update([CLOSED, UP], 2.0) == 1
    assert choice.update([UP, UP], 3.0) == 1
    assert choice.update([UP, UP], 3.0 + RETURN_AFTER - 0.1) == 1
    assert choice.update([UP, UP], 3.0 + RETURN_AFTER) == 0
    assert choice.update([CLOSED, CLOSED], 40.0) == 0
    assert choice.switches == {"a": 1, "b": 1}


def test_the_chosen_path_is_tried_first_and_paths_that_do_not_work_last() -> None:
    assert order_paths([DOWN, UP, UP], 2) == [2, 1, 0]


def test_clients_return_to_a_path_of_a_target_without_checks() -> None:
    unchecked, choice = PathCandidate(is_open=True, state=HealthState.UNKNOWN), PathSelector(["a", "b"], "order")
    assert choice.update([unchecked, unchecked], 0.0) == 0
    assert choice.update([CLOSED, unchecked], 1.0) == 1
    assert choice.update([unchecked, unchecked], 2.0) == 1
    assert choice.update([unchecked, unchecked], 2.0 + RETURN_AFTER) == 0


def test_latency_decides_with_hysteresis() -> None:
    choice = PathSelector(["a", "b", "c"], "latency")

    def update(*latencies: float | None, checks: int = 1) -> int:
        return choice.update([replace(UP, latency=each, checks=checks) for each in latencies], 0.0)

    assert update(None, 0.050, None) == 1
    assert update(0.045, 0.050, None) == 1  # Path a is less than 20 % faster than path b.
    assert update(0.039, 0.050, 0.030, checks=2) == 1
    assert update(0.030, 0.050, 0.039, checks=9) == 1
    # For eight probes, path b was clearly slower than the fastest path.
    assert update(0.039, 0.050, 0.030, checks=10) == 2
    assert update(0.0005, 0.0012, 0.0012, checks=20) == 2  # Path a is less than 1 ms faster than path c.
    assert choice.switches == {"c": 1}


def test_latencies_that_alternate_cause_no_change() -> None:
    choice = PathSelector(["a", "b"], "latency")
    for checks in range(100):
        slow, fast = 0.030, 0.003
        latencies = (slow, fast) if checks // 7 % 2 else (fast, slow)
        assert choice.update([replace(UP, latency=each, checks=checks) for each in latencies], 0.0) == 0
    assert not choice.switches


def test_a_path_that_starts_to_work_is_used_at_once_if_it_is_faster() -> None:
    choice = PathSelector(["a", "b"], "latency")
    assert choice.update([replace(UP, latency=0.1, checks=1), CLOSED], 0.0) == 0
    assert choice.update([replace(UP, latency=0.1, checks=1), replace(UP, latency=0.01, checks=1)], 0.0) == 1
    assert choice.update([replace(UP, latency=0.01, checks=9), replace(UP, latency=0.1, checks=8)], 0.0) == 1
    assert choice.update([CLOSED, replace(UP, latency=0.1, checks=9)], 0.0) == 1
    assert choice.update([replace(UP, latency=0.01, checks=9), CLOSED], 0.0) == 0


def test_a_reload_keeps_the_choice_and_the_counters() -> None:
    old, new = PathSelector(["a", "b"], "order"), PathSelector(["c", "b", "a"], "order")
    old.update([UP, UP], 0.0)
    old.update([CLOSED, UP], 1.0)
    new.inherit(old)
    assert new.current == 1
    assert new.update([CLOSED, UP, UP], 2.0) == 1
    assert new.update([CLOSED, CLOSED, UP], 3.0) == 2
    assert new.switches == {"b": 1, "a": 1}
