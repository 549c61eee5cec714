from hypothesis import given
from hypothesis import strategies as st

from gateway.metric_types import Histogram


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_counts_every_observation_once(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for value in values:
        histogram.observe(value)
    for le, count in histogram.cumulative():
        assert count == sum(value <= float(le) for value in values)
    assert histogram.count == len(values)
    copy = histogram.copy()
    histogram.observe(1)
    assert copy.count == len(values)
