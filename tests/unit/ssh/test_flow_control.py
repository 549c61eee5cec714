from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh.flow_control import (
    ADJUST_BYTES,
    GROWTH_BUDGET_BYTES,
    INITIAL_BUDGET_BYTES,
    INITIAL_WINDOW,
    MAX_WINDOW,
    MIN_WINDOW,
    ByteBudget,
    ReceiveWindow,
)


def plenty() -> ByteBudget:
    return ByteBudget(INITIAL_BUDGET_BYTES)


def take(window: ReceiveWindow, count: int, now: float, round_trip: float | None) -> int:
    """Report to the window that the client has taken `count` bytes, as a relay does."""
    window.consumed += count
    return window.grant(now, round_trip) if window.consumed >= window.adjust_threshold else 0


def transfer(window: ReceiveWindow, round_trip: float | None, seconds: float, rate: float) -> None:
    """Simulate a transfer of at most `rate` bytes per second and at most one window per round trip."""
    now = 0.0
    step = (round_trip or 0.001) / 8
    while now < seconds:
        now += step
        size = int(min(window.remaining, rate * step))
        window.remaining -= size
        take(window, size, now, round_trip)


def test_the_window_does_not_grow_on_a_short_path() -> None:
    window = ReceiveWindow(ByteBudget(512 << 20), plenty())
    transfer(window, 0.0002, 0.5, 1e9)
    assert window.size == INITIAL_WINDOW


def test_the_window_grows_on_a_long_path_until_the_path_is_full() -> None:
    window = ReceiveWindow(ByteBudget(512 << 20), plenty())
    transfer(window, 0.05, 5, 1e9)
    assert window.size == MAX_WINDOW


def test_the_window_of_a_slow_transfer_does_not_grow() -> None:
    window = ReceiveWindow(ByteBudget(512 << 20), plenty())
    transfer(window, 0.05, 5, 1e6)
    assert window.size == INITIAL_WINDOW


def test_without_a_round_trip_time_the_window_does_not_grow() -> None:
    window = ReceiveWindow(ByteBudget(512 << 20), plenty())
    transfer(window, None, 0.5, 1e9)
    assert window.size == INITIAL_WINDOW


def test_all_windows_share_one_budget_and_release_it() -> None:
    budget = ByteBudget(8 << 20)
    windows = [ReceiveWindow(budget, plenty()) for _ in range(5)]
    for window in windows:
        transfer(window, 0.05, 3, 1e9)
    assert sum(window.size - INITIAL_WINDOW for window in windows) == 8 << 20
    assert budget.available == 0
    for window in windows:
        window.close()
    assert budget.available == 8 << 20


def test_a_connection_uses_at_most_its_share_of_the_budget() -> None:
    process = ByteBudget(10)
    one, two = ByteBudget(6, process), ByteBudget(6, process)
    assert (one.take(9), two.take(9)) == (6, 4)
    assert (one.take(1), two.take(1), process.available) == (0, 0, 0)
    one.release(6)
    assert (two.take(9), process.available) == (2, 4)


@given(st.lists(st.integers(0, 200_000), max_size=200))
def test_window_adjustments_equal_the_consumed_bytes(steps: list[int]) -> None:
    window = ReceiveWindow(ByteBudget(0), plenty())
    unread = granted = consumed = 0
    for step in steps:
        size = min(step, window.remaining)
        window.remaining -= size
        unread += size
        taken = unread // 2
        unread -= taken
        consumed += taken
        granted += take(window, taken, 0.0, None)
        assert granted <= consumed < granted + ADJUST_BYTES
        assert window.remaining + unread + (consumed - granted) == INITIAL_WINDOW


def test_the_memory_of_many_slow_readers_is_bounded() -> None:
    first, process = ByteBudget(INITIAL_BUDGET_BYTES), ByteBudget(GROWTH_BUDGET_BYTES)
    windows = [ReceiveWindow(process, first) for _ in range(2000)]
    for window in windows:
        transfer(window, 0.05, 1, 1e9)
    assert sum(window.size for window in windows) <= INITIAL_BUDGET_BYTES + GROWTH_BUDGET_BYTES + 2000 * MIN_WINDOW
    assert windows[0].size > INITIAL_WINDOW
    assert windows[-1].size == MIN_WINDOW
    for window in windows:
        window.close()
    assert (first.available, process.available) == (INITIAL_BUDGET_BYTES, GROWTH_BUDGET_BYTES)
