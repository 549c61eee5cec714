from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh.windows import ADJUST, FIRST_BUDGET, INITIAL, LEAST, MAXIMUM, PROCESS_BUDGET, Budget, Window


def plenty() -> Budget:
    return Budget(FIRST_BUDGET)


def take(window: Window, count: int, now: float, round_trip: float | None) -> int:
    """The client takes `count` bytes, as the relay tells it."""
    window.owed += count
    return window.grant(now, round_trip) if window.owed >= window.step else 0


def transfer(window: Window, round_trip: float | None, seconds: float, rate: float) -> None:
    """Receive and consume at most `rate` bytes a second, and never more than the window per round trip."""
    now = 0.0
    step = (round_trip or 0.001) / 8
    while now < seconds:
        now += step
        size = int(min(window.granted, rate * step))
        window.granted -= size
        take(window, size, now, round_trip)


def test_a_short_path_needs_no_more_than_the_initial_window() -> None:
    window = Window(Budget(512 << 20), plenty())
    transfer(window, 0.0002, 0.5, 1e9)
    assert window.size == INITIAL


def test_a_long_path_grows_until_it_is_full() -> None:
    window = Window(Budget(512 << 20), plenty())
    transfer(window, 0.05, 5, 1e9)
    assert window.size == MAXIMUM


def test_a_slow_transfer_does_not_grow() -> None:
    window = Window(Budget(512 << 20), plenty())
    transfer(window, 0.05, 5, 1e6)
    assert window.size == INITIAL


def test_no_round_trip_no_growth() -> None:
    window = Window(Budget(512 << 20), plenty())
    transfer(window, None, 0.5, 1e9)
    assert window.size == INITIAL


def test_all_windows_share_one_budget_and_give_it_back() -> None:
    budget = Budget(8 << 20)
    windows = [Window(budget, plenty()) for _ in range(5)]
    for window in windows:
        transfer(window, 0.05, 3, 1e9)
    assert sum(window.size - INITIAL for window in windows) == 8 << 20
    assert budget.left == 0
    for window in windows:
        window.close()
    assert budget.left == 8 << 20


def test_a_connection_takes_from_the_process_and_no_more_than_its_share() -> None:
    process = Budget(10)
    one, two = Budget(6, process), Budget(6, process)
    assert (one.take(9), two.take(9)) == (6, 4)
    assert (one.take(1), two.take(1), process.left) == (0, 0, 0)
    one.give_back(6)
    assert (two.take(9), process.left) == (2, 4)


@given(st.lists(st.integers(0, 200_000), max_size=200))
def test_grants_are_what_was_consumed(steps: list[int]) -> None:
    window = Window(Budget(0), plenty())
    unread = granted = consumed = 0
    for step in steps:
        size = min(step, window.granted)
        window.granted -= size
        unread += size
        taken = unread // 2
        unread -= taken
        consumed += taken
        granted += take(window, taken, 0.0, None)
        assert granted <= consumed < granted + ADJUST
        assert window.granted + unread + (consumed - granted) == INITIAL


def test_what_many_slow_readers_can_hold_is_bounded() -> None:
    first, process = Budget(FIRST_BUDGET), Budget(PROCESS_BUDGET)
    windows = [Window(process, first) for _ in range(2000)]
    for window in windows:
        transfer(window, 0.05, 1, 1e9)
    assert sum(window.size for window in windows) <= FIRST_BUDGET + PROCESS_BUDGET + 2000 * LEAST
    assert windows[0].size > INITIAL
    assert windows[-1].size == LEAST
    for window in windows:
        window.close()
    assert (first.left, process.left) == (FIRST_BUDGET, PROCESS_BUDGET)
