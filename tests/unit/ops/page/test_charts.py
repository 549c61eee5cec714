"""Tests which columns the SVG paths of charts cover, and what the labels of charts say."""

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts.states import HealthState
from gateway.ops.page.charts import WIDTH, history_chart, phases_chart
from tests.support.status_views import Checked

CLASSES = {
    HealthState.DOWN: "fail", HealthState.BLOCKED: "blocked", HealthState.DEGRADED: "warn", HealthState.UP: "ok",
}  # fmt: skip


@given(
    st.lists(st.sampled_from(list(CLASSES)), max_size=WIDTH),
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
    else:  # The worst state is visible, even if several checks share a column.
        assert [name for name in CLASSES.values() if name in shown.values()][:1] == [
            name for state, name in CLASSES.items() if state in states
        ][:1]
    assert max(shown, default=WIDTH - 1) == WIDTH - 1  # The latest check is at the right edge.
    assert min(shown, default=0) >= 0


def test_the_label_counts_the_results() -> None:
    states = [HealthState.UP] * 95 + [HealthState.DOWN] * 2 + [HealthState.BLOCKED] * 3
    assert history_chart([Checked(state) for state in states]).label == "of 100 checks: 2 failed, 3 blocked"
    assert history_chart([Checked()] * 7).label == "all 7 checks succeeded"
    assert history_chart([Checked(HealthState.BLOCKED)] * 7).label == "all 7 checks blocked"
    assert history_chart([]).label == "not checked yet"


def test_phases_share_one_bar() -> None:
    drawn = phases_chart({"tcp": 0.25, "auth": 0.5, "odd": 0.25}, 2.0)
    assert drawn.paths == [("p-tcp", "M0 5h12.5"), ("p-auth", "M12.5 5h25"), ("p-other", "M37.5 5h12.5")]
    assert drawn.label == "tcp 250 ms, auth 500 ms, odd 250 ms"
    assert phases_chart({"tcp": 5.0}, 1.0).paths == [("p-tcp", "M0 5h100")]
    assert phases_chart({"tcp": 0.0}, 0.0).paths == [("p-tcp", "M0 5h0")]
