from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh.flow_control import (
    ADJUST_BYTES,
    INITIAL_BUDGET_BYTES,
    INITIAL_WINDOW,
    MIN_WINDOW,
    ByteBudget,
    ReceiveWindow,
)


@given(st.lists(st.integers(0, 200_000), max_size=200))
def test_window_adjustments_equal_the_consumed_bytes(steps: list[int]) -> None:
    window = ReceiveWindow(ByteBudget(INITIAL_BUDGET_BYTES))
    remaining = window.size
    unread = granted = consumed = 0
    for step in steps:
        size = min(step, remaining)
        remaining -= size
        unread += size
        taken = unread // 2
        unread -= taken
        consumed += taken
        window.consumed += taken
        if window.consumed >= window.adjust_threshold:
            grant = window.grant()
            granted += grant
            remaining += grant
        assert granted <= consumed < granted + ADJUST_BYTES
        assert remaining + unread + (consumed - granted) == INITIAL_WINDOW


def test_the_memory_of_many_slow_readers_is_bounded() -> None:
    budget = ByteBudget(INITIAL_BUDGET_BYTES)
    windows = [ReceiveWindow(budget) for _ in range(2000)]
    assert sum(window.size for window in windows) <= INITIAL_BUDGET_BYTES + 2000 * MIN_WINDOW
    assert windows[0].size == INITIAL_WINDOW
    assert windows[-1].size == MIN_WINDOW
    for window in windows * 2:
        window.close()
    assert budget.available == INITIAL_BUDGET_BYTES
