import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.supervision.backoff import QUARANTINE, RECONNECT, Backoff


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_a_wait_is_jittered_below_a_doubling_ceiling(seed: int, attempts: int) -> None:
    backoff = Backoff(RECONNECT, random.Random(seed))
    for attempt in range(attempts):
        ceiling = min(RECONNECT.cap, RECONNECT.first * 2**attempt)
        assert 0 <= backoff.next() <= ceiling


def test_jitter_is_full() -> None:
    waits = [Backoff(RECONNECT, random.Random(seed)).next() for seed in range(200)]
    assert min(waits) < 0.1 * RECONNECT.first
    assert max(waits) > 0.9 * RECONNECT.first


def test_only_a_lasting_success_starts_anew() -> None:
    backoff = Backoff(RECONNECT)
    for _ in range(10):
        backoff.next()
    backoff.succeeded(RECONNECT.stable_after - 0.1)
    assert backoff.attempts == 10
    backoff.succeeded(RECONNECT.stable_after)
    assert backoff.attempts == 0


def test_quarantine_never_hurries() -> None:
    assert all(QUARANTINE.floor <= Backoff(QUARANTINE).next() <= QUARANTINE.cap for _ in range(50))
