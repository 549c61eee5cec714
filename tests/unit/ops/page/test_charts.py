"""The charts: their paths cover the right columns, and their labels have the same content."""

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts.states import HealthState
from gateway.ops.page.charts import WIDTH, history_chart, phases_chart
from tests.support.status_views import Checked

CLASSES = {HealthState.UP: "ok", HealthState.DEGRADED: "warn", HealthState.DOWN: "fail"}


@given(
    st.lists(st.sampled_from([HealthState.UP, HealthState.DEGRADED, HealthState.DOWN]), max_size=WIDTH),
    st.sampled_from([100, 20]),
)
def test_each_check_has_its_column(states: list[HealthState], columns: int) -> None:
    drawn = history_chart([Checked(state) for state in states], columns)
    shown: dict[int, str] = {}
    for name, path in drawn.paths:
        for at, length in re.findall(r"M(\d+) 5h(\d+)", path):
            for column in range(int(at), int(at) + int(length)):
                assert shown.setdefault(column, name) == name
    if columns == WIDTH:
        assert [shown[column] for column in sorted(shown)] == [CLASSES[state] for state in states]
    else:  # The worst check of a column is visible.
        assert [name for name in ("fail", "warn", "ok") if name in shown.values()][:1] == [
            name for name in ("fail", "warn", "ok") if name in {CLASSES[state] for state in states}
        ][:1]
    assert max(shown, default=WIDTH - 1) == WIDTH - 1  # The latest check is at the right edge.
    assert min(shown, default=0) >= 0
    failed = sum(state is not HealthState.UP for state in states)
    assert (str(failed) in drawn.label) == bool(failed) or str(failed) in str(len(states))


def test_phases_share_one_bar() -> None:
    drawn = phases_chart({"tcp": 0.25, "auth": 0.5, "odd": 0.25}, 2.0)
    assert drawn.paths == [("p-tcp", "M0 5h12.5"), ("p-auth", "M12.5 5h25"), ("p-other", "M37.5 5h12.5")]
    assert drawn.label == "tcp 250 ms, auth 500 ms, odd 250 ms"
    assert phases_chart({"tcp": 5.0}, 1.0).paths == [("p-tcp", "M0 5h100")]
    assert phases_chart({"tcp": 0.0}, 0.0).paths == [("p-tcp", "M0 5h0")]
