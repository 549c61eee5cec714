"""Tests the JSON response with a container's access to backends."""

from gateway.docker.access_explanation.explanation import AccessCondition, Explanation, Reachability
from gateway.ops.container_access_json import ContainerAccessView, container_access_json


def test_the_response_has_all_conditions_and_each_remedy_once() -> None:
    reached = [Reachability(name, "no", "apps", "not admitted", "set the label") for name in ("orders", "reports")]
    explanation = Explanation("web", "0123456789ab", [AccessCondition("label", "a=b", "valid", "why")], reached)
    assert container_access_json(ContainerAccessView(explanation, "no engine", 1.5)) == {
        "container": "web",
        "id": "0123456789ab",
        "trouble": "no engine",
        "looked_at": "1970-01-01T00:00:01.500Z",
        "facts": [{"part": "label", "name": "a=b", "state": "valid", "why": "why"}],
        "backends": [
            {"backend": name, "reached": "no", "network": "apps", "why": "not admitted", "remedy": "set the label"}
            for name in ("orders", "reports")
        ],
        "remedies": ["set the label"],
    }
