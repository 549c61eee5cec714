import pytest

from gateway.app.changes import compare
from gateway.config import Config, Sources, load
from gateway.errors import UsageError

TUNNELS = ("edge=ssh://u@edge", "bastion=ssh://u@bastion?via=edge", "other=ssh://u@other")
BACKENDS = ("orders=mysql://db?via=bastion", "reports=postgres://pg?via=other", "direct=tcp://app:1")


def config(
    settings: dict[str, str] | None = None,
    tunnels: tuple[str, ...] = TUNNELS,
    backends: tuple[str, ...] = BACKENDS,
) -> Config:
    return load(Sources(tunnels=tunnels, backends=backends, settings=settings or {}, environment={}))


def test_the_same_changes_nothing() -> None:
    changes = compare(config(), config())
    assert str(changes) == "no change"


def test_a_changed_tunnel_takes_along_what_goes_through_it_and_nothing_else() -> None:
    changes = compare(config(), config(tunnels=("edge=ssh://u@edge2", *TUNNELS[1:])))
    assert changes.tunnels_new == changes.tunnels_gone == {"edge", "bastion"}
    assert changes.backends_changed == {"orders"}
    assert not changes.backends_new | changes.backends_gone


def test_backends_come_change_and_go() -> None:
    changes = compare(
        config(), config(backends=("orders=mysql://db?via=bastion&hold=1s", "new=tcp://x:1", BACKENDS[2]))
    )
    assert changes.backends_changed == {"orders"}
    assert changes.backends_new == {"new"}
    assert changes.backends_gone == {"reports"}
    assert not changes.tunnels_new | changes.tunnels_gone
    assert str(changes) == "backends added: new; backends changed: orders; backends removed: reports"


def test_what_needs_a_restart_is_refused() -> None:
    with pytest.raises(UsageError, match="'ops' changed"):
        compare(config(), config({"ops-listen": "127.0.0.1:1"}))
