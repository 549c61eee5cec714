import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh.options import KeepaliveOptions
from gateway.ssh.pool_policy import (
    CHANNELS_PER_CONNECTION,
    ConnectionHealth,
    choose_connection,
    choose_spare,
    evaluate,
)

KEEPALIVE = KeepaliveOptions()
"""A silent connection is suspect after 6 s. The policy aborts it after 9 s if other connections get replies, and
after 60 s otherwise."""


def test_connections_that_reply_are_used_and_silent_ones_are_replaced() -> None:
    actions = evaluate([ConnectionHealth(0.1, 3), ConnectionHealth(6.5, 3)], KEEPALIVE, 2)
    assert (actions.usable, actions.suspect, actions.dial, actions.abort) == ([0], [1], 1, [])


def test_a_connection_that_is_silent_alone_is_aborted_soon() -> None:
    assert evaluate([ConnectionHealth(0.1, 0), ConnectionHealth(9.0, 5)], KEEPALIVE, 2).abort == [1]


def test_connections_that_are_silent_together_are_kept_until_the_path_is_lost() -> None:
    both = [ConnectionHealth(9.0, 1), ConnectionHealth(9.5, 1)]
    actions = evaluate(both, KEEPALIVE, 2)
    assert (actions.abort, actions.stalled, actions.usable, actions.dial) == ([], [0, 1], [], 2)
    for each in both:
        each.stalled, each.silence = True, 59.0
    actions = evaluate([*both, ConnectionHealth(0.1, 0)], KEEPALIVE, 2)
    # The third connection receives data, so the network works again. The first two connections get time to recover.
    assert actions.abort == []
    both[0].silence_at_recovery, both[0].silence = 12.0, 26.9
    assert evaluate([*both, ConnectionHealth(0.1, 0)], KEEPALIVE, 2).abort == []
    # After a stall of 12 s, TCP retransmits within another 12 s. The policy waits 3 s longer (`KEEPALIVE.replace`).
    both[0].silence = 27.1
    assert evaluate([*both, ConnectionHealth(0.1, 0)], KEEPALIVE, 2).abort == [0]
    both[0].silence_at_recovery = 0.0
    both[0].silence = 60.0
    assert evaluate(both, KEEPALIVE, 2).abort == [0]


def test_outdated_connections_serve_until_there_are_others_and_close_when_empty() -> None:
    old = [ConnectionHealth(0.1, 0, outdated=True), ConnectionHealth(0.1, 2, outdated=True)]
    actions = evaluate(old, KEEPALIVE, 2)
    assert (actions.usable, actions.close, actions.dial) == ([0, 1], [], 2)
    actions = evaluate([*old, ConnectionHealth(0.1, 0), ConnectionHealth(0.1, 0)], KEEPALIVE, 2)
    assert (actions.usable, actions.close, actions.dial) == ([2, 3], [0], 0)


def test_channels_avoid_a_connection_without_a_keepalive_reply_while_others_reply() -> None:
    actions = evaluate([ConnectionHealth(1.2, 3, keepalive_wait=1.2), ConnectionHealth(0.1, 9)], KEEPALIVE, 2)
    assert (actions.usable, actions.slow, actions.suspect) == ([1], [0], [])
    alone = evaluate([ConnectionHealth(1.2, 3, keepalive_wait=1.2)], KEEPALIVE, 1)
    assert (alone.usable, alone.slow) == ([0], [])


def test_a_slow_replacement_means_that_the_path_stalled() -> None:
    assert evaluate([ConnectionHealth(6.9, 1), ConnectionHealth(6.5, 1)], KEEPALIVE, 2).stalled == []
    assert evaluate([ConnectionHealth(7.1, 1), ConnectionHealth(7.0, 1)], KEEPALIVE, 2).stalled == [0, 1]
    back = [ConnectionHealth(9.5, 1, stalled=True, silence_at_recovery=8.1), ConnectionHealth(0.1, 0)]
    assert evaluate(back, KEEPALIVE, 2).abort == []


HEALTHS = st.lists(
    st.builds(ConnectionHealth, st.floats(0, 120), st.integers(0, 100), st.booleans(), st.booleans()), max_size=8
)


@given(HEALTHS, st.integers(1, 8))
def test_invariants_hold_for_any_pool(pool: list[ConnectionHealth], target_size: int) -> None:
    actions = evaluate(pool, KEEPALIVE, target_size)
    assert not set(actions.usable) & set(actions.suspect)
    assert set(actions.abort) <= set(actions.suspect)
    assert set(actions.stalled) <= set(actions.suspect) - set(actions.abort)
    assert not set(actions.close) & set(actions.abort)
    assert all(pool[at].load == 0 for at in actions.close)
    # The policy never closes all connections that receive data.
    heard = [each for each in pool if each.silence < KEEPALIVE.suspect]
    assert bool(actions.usable) == bool(heard)
    assert all(at not in actions.close for at in actions.usable) or any(
        not pool[at].outdated for at in actions.usable
    )
    if not heard:
        assert actions.dial == target_size
        assert all(pool[at].silence >= KEEPALIVE.lost for at in actions.abort)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40), st.integers(1, 40))
def test_the_least_loaded_connection_gets_the_next_channel(loads: list[int], most: int) -> None:
    chosen, grow = choose_connection(loads, most)
    assert loads[chosen] == min(loads)
    assert grow == (min(loads) >= CHANNELS_PER_CONNECTION - 1 and len(loads) < most)


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 6))
def test_placement_keeps_connections_level(opens: list[bool], most: int) -> None:
    """The test closes channels only on the connection with the highest load, so that the loads stay similar."""
    loads = [0]
    for opening in opens:
        if opening:
            chosen, grow = choose_connection(loads, most)
            loads[chosen] += 1
            if grow:
                loads.append(0)
        elif any(loads):
            loads[loads.index(max(loads))] -= 1
    assert sum(loads) <= len(opens)
    assert max(loads) <= max(CHANNELS_PER_CONNECTION, -(-sum(loads) // most) + 1)


@pytest.mark.parametrize(
    ("loads", "runners", "spare"),
    [
        ([1, 1], "ab", None),
        ([1, 0], "ab", 1),
        ([0, 0, 0], "abb", 1),
        ([0, 0, 0], "aab", 0),
        ([1, 1, 0], "aab", 2),
        ([1, 0, 0, 1], "abaa", 2),
    ],
)
def test_an_idle_connection_of_the_native_engine_with_the_most_is_closed(
    loads: list[int], runners: str, spare: int | None
) -> None:
    assert choose_spare(loads, runners) == spare
