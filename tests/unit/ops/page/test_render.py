"""The pages: everything from outside is escaped, the policy permits only our script, and the size is limited."""

import base64
import hashlib
import re
from dataclasses import replace
from typing import Any

import pytest

from gateway.contracts.states import HealthState, TunnelState
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.page.render import (
    SECURITY_POLICY,
    render_backend,
    render_index,
    render_login,
    render_missing,
)
from gateway.ops.page.row_cache import RowCache
from gateway.ops.status_views import DeadContainerView
from tests.support.status_views import NOW, Checked, backend, consumer, docker, service, target, tunnel, way

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=y>"


def test_the_outer_tunnel_of_a_tunnel_is_shown() -> None:
    view = service([tunnel("inner", via=("a", "b"), via_in_use="b")], [backend("orders", via=["inner"])])
    for page in (render_index(view, [], {}, NOW, RowCache()), render_backend(view, view.backends[0], [], {}, NOW)):
        assert "ssh, user@host:22, via b, round trip" in "".join(page)


def test_text_from_outside_is_escaped() -> None:
    log = EventLog()
    log.record(EventSubject(SubjectType.TARGET, EVIL, EVIL), EVIL, EVIL, EVIL)
    log.record(EventSubject(SubjectType.BACKEND, EVIL), EVIL, EVIL, EVIL)
    evil = {"reason": EVIL, "detail": EVIL}
    history = [Checked(HealthState.DOWN, detail=EVIL, reason=EVIL)]
    bad = target(
        EVIL, HealthState.DOWN, role=EVIL, last_phases={EVIL: 0.1}, history=history, failed_checks=history, **evil
    )
    shown = backend(
        EVIL, HealthState.DOWN, kind=EVIL, via=[EVIL], listen=[EVIL], targets=[bad], consumers={EVIL: consumer(2, 1)},
        rejected={EVIL: 1}, resets={EVIL: 1}, failing=True, **evil,
    )  # fmt: skip
    view = service(
        [tunnel(EVIL, TunnelState.BACKOFF, kind=EVIL, far_side=EVIL, **evil)], [shown], instance=EVIL, version=EVIL,
        warnings=[EVIL], reload_successful=False, reload_failed_at=NOW, reload_error=EVIL,
        docker=docker(trouble=EVIL, warnings=[EVIL],
            dead=[DeadContainerView(EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, is_excluded=False)]),
    )  # fmt: skip
    configuration = {EVIL: [(EVIL, EVIL)], f"backends.{EVIL}": [(EVIL, EVIL)]}
    pages = [
        "".join(render_index(view, log.latest(), configuration, NOW, RowCache())),
        "".join(render_backend(view, shown, log.latest(), configuration, NOW)),
    ]
    for page in pages:
        assert page.count("<script") == 1  # Only that of the page.
        assert "<img" not in page
        assert page.count("&lt;script&gt;") > 15
        assert not re.search(r"\"'&<", page)


@pytest.mark.parametrize("page", [render_login(""), render_missing("../")])
def test_the_policy_permits_only_our_style_and_script(page: str) -> None:
    for element in ("style", "script"):
        [text] = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in SECURITY_POLICY
    assert "unsafe" not in SECURITY_POLICY
    assert not re.search(r"\son\w+=|style=|javascript:", page)


def test_the_login_page_has_no_data() -> None:
    page = render_login("../")
    assert 'type="password"' in page
    assert 'action="' not in page


def test_a_page_with_500_failed_backends_has_less_than_300_kb() -> None:
    history = [Checked(HealthState.DOWN if number % 3 else HealthState.UP) for number in range(100)]
    backends = [
        backend(
            f"backend-number-{number:03}", HealthState.DOWN, via=["bastion"], reason="timeout", detail="x" * 500,
            targets=[target(f"db-{number}.internal:3306", HealthState.DOWN, history=history)], connections=3,
            waiting=1, consumers={f"container-with-a-name-{number}": consumer(3, 1)},
        )
        for number in range(500)
    ]  # fmt: skip
    log = EventLog()
    for each in backends:
        log.observe(EventSubject(SubjectType.BACKEND, each.name), "down", "timeout", "x" * 500)
    page = "".join(render_index(service([tunnel()], backends), log.latest(), {}, NOW, RowCache()))
    assert all(each.name in page for each in backends)
    assert len(page.encode()) < 300_000


def test_a_backend_page_shows_the_root_cause() -> None:
    shown = backend("orders", HealthState.BLOCKED, via=["inner"], reason="tunnel")
    tunnels = [
        tunnel("edge", TunnelState.BACKOFF, reason="refused"),
        tunnel("inner", TunnelState.WAITING, via=["edge"]),
    ]
    page = "".join(render_backend(service(tunnels, [shown]), shown, [], {}, NOW))
    assert "To do: start the tunnel&#39;s server" in page


def test_a_backend_page_shows_the_remedy_once_and_each_other_remedy() -> None:
    failed: dict[str, Any] = {"reason": "auth", "detail": "denied: set user", "remedy": "set user"}
    other: dict[str, Any] = {"reason": "refused", "detail": "refused: start it", "remedy": "start it"}
    targets = [target("a:1", HealthState.DOWN, **failed), target("b:1", HealthState.DOWN, **other)]
    shown = backend(state=HealthState.DOWN, targets=targets, **failed)
    page = "".join(render_backend(service([], [shown]), shown, [], {}, NOW))
    assert (page.count("set user"), page.count("start it")) == (1, 1)


def test_several_ways_are_shown_with_the_one_in_use() -> None:
    ways = [way("edge-a", up=False, in_use=False), way("edge-b")]
    shown = backend("orders", via=["edge-a", "edge-b"], ways=ways)
    view = service([tunnel("edge-a", TunnelState.BACKOFF), tunnel("edge-b")], [shown])
    index = "".join(render_index(view, [], {}, NOW, RowCache()))
    assert "Through edge-a or edge-b" in index
    assert "via edge-b" in index
    assert "used by new clients" in "".join(render_backend(view, shown, [], {}, NOW))


def test_commands_to_run_are_marked_as_code() -> None:
    shown = backend("orders", HealthState.PAUSED)
    page = "".join(render_backend(service(backends=[shown]), shown, [], {}, NOW))
    assert "To do: run <code>gateway resume orders</code> to check" in page


def test_a_row_that_changes_is_rendered_again() -> None:
    rows, shown = RowCache(), [backend("orders"), backend("reports")]

    def page(now: float = NOW) -> str:
        return "".join(render_index(service(backends=shown, started_at=NOW), [], {}, now, rows))

    first = page()
    assert page() == first
    checked = target(history=[*shown[0].targets[0].history[1:], Checked(HealthState.DOWN)])
    for changes in (
        {"state": HealthState.DEGRADED}, {"reason": "lag"}, {"detail": "slow"}, {"since": NOW - 60}, {"waiting": 1},
        {"failing": True}, {"targets": [checked]}, {"targets": [checked, checked]},
    ):  # fmt: skip
        shown[0] = replace(shown[0], **changes)
        fresh = "".join(render_index(service(backends=shown, started_at=NOW), [], {}, NOW, RowCache()))
        assert page() == fresh != first
        first = fresh
    assert "2027-01-15 07:59 UTC" in page(NOW + 90_000)
    del shown[0]
    assert "orders" not in page()
