import re
from typing import Any

from gateway.backends import target_remedy
from gateway.cli.backend_state_explanation import explanation, explanation_json
from gateway.cli.severity_order import tunnels_by_severity
from gateway.cli.target_path_descriptions import hops
from gateway.errors import FailureReason
from gateway.remedies import TARGET_REMEDIES, TUNNEL_REMEDIES
from gateway.tunnels import tunnel_remedy
from tests.support.files import REPOSITORY

SINCE = "2020-01-01T00:00:00.000Z"


def tunnel(via: str | None, state: str, reason: str | None = None) -> dict[str, Any]:
    return {
        "kind": "ssh",
        "via": via,
        "state": state,
        "reason": reason,
        "detail": "because",
        "far_side": "u@h:22",
        "since": SINCE,
    }


def site(edge: str, bastion: str, target: str, reason: str | None = "refused") -> dict[str, Any]:
    return {
        "accepting": True,
        "diagnosis": {"causes": []},
        "tunnels": {"bastion": tunnel("edge", bastion, "timeout"), "edge": tunnel(None, edge, "host_key")},
        "backends": {
            "orders": {
                "paths": [{"tunnel": "bastion"}], "listen": ["127.0.0.1:3306"], "kind": "mysql", "since": SINCE,
                "state": target, "reason": reason, "detail": "no", "remedy": f"correct {reason}",
                "connections": {"active": 3, "waiting": 1, "limit": 10, "rejected": {"not_allowed": 2}},
                "holds_clients": True,
                "targets": [{
                    "target": "db:3306", "state": target, "reason": reason, "detail": "no",
                    "remedy": f"correct {reason}", "role": None,
                    "facts": [], "since": SINCE, "last_check": SINCE,
                    "last_phases_seconds": {"channel": 0.001, "auth": 0.002},
                }],
            }
        },
    }  # fmt: skip


def test_the_path_goes_from_the_listener_over_the_outermost_hop_to_the_phases() -> None:
    parts = explanation(site("up", "up", "up", None), "orders").rows
    assert [(each.part, each.name, each.state) for each in parts] == [
        ("listener", "127.0.0.1:3306", "open"), ("admission", "clients", "open"),
        ("tunnel", "edge", "up"), ("tunnel", "bastion", "up"),
        ("target", "db:3306", "up"), ("phase", "channel", "1.0ms"), ("phase", "auth", "2.0ms"),
    ]  # fmt: skip
    assert (
        parts[1].why
        == "2 clients connected, 1 waiting, at most 10; clients not served since the start: not_allowed 2"
    )
    assert hops(site("up", "up", "up"), "bastion") == ["edge", "bastion"]


def test_a_failed_check_names_the_phase_in_which_it_ended() -> None:
    parts = explanation(site("up", "up", "down"), "orders").rows
    assert [each.why for each in parts if each.part == "phase"][1] == "the check failed in this phase"


def test_the_path_does_not_repeat_the_remedy() -> None:
    failed = site("up", "up", "down")
    for part in (failed["backends"]["orders"], *failed["backends"]["orders"]["targets"]):
        part["detail"] = "no: correct refused"
    parts = explanation(failed, "orders").rows
    assert [each.why for each in parts if each.part == "target"] == ["refused: no"]


def test_the_path_shows_that_a_backend_holds_no_clients() -> None:
    failing = site("up", "up", "up", None)
    failing["backends"]["orders"]["holds_clients"] = False
    assert explanation(failing, "orders").rows[1].state == "no hold"


def test_a_failed_part_of_another_path_is_not_the_root_cause() -> None:
    found = site("up", "up", "degraded")
    common = {"since": SINCE, "state": "down", "effects": "", "blocked": [], "degraded": [], "rerouted": []}
    causes = [
        {
            **common,
            "part": "tunnel",
            "name": "edge",
            "cause": "login rejected",
            "remedy": "`a` b",
            "rerouted": ["orders"],
        },
        {**common, "part": "backend", "name": "orders", "cause": "the replica lags", "remedy": ""},
        {**common, "part": "backend", "name": "edge", "cause": "refused", "remedy": ""},
        {**common, "part": "tunnel", "name": "orders", "cause": "refused", "remedy": ""},
    ]
    found["diagnosis"]["causes"] = causes
    shown = explanation_json(found, "orders")
    assert shown["root_cause"] == "orders down since 2020-01-01 00:00: the replica lags"
    assert (shown["to_do"], shown["causes"]) == (["a b"], [causes[1], causes[0]])
    found["backends"]["orders"]["state"] = "up"
    assert explanation_json(found, "orders")["root_cause"] is None


def test_the_worst_tunnels_come_first() -> None:
    assert [name for name, _ in tunnels_by_severity(site("up", "suspect", "blocked"))] == ["bastion", "edge"]


def test_every_reason_has_a_remedy() -> None:
    assert set(TARGET_REMEDIES) == set(FailureReason)
    packages = ("tunnels", "ssh", "vpn", "proxy", "command_tunnel", "supervision")
    sources = [path.read_text() for package in packages for path in (REPOSITORY / "gateway" / package).glob("*.py")]
    names = set(re.findall(r"\bFailureReason\.([A-Z_]+)", "".join(sources)))
    assert set(TUNNEL_REMEDIES) == {FailureReason[name] for name in names}


def test_remedies_fit_the_kind() -> None:
    assert "output of the program" in tunnel_remedy("command", "timeout")
    assert "check.database" in target_remedy("mysql", "query")
    assert "check.path" in target_remedy("http", "query")
    assert "render exports" in target_remedy("nfs", "permission")
    assert "local port" in target_remedy("mysql", "permission")
    assert "flush-hosts" in target_remedy("mysql", "host_blocked")
    assert "protected-mode" in target_remedy("redis", "host_blocked")
    assert "maxmemory-policy" in target_remedy("redis", "no_space")
