from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts.states import HealthState
from gateway.errors import FailureReason
from gateway.health.check_results import CheckHistory, CheckResult
from gateway.health.target_state_evaluator import TargetStateEvaluator


def result(state: HealthState, at: float = 0.0) -> CheckResult:
    reason = None if state in (HealthState.UP, HealthState.UNKNOWN) else FailureReason.REFUSED
    return CheckResult(at=at, duration=0.01, state=state, reason=reason)


UP, DOWN = result(HealthState.UP), result(HealthState.DOWN)


def test_the_first_result_decides() -> None:
    for first in (UP, DOWN):
        verdict = TargetStateEvaluator(rise=2, fall=3)
        assert verdict.add(first)
        assert verdict.state is first.state


def test_the_state_changes_after_fall_failures_and_rise_successes() -> None:
    verdict = TargetStateEvaluator(rise=2, fall=3)
    verdict.add(UP)
    assert [verdict.add(DOWN) for _ in range(3)] == [False, False, True]
    assert (verdict.state, verdict.reason) == (HealthState.DOWN, FailureReason.REFUSED)
    assert [verdict.add(UP) for _ in range(2)] == [False, True]
    assert (verdict.state, verdict.reason) == (HealthState.UP, None)


def test_one_failure_without_space_is_enough_but_a_degraded_result_counts_as_one_success() -> None:
    verdict = TargetStateEvaluator(rise=2, fall=3)
    full, degraded = (
        CheckResult(at=0.0, duration=0.01, state=state, reason=FailureReason.NO_SPACE)
        for state in (HealthState.DOWN, HealthState.DEGRADED)
    )
    verdict.add(UP)
    assert verdict.add(full)
    assert [verdict.add(degraded) for _ in range(2)] == [False, True]


def test_a_success_resets_the_count_of_failures() -> None:
    verdict = TargetStateEvaluator(rise=2, fall=3)
    for each in (UP, DOWN, DOWN, UP, DOWN, DOWN):
        verdict.add(each)
    assert verdict.state is HealthState.UP
    assert verdict.pending


def test_the_first_result_after_blocked_decides() -> None:
    verdict = TargetStateEvaluator(rise=2, fall=3)
    verdict.add(UP)
    assert verdict.override(HealthState.BLOCKED, FailureReason.TUNNEL, "tunnel edge is down")
    assert not verdict.override(HealthState.BLOCKED, FailureReason.TUNNEL, "still")
    assert verdict.add(DOWN)
    assert verdict.state is HealthState.DOWN


def test_up_and_degraded_change_immediately() -> None:
    verdict = TargetStateEvaluator(rise=2, fall=3)
    verdict.add(UP)
    assert verdict.add(result(HealthState.DEGRADED))
    assert verdict.add(UP)


def test_a_flapping_target_is_reported_until_it_is_stable() -> None:
    verdict = TargetStateEvaluator(rise=1, fall=1)
    for at in range(21):
        verdict.add(UP if at % 2 else DOWN)
    assert verdict.flapping
    for _ in range(21):
        verdict.add(UP)
    assert not verdict.flapping


def test_the_history_shows_the_latest_results_and_keeps_older_failures_apart() -> None:
    history = CheckHistory(size=10)
    for at in range(5):
        history.add(result(HealthState.DOWN, at))
    for at in range(5, 98):
        history.add(result(HealthState.UP, at))
    history.add(result(HealthState.BLOCKED, 98))
    history.add(result(HealthState.DOWN, 99))
    assert [each.at for each in history.latest()] == list(range(90, 100))
    assert [each.at for each in history.failures()] == [0, 1, 2, 3, 4, 99]
    assert [each.at for each in history.results()] == [0, 1, 2, 3, 4, *range(90, 100)]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_a_change_needs_exactly_rise_or_fall_consecutive_results(results: list[bool], rise: int, fall: int) -> None:
    verdict = TargetStateEvaluator(rise, fall)
    seen: list[bool] = []
    for passed in results:
        before = verdict.state
        verdict.add(UP if passed else DOWN)
        seen.append(passed)
        if before is HealthState.UNKNOWN:
            assert verdict.state is (HealthState.UP if passed else HealthState.DOWN)
        elif verdict.state is not before:
            needed = rise if passed else fall
            assert len(seen) > needed
            assert seen[-needed:] == [passed] * needed
        else:
            stands = verdict.state is HealthState.UP
            streak = next((at for at, each in enumerate(reversed(seen)) if each is stands), len(seen))
            assert streak < (fall if stands else rise)


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.booleans(), max_size=200))
def test_a_state_changes_only_after_rise_or_fall_consecutive_results(
    rise: int, fall: int, results: list[bool]
) -> None:
    verdict = TargetStateEvaluator(rise, fall)
    for at, passed in enumerate(results):
        before = verdict.state
        changed = verdict.add(UP if passed else DOWN)
        assert changed == (verdict.state is not before)
        if changed and before is not HealthState.UNKNOWN:
            needed = rise if verdict.state is HealthState.UP else fall
            assert results[at + 1 - needed : at + 1] == [verdict.state is HealthState.UP] * needed
    tail = rise if verdict.state is HealthState.DOWN else fall
    if results and len(results) > tail and len(set(results[-tail:])) == 1:
        assert (verdict.state is HealthState.UP) == results[-1]


def test_stalled_traffic_counts_once_until_a_check_passes() -> None:
    verdict = TargetStateEvaluator(rise=2, fall=3)
    verdict.add(UP)
    verdict.record_stall()
    verdict.record_stall()
    assert verdict.pending
    assert [verdict.add(DOWN) for _ in range(2)] == [False, True]
    verdict.record_stall()  # The target is already down, so stalled traffic has no effect.
    assert [verdict.add(UP) for _ in range(2)] == [False, True]
    verdict.record_stall()
    verdict.add(UP)
    assert [verdict.add(DOWN) for _ in range(3)] == [False, False, True]


def test_a_full_or_read_only_export_is_down_immediately() -> None:
    for reason in (FailureReason.NO_SPACE, FailureReason.READ_ONLY):
        verdict = TargetStateEvaluator(rise=2, fall=3)
        verdict.add(UP)
        assert verdict.add(CheckResult(at=0.0, duration=0.01, state=HealthState.DOWN, reason=reason))
        assert (verdict.state, verdict.reason) == (HealthState.DOWN, reason)
