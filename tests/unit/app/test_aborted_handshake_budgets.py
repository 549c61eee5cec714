"""Tests which backends share a handshake budget, and that the gateway combines the budgets of paths to one server."""

import itertools
from collections.abc import Iterable

import pytest

from gateway.app.aborted_handshake_budgets import AbortedHandshakeBudgets
from gateway.config import Config, ConfigSources, load
from gateway.contracts.config_types import HostPort
from gateway.forwarding.aborted_handshake_budget import AbortedHandshakeBudget, set_limit

DB = HostPort("db", 3306)
ONLY_A, ONLY_B, ORDERS = "mysql://db?via=a", "mysql://db?via=b", "mysql://db?via=a,b"


def config(*backends: str) -> Config:
    tunnels = tuple(f"{name}=ssh://u@{name}" for name in "abc")
    return load(ConfigSources(tunnels=tunnels, backends=backends, environment={}))


def named(urls: Iterable[str]) -> Config:
    return config(*(f"{name}={url}" for name, url in zip("xyz", urls, strict=False)))


def budget(
    budgets: AbortedHandshakeBudgets, configured: Config, name: str, tunnel: str | None
) -> AbortedHandshakeBudget:
    found = budgets.of(configured.backends[name], DB, tunnel)
    assert found is not None
    return found


def test_backends_share_the_budget_of_a_path_and_other_kinds_have_none() -> None:
    configured = config("x=mysql://db?via=a,b", "y=mysql://db?via=b", "z=mysql://db?via=c", "t=tcp://db:3306?via=a")
    budgets = AbortedHandshakeBudgets()
    budgets.update(configured.backends.values())
    assert budget(budgets, configured, "x", "b") is budget(budgets, configured, "y", "b")
    assert budgets.of(configured.backends["t"], DB, "a") is None
    for path in ("a", "b", "unknown"):
        budgets.record_abandoned_dial(path, DB)
    assert [budget(budgets, configured, name, path).aborted for name, path in ("xa", "yb", "zc")] == [2, 2, 0]


@pytest.mark.parametrize("order", list(itertools.permutations([ONLY_A, ONLY_B, ORDERS])))
def test_the_paths_of_one_backend_limit_each_other_in_all_backends(order: tuple[str, ...]) -> None:
    configured = named(order)
    budgets = AbortedHandshakeBudgets()
    budgets.update(configured.backends.values())
    names = dict(zip(order, "xyz", strict=True))
    for url, path in ((ONLY_A, "a"), (ONLY_B, "b"), (ORDERS, "a"), (ORDERS, "b")):
        found = budget(budgets, configured, names[url], path)
        found.record_aborted(10.0)
        found.logins.record_abort(10.0)
    for url, path in ((ONLY_A, "a"), (ONLY_B, "b")):
        found = budget(budgets, configured, names[url], path)
        assert (found.aborted, found.logins.aborted) == (4, 4)
    budget(budgets, configured, names[ONLY_B], "b").record_login(11.0)
    assert [budget(budgets, configured, names[ORDERS], path).aborted for path in "ab"] == [2, 0]


def test_a_reload_keeps_the_counts_and_updates_which_paths_limit_each_other() -> None:
    budgets, apart, together = AbortedHandshakeBudgets(), named([ONLY_A, ONLY_B]), named([ONLY_A, ONLY_B, ORDERS])

    def aborted() -> list[int]:
        return [budget(budgets, apart, name, path).aborted for name, path in ("xa", "yb")]

    budgets.update(apart.backends.values())
    for name, path in ("xa", "yb"):
        budget(budgets, apart, name, path).record_aborted(10.0)
    assert aborted() == [1, 1]
    budgets.update(together.backends.values())
    assert aborted() == [2, 2]
    budgets.update(apart.backends.values())
    assert aborted() == [1, 1]


def test_the_limit_of_a_server_applies_to_all_its_paths() -> None:
    budgets, configured = AbortedHandshakeBudgets(), named([ORDERS])
    budgets.update(configured.backends.values())
    set_limit(budget(budgets, configured, "x", "a").same_server, 10)
    budgets.update(configured.backends.values())
    assert budget(budgets, configured, "x", "b").limit == budget(budgets, configured, "x", "b").logins.limit == 10
