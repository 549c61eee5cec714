"""Tests the JSON response with the check history of a backend."""

from gateway.contracts.states import HealthState
from gateway.ops.check_history_json import RecordedCheck, check_history_json
from tests.support.status_views import Checked


def test_the_history_has_all_checks_of_each_target() -> None:
    failed = Checked(HealthState.DOWN, at=1.5, duration=0.25, reason="refused", detail="no", phases={"tcp": 0.125})
    history = {"db:3306": [RecordedCheck("edge", failed), RecordedCheck(None, Checked(at=2.0))], "other:3306": []}
    found = check_history_json("orders", history)
    assert {**found, "targets": dict(found["targets"])} == {
        "backend": "orders",
        "targets": {
            "db:3306": [
                {"time": "1970-01-01T00:00:01.500Z", "via": "edge", "state": "down", "reason": "refused",
                 "detail": "no", "duration_seconds": 0.25, "phases_seconds": {"tcp": 0.125}},
                {"time": "1970-01-01T00:00:02.000Z", "via": None, "state": "up", "reason": None, "detail": "",
                 "duration_seconds": 0.01, "phases_seconds": {}},
            ],
            "other:3306": [],
        },
    }  # fmt: skip
