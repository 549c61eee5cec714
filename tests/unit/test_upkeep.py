from hypothesis import given
from hypothesis import strategies as st

from gateway.ssh.options import Keepalive
from gateway.ssh.upkeep import CHANNELS_PER_CONNECTION, Standing, judge, place

KEEPALIVE = Keepalive()
"""Suspect after 6 s, given up after 9 s beside others, after 60 s alone."""


def test_who_is_heard_is_used_and_who_is_silent_is_replaced() -> None:
    needs = judge([Standing(0.1, 3), Standing(6.5, 3)], KEEPALIVE, 2)
    assert (needs.usable, needs.suspect, needs.dial, needs.give_up) == ([0], [1], 1, [])


def test_a_connection_that_is_silent_alone_is_given_up_soon() -> None:
    assert judge([Standing(0.1, 0), Standing(9.0, 5)], KEEPALIVE, 2).give_up == [1]


def test_connections_that_are_silent_together_are_kept_until_the_path_is_lost() -> None:
    both = [Standing(9.0, 1), Standing(9.5, 1)]
    needs = judge(both, KEEPALIVE, 2)
    assert (needs.give_up, needs.stalled, needs.usable, needs.dial) == ([], [0, 1], [], 2)
    for each in both:
        each.stalled, each.silent = True, 59.0
    needs = judge([*both, Standing(0.1, 0)], KEEPALIVE, 2)
    assert needs.give_up == []  # the path is back, and theirs may follow
    both[0].until, both[0].silent = 12.0, 26.9
    assert judge([*both, Standing(0.1, 0)], KEEPALIVE, 2).give_up == []
    both[0].silent = 27.1  # it would have tried again by now
    assert judge([*both, Standing(0.1, 0)], KEEPALIVE, 2).give_up == [0]
    both[0].until = 0.0
    both[0].silent = 60.0
    assert judge(both, KEEPALIVE, 2).give_up == [0]


def test_the_outdated_serve_until_there_are_others_and_close_when_they_are_empty() -> None:
    old = [Standing(0.1, 0, outdated=True), Standing(0.1, 2, outdated=True)]
    needs = judge(old, KEEPALIVE, 2)
    assert (needs.usable, needs.done, needs.dial) == ([0, 1], [], 2)
    needs = judge([*old, Standing(0.1, 0), Standing(0.1, 0)], KEEPALIVE, 2)
    assert (needs.usable, needs.done, needs.dial) == ([2, 3], [0], 0)


def test_nobody_waits_for_one_that_owes_an_answer_while_others_give_theirs() -> None:
    needs = judge([Standing(1.2, 3, unanswered=1.2), Standing(0.1, 9)], KEEPALIVE, 2)
    assert (needs.usable, needs.doubtful, needs.suspect) == ([1], [0], [])
    alone = judge([Standing(1.2, 3, unanswered=1.2)], KEEPALIVE, 1)
    assert (alone.usable, alone.doubtful) == ([0], [])


def test_a_replacement_that_takes_its_time_tells_of_a_path_that_stalled() -> None:
    assert judge([Standing(6.9, 1), Standing(6.5, 1)], KEEPALIVE, 2).stalled == []
    assert judge([Standing(7.1, 1), Standing(7.0, 1)], KEEPALIVE, 2).stalled == [0, 1]
    back = [Standing(9.5, 1, stalled=True, until=8.1), Standing(0.1, 0)]
    assert judge(back, KEEPALIVE, 2).give_up == []


STANDINGS = st.lists(
    st.builds(Standing, st.floats(0, 120), st.integers(0, 100), st.booleans(), st.booleans()), max_size=8
)


@given(STANDINGS, st.integers(1, 8))
def test_whatever_the_pool_is_like(pool: list[Standing], wanted: int) -> None:
    needs = judge(pool, KEEPALIVE, wanted)
    assert not set(needs.usable) & set(needs.suspect)
    assert set(needs.give_up) <= set(needs.suspect)
    assert set(needs.stalled) <= set(needs.suspect) - set(needs.give_up)
    assert not set(needs.done) & set(needs.give_up)
    assert all(pool[at].load == 0 for at in needs.done)
    # Never the last that answers.
    heard = [each for each in pool if each.silent < KEEPALIVE.suspect]
    assert bool(needs.usable) == bool(heard)
    assert all(at not in needs.done for at in needs.usable) or any(not pool[at].outdated for at in needs.usable)
    if not heard:
        assert needs.dial == wanted
        assert all(pool[at].silent >= KEEPALIVE.lost for at in needs.give_up)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=40), st.integers(1, 40))
def test_the_least_loaded_gets_the_next_channel(loads: list[int], most: int) -> None:
    chosen, grow = place(loads, most)
    assert loads[chosen] == min(loads)
    assert grow == (min(loads) >= CHANNELS_PER_CONNECTION - 1 and len(loads) < most)


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 6))
def test_placement_keeps_connections_level(opens: list[bool], most: int) -> None:
    """Whatever opens and closes (the fullest first): no connection is ever far above another."""
    loads = [0]
    for opening in opens:
        if opening:
            chosen, grow = place(loads, most)
            loads[chosen] += 1
            if grow:
                loads.append(0)
        elif any(loads):
            loads[loads.index(max(loads))] -= 1
    assert sum(loads) <= len(opens)
    assert max(loads) <= max(CHANNELS_PER_CONNECTION, -(-sum(loads) // most) + 1)
