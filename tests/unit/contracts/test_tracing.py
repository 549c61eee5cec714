"""Tests whether the phases of a connection have gaps or overlap, and whether their number is limited."""

from itertools import pairwise

import pytest

from gateway.contracts.tracing import CHANNEL, DIAL, HOLD, ConnectionPhaseRecorder


def test_phases_are_consecutive_and_do_not_depend_on_the_system_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = ConnectionPhaseRecorder()
    monkeypatch.setattr("time.time_ns", lambda: 0)
    for name in (HOLD, DIAL, CHANNEL, "", ""):
        trace.enter(name)
    assert [phase.name for phase in trace.phases] == [HOLD, DIAL, CHANNEL]
    assert all(before.ended == after.began for before, after in pairwise(trace.phases))
    assert trace.accepted <= trace.phases[0].began <= trace.phases[-1].ended <= trace.now


def test_a_client_that_dials_repeatedly_has_a_limited_number_of_phases() -> None:
    trace = ConnectionPhaseRecorder()
    for _ in range(1000):
        trace.enter(DIAL)
    assert len(trace.phases) == 64
