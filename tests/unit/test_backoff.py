import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.backoff import QUARANTINE, RECONNECT, Backoff


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_a_wait_is_jittered_below_a_doubling_ceiling(seed: int, attempts: int) -> None:
    backoff = Backoff(RECONNECT, random.Random(seed))
    for attempt in range(attempts):
        ceiling = min(RECONNECT.cap, RECONNECT.first * 2**attempt)
        assert 0 <= backoff.next() <= ceiling


def test_jitter_covers_the_whole_interval() -> None:
    waits = [Backoff(RECONNECT, random.Random(seed)).next() for seed in range(200)]
    assert min(waits) < 0.1 * RECONNECT.first
    assert max(waits) > 0.9 * RECONNECT.first


@given(st.lists(st.floats(0, 20), max_size=50))
def test_success_reduces_the_backoff_by_its_duration(successes: list[float]) -> None:
    backoff = Backoff(RECONNECT)
    for lasted in successes:
        before = backoff.attempts
        backoff.succeeded(lasted)
        assert backoff.attempts == max(0, before - int(lasted / RECONNECT.forgive_every))
        backoff.next()


def test_flapping_increases_the_backoff_and_a_stable_run_resets_it() -> None:
    backoff = Backoff(RECONNECT)
    for _ in range(100):
        backoff.succeeded(0.05)
        backoff.next()
    assert max(backoff.next() for _ in range(200)) > 0.9 * RECONNECT.cap
    backoff.succeeded(1)
    assert backoff.next() <= RECONNECT.first


def test_quarantine_waits_between_its_floor_and_its_cap() -> None:
    assert all(QUARANTINE.floor <= Backoff(QUARANTINE).next() <= QUARANTINE.cap for _ in range(50))
