from gateway.contracts.health_state_tracker import HealthStateTracker
from gateway.contracts.states import HealthState


def times(*steps: tuple[float, HealthState]) -> list[float]:
    """Enter each state at its time. Return, for each state, the start time that the tracker reports."""
    clock = HealthStateTracker(0.0)
    found = []
    for now, state in steps:
        clock.enter(state, now)
        found.append(clock.since)
    return found


def test_a_state_begins_when_it_is_entered() -> None:
    assert times((1, HealthState.UP), (2, HealthState.UP), (3, HealthState.DOWN), (4, HealthState.UP)) == [1, 1, 3, 4]


def test_a_fault_continues_after_an_interruption() -> None:
    assert times((1, HealthState.DOWN), (2, HealthState.BLOCKED), (3, HealthState.PAUSED), (4, HealthState.DOWN)) == [
        1,
        2,
        3,
        1,
    ]
    assert times((1, HealthState.DEGRADED), (2, HealthState.BLOCKED), (3, HealthState.DEGRADED)) == [1, 2, 1]


def test_another_state_after_an_interruption_begins_then() -> None:
    assert times((1, HealthState.DOWN), (2, HealthState.BLOCKED), (3, HealthState.UP), (4, HealthState.DOWN)) == [
        1,
        2,
        3,
        4,
    ]
    assert times((1, HealthState.UP), (2, HealthState.BLOCKED), (3, HealthState.UP)) == [1, 2, 3]
