import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app.config_diff import diff_configs
from gateway.config import Config, ConfigSources, load
from gateway.errors import UsageError

TUNNELS = ("edge=ssh://u@edge", "bastion=ssh://u@bastion?via=edge", "other=ssh://u@other")
BACKENDS = ("orders=mysql://db?via=bastion", "reports=postgres://pg?via=other", "direct=tcp://app:1")


def config(
    settings: dict[str, str] | None = None,
    tunnels: tuple[str, ...] = TUNNELS,
    backends: tuple[str, ...] = BACKENDS,
) -> Config:
    return load(ConfigSources(tunnels=tunnels, backends=backends, settings=settings or {}, environment={}))


def test_an_equal_configuration_changes_nothing() -> None:
    changes = diff_configs(config(), config())
    assert str(changes) == "no change"


def test_a_changed_tunnel_changes_only_what_depends_on_it() -> None:
    changes = diff_configs(config(), config(tunnels=("edge=ssh://u@edge2", *TUNNELS[1:])))
    assert changes.tunnels_opened == changes.tunnels_closed == {"edge", "bastion"}
    assert changes.backends_changed == {"orders"}
    assert not changes.backends_added | changes.backends_removed


def test_backends_are_added_changed_and_removed() -> None:
    changes = diff_configs(
        config(), config(backends=("orders=mysql://db?via=bastion&hold=1s", "new=tcp://x:1", BACKENDS[2]))
    )
    assert changes.backends_changed == {"orders"}
    assert changes.backends_added == {"new"}
    assert changes.backends_removed == {"reports"}
    assert not changes.tunnels_opened | changes.tunnels_closed
    assert str(changes) == "backends added: new; backends changed: orders; backends removed: reports"


def test_a_changed_section_is_reported() -> None:
    changes = diff_configs(config(), config({"log-level": "debug", "shutdown-drain": "9s"}))
    assert str(changes) == "sections changed: log, shutdown"


def test_changes_that_need_a_restart_are_refused() -> None:
    with pytest.raises(
        UsageError,
        match=r"^--ops-listen: ops\.listen: the gateway reads the sections gateway, ops and traces only at startup",
    ):
        diff_configs(config(), config({"ops-listen": "127.0.0.1:1"}))
    with pytest.raises(UsageError, match=r"^--workers: gateway\.threads: the gateway reads the sections gateway"):
        diff_configs(config(), config({"workers": "1"}))


NAMES = ("a", "b", "c", "d")


@st.composite
def sites(draw: st.DrawFn) -> Config:
    """Generate a valid configuration, in which a tunnel can run inside an earlier tunnel."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    tunnels = []
    for at, name in enumerate(names):
        via = ",".join(draw(st.lists(st.sampled_from(names[:at]), unique=True)) if at else [])
        host = draw(st.sampled_from(["h1", "h2"]))
        tunnels.append(f"{name}=ssh://u@{host}" + (f"?via={via}" if via else ""))
    backends = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1)):
        via = ",".join(draw(st.lists(st.sampled_from(names), unique=True)) if names else [])
        hold = draw(st.sampled_from(["1s", "2s"]))
        backends.append(f"{name}=tcp://app:1?hold={hold}" + (f"&via={via}" if via else ""))
    return config(tunnels=tuple(tunnels), backends=tuple(backends))


@given(sites(), sites())
def test_only_differences_and_their_dependents_are_changed(old: Config, new: Config) -> None:
    changes = diff_configs(old, new)
    kept = {name for name in old.tunnels if name not in changes.tunnels_closed}
    for name in kept:
        assert old.tunnels[name] == new.tunnels[name]
        assert kept.issuperset(new.tunnels[name].via)
    assert kept | changes.tunnels_opened == new.tunnels.keys()
    for name in old.backends.keys() & new.backends.keys() - changes.backends_changed:
        assert old.backends[name] == new.backends[name]
        assert kept.issuperset(new.backends[name].via)
    assert old.backends.keys() - changes.backends_removed | changes.backends_added == new.backends.keys()
    assert str(diff_configs(old, old)) == "no change"
