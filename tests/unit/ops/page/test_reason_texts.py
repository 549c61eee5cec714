"""Each reason is described, and each reason of a target has a remedy."""

import pytest

from gateway.contracts.states import HealthState, TunnelState
from gateway.errors import Reason
from gateway.ops.page.reason_texts import cause, remedy
from gateway.remedies import TARGET_REMEDIES


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_is_described(reason: Reason) -> None:
    assert cause(reason, "down") not in ("down", str(reason))
    assert remedy("a", "mysql", HealthState.DOWN, reason, is_tunnel=False) == TARGET_REMEDIES[reason]


def test_states_have_remedies() -> None:
    assert remedy("orders", "mysql", HealthState.PAUSED, None, is_tunnel=False).startswith(
        "run `gateway resume orders`"
    )
    quarantined = remedy("b", "ssh", TunnelState.QUARANTINED, Reason.AUTH, is_tunnel=True)
    assert "authorized-keys" in quarantined
    assert "gateway reconnect b" in quarantined
    assert cause(None, "paused") == "paused"
    assert remedy("a", "mysql", HealthState.UP, None, is_tunnel=False) == ""
