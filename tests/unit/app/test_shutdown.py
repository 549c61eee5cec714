"""Tests of the idle time after which a gateway that shuts down closes a client."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.app.shutdown import idle_threshold


@given(drain=st.floats(1, 3600), parts=st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_required_silence_shrinks_towards_the_deadline(drain: float, parts: list[float]) -> None:
    wanted = [idle_threshold(drain * part, drain) for part in sorted(parts)]
    assert wanted == sorted(wanted)
    assert min(wanted) > 0, "a client that has just sent data is not idle"
    assert max(wanted) <= max(drain / 2, 0.05), "half of the drain time remains for busy clients"
