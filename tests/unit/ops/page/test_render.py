"""Tests the HTML pages: escaping of untrusted text, the Content-Security-Policy, the size, and partial updates."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.states import HealthState, TunnelState
from gateway.fleet.fleet_state import FleetState, MemberState
from gateway.fleet.member_addresses import Member
from gateway.ops.docker_views import UnavailableContainerView
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.page.page_parts import PageParts
from gateway.ops.page.render import (
    render_fleet,
    render_login,
    render_missing,
)
from gateway.ops.page.templates import SECURITY_POLICY
from tests.support.status_pages import backend_page, status_page, whole_page
from tests.support.status_views import NOW, Checked, backend, consumer, docker, service, target, tunnel, tunnel_path

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=y>"


def test_the_outer_tunnel_of_a_tunnel_is_shown() -> None:
    view = service([tunnel("inner", via=("a", "b"), via_in_use="b")], [backend("orders", via=["inner"])])
    for page in (status_page(view), backend_page(view, view.backends[0])):
        assert "ssh, user@host:22, via b, round trip" in page


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
        docker=docker(problem=EVIL, warnings=[EVIL],
            unavailable=[UnavailableContainerView(EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, is_excluded=False)]),
    )  # fmt: skip
    configuration = {EVIL: [(EVIL, EVIL)], f"backends.{EVIL}": [(EVIL, EVIL)]}
    for page in (
        status_page(view, log.latest(), configuration),
        backend_page(view, shown, log.latest(), configuration),
    ):
        assert page.count("<script") == 1  # This is the page's own script.
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
    page = status_page(service([tunnel()], backends), log.latest())
    assert all(each.name in page for each in backends)
    assert len(page.encode()) < 300_000


def test_a_backend_page_shows_the_root_cause() -> None:
    shown = backend("orders", HealthState.BLOCKED, via=["inner"], reason="tunnel")
    tunnels = [
        tunnel("edge", TunnelState.BACKOFF, reason="refused"),
        tunnel("inner", TunnelState.WAITING, via=["edge"]),
    ]
    page = backend_page(service(tunnels, [shown]), shown)
    assert "To do: start the tunnel&#39;s server" in page


def test_a_backend_page_shows_the_remedy_once_and_each_other_remedy() -> None:
    failed: dict[str, Any] = {"reason": "auth", "detail": "denied: set user", "remedy": "set user"}
    other: dict[str, Any] = {"reason": "refused", "detail": "refused: start it", "remedy": "start it"}
    targets = [target("a:1", HealthState.DOWN, **failed), target("b:1", HealthState.DOWN, **other)]
    shown = backend(state=HealthState.DOWN, targets=targets, **failed)
    page = backend_page(service([], [shown]), shown)
    assert (page.count("set user"), page.count("start it")) == (1, 1)


def test_several_paths_are_shown_with_the_one_in_use() -> None:
    paths = [tunnel_path("edge-a", up=False, in_use=False), tunnel_path("edge-b")]
    shown = backend("orders", via=["edge-a", "edge-b"], paths=paths)
    view = service([tunnel("edge-a", TunnelState.BACKOFF), tunnel("edge-b")], [shown])
    page = status_page(view)
    assert "Through edge-a or edge-b" in page
    assert "via edge-b" in page
    assert "used by new clients" in backend_page(view, shown)


def test_commands_to_run_are_marked_as_code() -> None:
    shown = backend("orders", HealthState.PAUSED)
    page = backend_page(service(backends=[shown]), shown)
    assert "To do: run <code>gateway resume orders</code> to check" in page


def test_a_row_that_changes_is_rendered_again() -> None:
    parts, shown = PageParts(), [backend("orders"), backend("reports")]

    def page(parts: PageParts, now: float = NOW) -> str:
        # Remove the version number, because it differs between instances of `PageParts`.
        return re.sub(
            'data-version="[0-9]+"', "", status_page(service(backends=shown, started_at=NOW), now=now, parts=parts)
        )

    first = page(parts)
    assert page(parts) == first
    checked = target(history=[*shown[0].targets[0].history[1:], Checked(HealthState.DOWN)])
    for changes in (
        {"state": HealthState.DEGRADED}, {"reason": "lag"}, {"detail": "slow"}, {"since": NOW - 60}, {"waiting": 1},
        {"failing": True}, {"targets": [checked]}, {"targets": [checked, checked]},
    ):  # fmt: skip
        shown[0] = replace(shown[0], **changes)
        fresh = page(PageParts())
        assert page(parts) == fresh != first
        first = fresh
    assert "2027-01-15 07:59 UTC" in page(parts, NOW + 90_000)
    del shown[0]
    assert "orders" not in page(parts)


def test_an_open_page_gets_only_the_parts_that_it_does_not_have() -> None:
    parts, log = PageParts(), EventLog()
    shown = [backend(f"b{number}", consumers={f"c{number}": consumer(1)}) for number in range(5)]

    def update(since: int) -> str:
        status_page(service([tunnel()], shown, started_at=NOW), log.latest(), parts=parts)
        return parts.html(since)

    update(0)
    known = parts.version
    assert update(known) == ""
    assert parts.version == known
    shown[3] = replace(shown[3], state=HealthState.DOWN)
    log.observe(EventSubject(SubjectType.BACKEND, "b3"), "down")
    found = update(known)
    fresh = re.findall(r'<\w+ id="([^"]+)"', re.sub("<template.*?</template>", "", found))
    containers = re.findall(r'id="([^"]+)"[^>]* data-parts>', found)
    change = f"change-{log.last_id}"
    assert sorted(set(fresh) - set(containers)) == sorted(["verdict", "row-b3", "changes-heading", change])
    assert re.findall(r'id="row-(b\d)"', found) == ["b3", "b0", "b1", "b2", "b4"]
    assert update(known) == found
    assert update(parts.version) == ""
    last = parts.version
    del shown[0]
    assert 'id="row-b0"' not in update(last)
    assert parts.known_version(str(known)) == known
    for text in ("", "login", str(known - 1), str(parts.version + 1), "²", "9" * 5000, str(parts.version) + " "):
        assert parts.known_version(text) is None


def test_every_child_of_an_element_with_parts_has_a_unique_id() -> None:
    shown = backend("orders", HealthState.DOWN, via=["edge"], consumers={"a": consumer(1), "b": consumer(1)})
    view = service(
        [tunnel("edge", via=["outer"]), tunnel("outer"), tunnel("unused")], [shown, backend("b")], warnings=["w"]
    )
    log = EventLog()
    log.observe(EventSubject(SubjectType.BACKEND, "orders"), "down")
    parts = PageParts()
    fleet = FleetState([MemberState(Member("http", HostPort(name, 9090))) for name in "ab"])
    pages = (
        status_page(view, log.latest()),
        backend_page(view, shown, log.latest()),
        whole_page(render_fleet(view, fleet, NOW, parts), parts),
    )
    for page in (*pages, render_login(""), render_missing("")):
        found = PartIds()
        found.feed(page)
        assert {"page", "top", "main"} < found.ids
        assert found.problems == []


class PartIds(HTMLParser):
    """Collects the IDs of the elements of a page, and the problems with these IDs.

    A problem is a duplicate ID, or a child of a `data-parts` element that is text or has no ID.
    """

    VOID = ("meta", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.problems: list[str] = []
        self._has_parts = [False]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if ("id" not in found and self._has_parts[-1]) or found.get("id") in self.ids:
            self.problems.append(f"{tag} {found}")
        self.ids.update(filter(None, [found.get("id")]))
        if tag not in self.VOID:
            self._has_parts.append("data-parts" in found)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # The only self-closing elements are the `<path>` elements of charts.

    def handle_endtag(self, tag: str) -> None:
        self._has_parts.pop()

    def handle_data(self, data: str) -> None:
        if self._has_parts[-1] and data.strip():
            self.problems.append(data)
