"""Tests the descriptions of failure reasons, and the remedies for tunnels and backends."""

import pytest

from gateway.contracts.states import HealthState, TunnelState
from gateway.errors import FailureReason
from gateway.ops.diagnosis import diagnose
from gateway.ops.state_descriptions import cause, remedy
from tests.support.status_views import backend, service, tunnel


@pytest.mark.parametrize("reason", FailureReason)
def test_each_reason_is_described(reason: FailureReason) -> None:
    assert cause(reason, "down") not in ("down", str(reason))


def test_states_have_remedies() -> None:
    assert remedy(backend("orders", HealthState.PAUSED)).startswith("run `gateway resume orders`")
    quarantined = remedy(tunnel("b", TunnelState.QUARANTINED, reason=FailureReason.AUTH))
    assert "authorized-keys" in quarantined
    assert "gateway reconnect b" in quarantined
    assert cause(None, "paused") == "paused"
    assert remedy(backend()) == ""
    # Before the first probe, there is no remedy.
    assert remedy(backend(kind="nfs", state=HealthState.UNKNOWN)) == ""


def test_the_page_shows_the_remedy_of_the_backend() -> None:
    split = backend(state=HealthState.DEGRADED, reason=FailureReason.ROLE, remedy="demote db:1")
    assert remedy(split) == "demote db:1"
    assert diagnose(service(backends=[split])).causes[0].remedy == "demote db:1"
