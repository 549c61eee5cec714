from typing import Any

from gateway.cli.explanation import chain, hops, root_cause


def tunnel(via: str | None, state: str, reason: str | None = None) -> dict[str, Any]:
    return {"via": via, "state": state, "reason": reason, "detail": "because", "far_side": "u@h:22"}


def site(edge: str, bastion: str, target: str) -> dict[str, Any]:
    return {
        "tunnels": {"bastion": tunnel("edge", bastion, "tunnel"), "edge": tunnel(None, edge, "host_key")},
        "backends": {
            "orders": {
                "ways": [{"tunnel": "bastion"}], "listen": ["127.0.0.1:3306"], "state": target, "reason": "tunnel",
                "detail": "x",
                "connections": {"active": 3}, "holds_clients": True,
                "targets": [{
                    "target": "db:3306", "state": target, "reason": "refused", "detail": "no", "role": None,
                    "facts": [],
                }],
            }
        },
    }  # fmt: skip


def test_the_chain_goes_from_the_listener_over_the_outermost_hop_to_the_target() -> None:
    rows = chain(site("up", "up", "up"), "orders")
    assert [row[:2] for row in rows] == [
        ["listener", "127.0.0.1:3306"], ["tunnel", "edge"], ["tunnel", "bastion"], ["target", "db:3306"],
    ]  # fmt: skip
    assert hops(site("up", "up", "up"), "bastion") == ["edge", "bastion"]


def test_the_explanation_shows_that_a_backend_holds_no_clients() -> None:
    failing = site("up", "up", "up")
    failing["backends"]["orders"]["holds_clients"] = False
    assert chain(failing, "orders")[0][3] == "3 clients, not held while the path is down (gateway fail orders --undo)"


def test_the_root_cause_is_the_outermost_part_that_fails() -> None:
    assert root_cause(site("quarantined", "waiting", "blocked"), "orders") == "tunnel edge: host_key: because"
    assert root_cause(site("up", "backoff", "blocked"), "orders") == "tunnel bastion: tunnel: because"
    assert root_cause(site("up", "up", "down"), "orders") == "target db:3306: refused: no"
    assert root_cause(site("up", "up", "up"), "orders") is None
