"""Tests whether the status page and the commands show the same diagnosis, in the same words and order."""

import html
import json
import re
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import cli
from gateway.cli.diagnosis_output import print_notices
from gateway.cli.value_format import format_clock
from gateway.contracts.states import HealthState, TunnelState
from gateway.ops.diagnosis import diagnose
from gateway.ops.ops_api_client import OpsApiClient
from gateway.ops.status_json import consumers_json, iso, iter_json, service_json
from gateway.ops.status_views import ServiceView
from tests.support.status_pages import backend_page, status_page
from tests.support.status_views import NOW, backend, consumer, docker, service, tunnel

BROKEN = tunnel("bastion", TunnelState.QUARANTINED, reason="auth", detail="Permission denied", since=NOW - 60)
RETRYING = tunnel("edge", TunnelState.CONNECTING, reason="timeout", detail="no reply", since=NOW - 60)
REFUSED: dict[str, Any] = {"reason": "refused", "detail": "cannot connect", "remedy": "start the server"}
CONSUMERS = {"web": consumer(3, waiting=2), "job": consumer(1, waiting=1)}
SITES = {
    "a healthy service": service([tunnel()], [backend("orders", via=["bastion"])]),
    "an unused tunnel and a backend": service(
        [RETRYING], [backend("orders", HealthState.DOWN, waiting=1, connections=2, **REFUSED), backend("reports")]
    ),
    "waiting containers": service(
        [BROKEN], [backend("orders", HealthState.BLOCKED, via=["bastion"], consumers=CONSUMERS)], docker=docker()
    ),
    "nested tunnels": service(
        [RETRYING, tunnel("inner", TunnelState.WAITING, via=["edge"], reason="tunnel")],
        [backend("orders", HealthState.BLOCKED, via=["inner"], waiting=1, connections=1)],
    ),
    "another path": service([RETRYING, tunnel("b")], [backend("orders", via=["edge", "b"])]),
    "a target behind a dead tunnel": service(
        [RETRYING, tunnel("b")], [backend("orders", HealthState.DEGRADED, via=["edge", "b"], reason="tunnel")]
    ),
    "paused and unknown": service(
        backends=[backend("orders", HealthState.PAUSED), backend("reports", HealthState.UNKNOWN, remedy="set user")]
    ),
    "clients are refused": service(
        backends=[backend("orders", failing=True), backend("reports", connections=5, max_connections=5)]
    ),
    "a draining tunnel": service([tunnel("old", TunnelState.DRAINING)], [backend("orders", via=["old"])]),
    "many failures": service(backends=[backend(f"b{at:03}", HealthState.DOWN, **REFUSED) for at in range(200)]),
}


def shown_by(monkeypatch: pytest.MonkeyPatch, view: ServiceView, *arguments: str) -> list[str]:
    """Return the lines that a command prints, with "T" instead of timestamps."""
    bodies = {
        "/api/v1/status": json.loads("".join(iter_json(service_json(view)))),
        "/api/v1/consumers": consumers_json(view),
    }
    monkeypatch.setattr(OpsApiClient, "get_json", lambda _, path: (200, bodies[path]))
    monkeypatch.setenv("COLUMNS", "500")
    done = CliRunner().invoke(cli, arguments)
    assert done.exception is None, done.output
    return [re.sub(r"since [\d: -]+: ", "since T: ", line.strip()) for line in done.output.splitlines()]


def shown_on(page: str) -> list[str]:
    """Return the lines of the diagnosis on the status page, with "T" instead of timestamps."""
    section = page[page.index('<section id="diagnosis"') :].partition("</section>")[0]
    section = re.sub(r"<time.*?</time>", "T", section)
    lines = re.findall(r"<(?:h2|p)[^>]*>(.*?)</(?:h2|p)>", section, re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<.*?>", "", line)).split()) for line in lines]


def sentences(lines: list[str], label: str = "") -> list[str]:
    """Return the lines that contain a cause or a remedy."""
    found = [line.removeprefix(label) for line in lines]
    return [
        re.sub("^[Tt]o do: ", "", line)
        for line in found
        if " since T: " in line or line.lower().startswith("to do: ") or "more cause" in line
    ]


@pytest.mark.parametrize("view", SITES.values(), ids=SITES)
def test_the_page_and_the_commands_show_the_same_causes(monkeypatch: pytest.MonkeyPatch, view: ServiceView) -> None:
    page = shown_on(status_page(view))
    status = shown_by(monkeypatch, view, "status")
    top = shown_by(monkeypatch, view, "top", "--count", "1", "--interval", "0.1")
    expected = sentences(page)
    assert sentences(status[: status.index("")]) == expected
    assert sentences(top[: top.index("")]) == expected
    headline = diagnose(view).headline
    assert headline in page
    assert [any(line.startswith(f"{headline}; ") for line in lines) for lines in (status, top)] == [True, True]
    for each in view.backends[:3]:
        own = sentences(shown_on(backend_page(view, each)))
        explained = [
            re.sub("^(root cause|warning): ", "", line) for line in shown_by(monkeypatch, view, "explain", each.name)
        ]
        assert sentences(explained) == own
        if len(view.backends) < 5:
            assert set(own) <= set(expected)
            assert bool(own) >= (each.state is not HealthState.UP)
            assert ("nothing to do" in explained) == (not own)


def test_the_page_and_the_commands_show_the_same_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    view = service(
        reload_successful=False, reload_failed_at=NOW - 60, reload_error="gateway.yaml:1:1: no " + "bad " * 40,
        warnings=["the certificate has expired: renew it"],
    )  # fmt: skip
    page = status_page(view)
    expected = f"The last reload failed at {{}}, and the previous configuration is in effect: {view.reload_error}"
    section = page[page.index('<section id="notices"') :].partition("</section>")[0]
    assert expected.format("07:59:00 UTC") in re.sub("<.*?>", "", section)
    assert view.warnings[0] in section
    for arguments in (["status"], ["top", "--count", "1", "--interval", "0.1"]):
        shown = shown_by(monkeypatch, view, *arguments)
        assert expected.format(format_clock(iso(NOW - 60))).strip() in shown
        assert f"warning: {view.warnings[0]}" in shown
        monkeypatch.setenv("COLUMNS", "80")
        done = CliRunner().invoke(cli, arguments)
        assert max(map(len, done.output.splitlines())) <= 80


def test_many_failures_leave_room_for_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown_by(monkeypatch, SITES["many failures"], "top", "--count", "1", "--interval", "0.1")
    assert lines.index("") < 15
    assert "195 more causes: see below" in lines


def test_listeners_are_closed_after_the_start_of_a_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    for accepting, state in ((True, "open"), (False, "closed")):
        view = service(backends=[backend("orders")], accepting=accepting)
        explained = shown_by(monkeypatch, view, "explain", "orders")
        assert [line.split()[2] for line in explained if line.startswith("listener")] == [state]
        page = backend_page(view, view.backends[0])
        assert ("(closed, because the gateway stops)" in page) == (not accepting)


def test_a_failed_reload_of_an_older_gateway_is_shown_without_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    reload = {"successful": False, "error": "gateway.yaml:1:1: wrong"}
    print_notices({"reload": reload, "warnings": []})
    assert capsys.readouterr().out.startswith("The last reload failed, and ")
    print_notices({"reload": {**reload, "failed_at": iso(NOW)}, "warnings": []})
    assert capsys.readouterr().out.startswith(f"The last reload failed at {format_clock(iso(NOW))}, and ")
