"""Tests the severity and the order of the members of a fleet, and how the page and the JSON show both."""

import re
from dataclasses import replace

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.states import HealthState, TunnelState
from gateway.fleet.fleet_state import FleetState, MemberState
from gateway.fleet.member_addresses import Member
from gateway.fleet.summary import MemberProblem, MemberSummary
from gateway.ops.fleet_json import fleet_json, summary_json
from gateway.ops.fleet_severity import member_level, worst_first
from gateway.ops.page.page_parts import PageParts
from gateway.ops.page.render import render_fleet
from gateway.ops.severity import DisplaySeverity
from tests.support.status_pages import whole_page
from tests.support.status_views import NOW, backend, service, tunnel

SUMMARY = MemberSummary(
    instance="a", version="1", status="ready", started_at="", clients=0, warnings=0, reload_successful=True,
    tunnels={"up": 1}, backends={"up": 3},
)  # fmt: skip
LOGIN = MemberProblem("backend orders", "degraded", "auth", "Access denied")
TUNNEL = MemberProblem(
    "tunnel bastion", "down", "timeout", "no answer", "2026-01-01T10:20:30.000Z", "3 backends blocked"
)


def member(name: str, summary: MemberSummary | None = SUMMARY, error: str = "") -> MemberState:
    return MemberState(Member("http", HostPort(name, 9090)), summary, NOW, NOW, 0.1, error)


READY = member("ready")
WARNING = member("warning", replace(SUMMARY, backends={"up": 2, "degraded": 1}, problems=(LOGIN,)))
BLOCKED = member("blocked", replace(SUMMARY, backends={"blocked": 3}, problems=(TUNNEL,)))
DOWN = member("down", replace(SUMMARY, backends={"up": 2, "down": 1}))
DEAD = member("dead", None, "no response within 2 s")


@pytest.mark.parametrize(
    ("view", "level"),
    [
        (READY, DisplaySeverity.GOOD), (WARNING, DisplaySeverity.WARNING), (BLOCKED, DisplaySeverity.BAD),
        (DOWN, DisplaySeverity.BAD), (DEAD, DisplaySeverity.BAD),
        (member("new", None), DisplaySeverity.WARNING),
        (member("draining", replace(SUMMARY, status="draining")), DisplaySeverity.WARNING),
        (member("reload", replace(SUMMARY, reload_successful=False)), DisplaySeverity.WARNING),
        (member("was-ready", error="Connection refused"), DisplaySeverity.BAD),
    ],
)  # fmt: skip
def test_a_member_with_a_backend_that_does_not_work_is_bad(view: MemberState, level: DisplaySeverity) -> None:
    assert member_level(view) is level


def test_the_worst_members_come_first() -> None:
    members = [READY, WARNING, DOWN, BLOCKED, DEAD]
    assert worst_first(members) == [DEAD, DOWN, BLOCKED, WARNING, READY]
    found = fleet_json(FleetState(members), NOW)
    assert [each["name"] for each in found["members"]] == [
        f"{name}:9090" for name in ("dead", "down", "blocked", "warning", "ready")
    ]


def test_the_page_shows_since_when_and_the_effects() -> None:
    parts = PageParts()
    page = whole_page(render_fleet(service([], []), FleetState([READY, WARNING, BLOCKED]), NOW, parts), parts)
    text = " ".join(re.sub("<[^>]+>", "", page).split())
    assert "tunnel bastion is down since 2026-01-01 10:20 UTC (3 backends blocked): timeout: no answer" in text
    # The summary of this member contains no time and no effects, like a summary from an older version of the gateway.
    assert "backend orders is degraded: auth: Access denied" in text
    assert re.findall(r'class="state (\w+) is-ready"', page) == ["bad", "warning", "good"]
    assert text.index("blocked:9090") < text.index("warning:9090") < text.index("ready:9090")


def test_the_summary_contains_since_when_and_the_effects() -> None:
    tunnels = [tunnel("bastion", TunnelState.BACKOFF, reason="timeout", since=0.0)]
    found = summary_json(service(tunnels, [backend("a", HealthState.BLOCKED, via=["bastion"])]))["problems"]
    assert [(each["since"], each["effects"]) for each in found] == [("1970-01-01T00:00:00.000Z", "1 backend blocked")]
