"""Whose traffic is counted where, once there are more consumers than are told apart."""

from collections.abc import Callable

from gateway.forwarding.usage import MOST, OTHERS, Ledger
from gateway.measure import Tap


def no_tap(_found: Callable[[float], None]) -> Tap:
    """Only its identity matters."""
    raise NotImplementedError


def test_the_relays_of_others_are_still_counted_after_one_more_joined_them() -> None:
    ledger = Ledger(no_tap)
    for number in range(MOST):
        ledger.of(f"c{number}", "").waiting = 1
    running = ledger.of("one more", "").latency
    assert running.tap is no_tap

    first = ledger["c0"]
    first.latency.observe(0.25)
    first.waiting = 0
    ledger.of("yet one more", "")
    running.observe(0.5)

    others = ledger[OTHERS].latency
    assert "c0" not in ledger
    assert (others.count, others.sum, others.tap) == (2, 0.75, no_tap)
