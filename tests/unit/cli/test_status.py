"""Tests of the tables of `gateway status`."""

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import cli
from gateway.cli.value_format import format_clock
from gateway.contracts.states import HealthState, TunnelState
from gateway.ops.ops_api_client import OpsApiClient
from gateway.ops.status_json import iso, iter_json, service_json
from gateway.ops.status_views import BackendTunnelView, ServiceView
from tests.support.status_views import NOW, backend, service, target, tunnel, tunnel_path


def lines_of(monkeypatch: pytest.MonkeyPatch, view: ServiceView, *arguments: str) -> list[str]:
    """Return the lines that a command prints."""
    body = json.loads("".join(iter_json(service_json(view))))
    monkeypatch.setattr(
        OpsApiClient, "get_json", lambda _, path: (200, body if "status" in path else {"consumers": {}})
    )
    monkeypatch.setenv("COLUMNS", "500")
    done = CliRunner().invoke(cli, arguments)
    assert done.exception is None, done.output
    return done.output.splitlines()


def shown(monkeypatch: pytest.MonkeyPatch, view: ServiceView, *arguments: str) -> list[str]:
    """Return the lines of the table of backends."""
    lines = lines_of(monkeypatch, view, "status", *arguments)
    return lines[next(at for at, line in enumerate(lines) if line.startswith("BACKEND")) :]


@pytest.mark.parametrize("arguments", [(), ("-o", "wide")])
def test_the_row_of_a_backend_has_its_state_and_targets_follow(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    targets = [target("db-1:3306", role="replica", since=NOW - 1), target("db-2:3306", role="replica", since=NOW - 2)]
    leader = backend(
        "leader", HealthState.DOWN, since=NOW - 60, reason="role", detail="no target is a writable primary",
        targets=targets, connections=2,
    )  # fmt: skip
    _, row, note, first, second = shown(monkeypatch, service(backends=[leader]), *arguments)
    began = [format_clock(iso(NOW - seconds)) for seconds in (60, 1, 2)]
    assert row.split()[:2] == ["leader", "down"]
    assert began[0] in row
    assert note == "    role: no target is a writable primary"
    assert [line.split()[0] for line in (first, second)] == ["up", "up"]
    assert (began[1] in first, began[2] in second) == (True, True)
    assert ("db-1:3306" in first, "db-2:3306" in second) == (True, True)


def test_a_backend_and_its_only_target_share_a_row_if_their_states_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    equal, different = backend("a", since=NOW - 60), backend("b", HealthState.DEGRADED, targets=[target()])
    _, different_row, of_target, row = shown(monkeypatch, service(backends=[equal, different]))
    assert row.split()[:2] == ["a", "up"]
    assert format_clock(iso(NOW - 60)) in row
    assert "db.internal:3306" in row
    assert different_row.split()[:2] == ["b", "degraded"]
    assert of_target.split()[0] == "up"


def test_the_outer_tunnel_in_use_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = [tunnel("a"), tunnel("b")]
    for used, via in (("b", "b"), (None, "a, b")):
        inner = tunnel("inner", via=("a", "b"), via_in_use=used)
        view = service([*edges, inner], [backend("orders", via=["inner"])])
        [row] = [line for line in lines_of(monkeypatch, view, "status") if line.startswith("inner ")]
        assert re.split("  +", row)[3] == via
        explained = "\n".join(lines_of(monkeypatch, view, "explain", "orders"))
        assert ("user@host:22, via b" in explained) == (used == "b")


def test_the_row_of_a_blocked_backend_does_not_repeat_why_the_tunnel_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "the host key has changed"
    blocked: dict[str, Any] = {
        "reason": "tunnel", "detail": f"tunnel bastion is down: {why}", "via": ["bastion"],
        "targets": [target(address, HealthState.BLOCKED, reason="tunnel", detail=why) for address in ("a:1", "b:1")],
    }  # fmt: skip
    unchecked = backend(
        "new", HealthState.BLOCKED, reason="tunnel", detail="no check has finished", via=["edge"],
        targets=[target(state=HealthState.BLOCKED, reason="tunnel", detail="no check has finished")],
    )  # fmt: skip
    several = backend("several", via=["bastion", "edge"], paths=[
        BackendTunnelView("bastion", False, "tunnel", why, False, 0, 0), tunnel_path("edge"),
    ])  # fmt: skip
    down = tunnel("bastion", TunnelState.BACKOFF, reason="hostkey", detail=why)
    backends = [*(backend(f"b{at}", HealthState.BLOCKED, **blocked) for at in range(3)), several, unchecked]
    lines = lines_of(monkeypatch, service([down, tunnel("edge")], backends), "status")
    assert [line for line in lines if why in line] == [f"  hostkey: {why}", f"    hostkey: {why}"]
    assert lines.count("    tunnel bastion is down") == 3
    assert "    no check has finished" in lines
    assert "    clients: 0, switches: 0" in lines


@pytest.mark.parametrize(
    ("state", "name"), [(TunnelState.BACKOFF, "down"), (TunnelState.QUARANTINED, "down (quarantined)")]
)
def test_tables_name_the_state_of_a_failed_tunnel_as_the_diagnosis_does(
    monkeypatch: pytest.MonkeyPatch, state: TunnelState, name: str
) -> None:
    blocked = backend("orders", HealthState.BLOCKED, via=["bastion"], reason="tunnel")
    view = service([tunnel("bastion", state, reason="auth")], [blocked])
    status = [re.split("  +", line) for line in lines_of(monkeypatch, view, "status")]
    assert [row[1] for row in status if row[0] == "bastion"] == [name]
    explained = [re.split("  +", line) for line in lines_of(monkeypatch, view, "explain", "orders")]
    assert [row[2] for row in explained if row[0] == "tunnel"] == [name]
    chain = json.loads("\n".join(lines_of(monkeypatch, view, "explain", "orders", "-o", "json")))["chain"]
    assert [part["state"] for part in chain if part["part"] == "tunnel"] == [state]
