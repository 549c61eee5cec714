from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from gateway.forwarding.drain_schedule import SHARE_PER_SECOND, DrainSchedule, drain_order


@dataclass
class Quiet:
    awaiting_response: bool
    last_active: float


@given(st.integers(1, 5000), st.lists(st.floats(0.01, 2.0), min_size=1, max_size=200))
def test_closes_at_most_a_tenth_per_second_and_finally_all(clients: int, steps: list[float]) -> None:
    pace, now, gone = DrainSchedule(clients, 100.0), 100.0, 0
    for step in steps:
        now += step
        due = pace.due(now)
        assert due >= 0
        gone += due
        assert gone <= (now - 100.0) * SHARE_PER_SECOND * clients + 1e-6
    assert gone + pace.due(now + 20 / SHARE_PER_SECOND) >= clients


def test_closes_the_longest_idle_connections_first() -> None:
    asking, recent, old = (
        Quiet(awaiting_response=True, last_active=1),
        Quiet(awaiting_response=False, last_active=9),
        Quiet(awaiting_response=False, last_active=2),
    )
    assert drain_order([asking, recent, old], 2) == [old, recent]  # type: ignore[list-item, comparison-overlap]
