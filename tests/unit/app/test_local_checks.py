from gateway.app.local_checks import HandshakeBudgets
from gateway.config import Config, ConfigSources, load
from gateway.contracts.values import Endpoint

DB = Endpoint("db", 3306)


def config(*backends: str) -> Config:
    tunnels = tuple(f"{name}=ssh://u@{name}" for name in "abc")
    return load(ConfigSources(tunnels=tunnels, backends=backends, environment={}))


def test_a_server_has_one_handshake_budget_for_all_ways_and_another_behind_an_unrelated_tunnel() -> None:
    backends = config("x=mysql://db?via=a,b", "y=mysql://db?via=b", "z=mysql://db?via=c", "t=tcp://db:3306").backends
    budgets = HandshakeBudgets()
    x, y, z = (budgets.of(backends[name])[DB] for name in "xyz")
    assert x is y
    assert x is not z
    assert budgets.of(backends["t"]) == {}
    for way in ("a", "b"):
        budgets.record_abandoned_dial(way, DB)
    assert (x.aborted, z.aborted) == (2, 0)
