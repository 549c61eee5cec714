import re
from typing import Any

import pytest

from gateway.backends import target_remedy
from gateway.cli.explanation import explanation, explanation_json
from gateway.cli.severity import hops, tunnels_by_severity, verdict
from gateway.errors import Reason
from gateway.remedies import TARGET_REMEDIES, TUNNEL_REMEDIES
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
        "tunnels": {"bastion": tunnel("edge", bastion, "timeout"), "edge": tunnel(None, edge, "host_key")},
        "backends": {
            "orders": {
                "ways": [{"tunnel": "bastion"}], "listen": ["127.0.0.1:3306"], "kind": "mysql", "since": SINCE,
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
    parts = explanation(site("up", "up", "up", None), "orders").parts
    assert [(each.part, each.name, each.state) for each in parts] == [
        ("listener", "127.0.0.1:3306", "open"), ("admission", "clients", "open"),
        ("tunnel", "edge", "up"), ("tunnel", "bastion", "up"),
        ("target", "db:3306", "up"), ("phase", "channel", "1.0ms"), ("phase", "auth", "2.0ms"),
    ]  # fmt: skip
    assert parts[1].why == "2 clients connected, 1 waiting, at most 10; not served since the start: not_allowed 2"
    assert hops(site("up", "up", "up"), "bastion") == ["edge", "bastion"]


def test_a_failed_check_names_the_phase_in_which_it_ended() -> None:
    parts = explanation(site("up", "up", "down"), "orders").parts
    assert [each.why for each in parts if each.part == "phase"][1] == "the check ended here"


def test_the_explanation_shows_that_a_backend_holds_no_clients() -> None:
    failing = site("up", "up", "up", None)
    failing["backends"]["orders"]["holds_clients"] = False
    explained = explanation(failing, "orders")
    assert explained.parts[1].state == "no hold"
    assert explained.to_do == ["run gateway fail orders --undo to hold clients again while the path is down"]


@pytest.mark.parametrize(
    ("states", "cause"),
    [
        (("quarantined", "waiting", "blocked"), "tunnel edge is quarantined: host_key: because"),
        (("up", "backoff", "blocked"), "tunnel bastion is down: timeout: because"),
        (("up", "up", "down"), "target db:3306 is down: refused: no"),
        (("up", "up", "degraded"), "target db:3306 is degraded: refused: no"),
    ],
)
def test_the_root_cause_is_the_outermost_part_that_fails(states: tuple[str, str, str], cause: str) -> None:
    explained = explanation(site(*states), "orders")
    assert explained.cause == cause
    assert explained.to_do


def test_a_working_backend_has_no_cause() -> None:
    explained = explanation_json(site("up", "up", "up", None), "orders")
    assert (explained["root_cause"], explained["to_do"]) == (None, [])


def test_a_quarantined_tunnel_is_to_be_reconnected() -> None:
    *_, last = explanation(site("quarantined", "waiting", "blocked"), "orders").to_do
    assert last.startswith("then run gateway reconnect edge")


def test_one_tunnel_that_is_down_is_one_cause() -> None:
    cause, totals = verdict(site("backoff", "waiting", "blocked", "tunnel"))
    assert cause == "tunnel edge is down since 2020-01-01 00:00: 1 backend blocked: host_key: because"
    assert totals == "1 backend: 1 blocked; 2 clients connected, 1 waiting"
    assert [name for name, _ in tunnels_by_severity(site("up", "suspect", "blocked"))] == ["bastion", "edge"]


def test_every_reason_has_a_remedy() -> None:
    assert set(TARGET_REMEDIES) == set(Reason)
    packages = ("tunnels", "ssh", "vpn", "proxy", "command", "supervision")
    sources = [path.read_text() for package in packages for path in (REPOSITORY / "gateway" / package).glob("*.py")]
    names = set(re.findall(r"\bReason\.([A-Z_]+)", "".join(sources)))
    assert set(TUNNEL_REMEDIES) == {Reason[name] for name in names}


def test_remedies_fit_the_kind() -> None:
    failing = site("up", "backoff", "blocked")
    failing["tunnels"]["bastion"]["kind"] = "command"
    assert "output of the program" in explanation(failing, "orders").to_do[0]
    assert explanation(site("up", "up", "down", "query"), "orders").to_do == ["correct query"]
    assert "check.database" in target_remedy("mysql", "query")
    assert "check.path" in target_remedy("http", "query")
    assert "flush-hosts" in target_remedy("mysql", "host_blocked")
    assert "protected-mode" in target_remedy("redis", "host_blocked")


def test_a_split_brain_is_not_explained_as_a_missing_primary() -> None:
    split = site("up", "up", "up", None)
    split["backends"]["orders"] |= {"state": "degraded", "reason": "role", "remedy": "demote db:1"}
    assert explanation(split, "orders").to_do == ["demote db:1"]
