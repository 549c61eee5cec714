from typing import cast
from unittest.mock import Mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.contracts.native_listener_interfaces import NativeListenerInterface
from gateway.contracts.relay import Relay
from gateway.forwarding.aborted_handshake_budget import AbortedHandshakeBudget, join_budgets
from tests.support.counting_server import CountingServer

PATHS = 3
LIMIT = 100
STEP = 0.05
"""Number of simulated seconds between two clients."""

some_addresses = st.lists(st.integers(0, PATHS - 1), min_size=PATHS, max_size=PATHS)
some_paths = st.integers(0, PATHS - 1)


def joined(paths: int = PATHS) -> list[AbortedHandshakeBudget]:
    budgets = [AbortedHandshakeBudget(LIMIT) for _ in range(paths)]
    join_budgets(budgets)
    return budgets


def test_allows_all_clients_below_the_limit() -> None:
    budget = AbortedHandshakeBudget(100)
    for _ in range(89):
        assert budget.allows(0.0)
        budget.record_aborted(50.5)
    assert budget.allows(0.0)
    assert budget.needs_login


def test_allows_one_client_every_ten_seconds_near_the_limit() -> None:
    budget = AbortedHandshakeBudget(100)
    for _ in range(90):
        budget.record_aborted(50.5)
    assert [budget.allows(now) for now in (100.0, 100.1, 109.9, 110.0, 110.1)] == [True, False, False, True, False]


class Client:
    """A client that has received `responses` responses."""

    def __init__(self) -> None:
        self.responses = 0


def test_clients_that_can_still_abort_their_handshakes_use_the_budget() -> None:
    a, b = joined(2)
    clients = [Client() for _ in range(5)]
    for each in clients:
        a.add_client(cast("Relay", each), 50.0)
    b.dials = 2
    stopped: list[str] = []
    b.listeners[cast("NativeListenerInterface", Mock(reserved=4))] = lambda: stopped.append("b")
    assert [each.room(50.5) for each in (a, b)] == [90 - 11, 90 - 11]
    assert a.room_for_links(50.5) == 90 - 11
    b.waiting = 1
    assert (a.room(50.5), a.room_for_links(50.5)) == (90 - 11, 0)
    a.stop_links()
    assert stopped == ["b"]
    clients[0].responses = 2
    clients[1].responses = 1
    a.remove_client(cast("Relay", clients[2]), 50.0, 50.6)
    assert (a.aborted, a.unproven(54.9)) == (1, 3 + 6)
    assert a.unproven(55.1) == 2 + 6  # After 5 s, a client that received one response has probably logged in.
    for _ in range(81):
        a.record_aborted(62.0)
    assert (a.room(62.0), a.allows(62.0), a.throttled) == (0, False, False)
    b.dials = 1
    assert (a.room(62.0), a.allows(62.0)) == (1, True)


def test_a_client_that_might_be_denied_resets_the_count_only_without_checks() -> None:
    budget, client = AbortedHandshakeBudget(100), Client()
    budget.record_aborted(50.0)
    client.responses = 2
    budget.remove_client(cast("Relay", client), 55.0, 60.0)
    assert budget.aborted == 0
    budget.record_login(60.0)
    budget.record_aborted(70.0)
    budget.remove_client(cast("Relay", client), 75.0, 359.0)
    assert budget.aborted == 1
    client.responses = 6
    budget.remove_client(cast("Relay", client), 75.0, 359.0)
    assert budget.aborted == 0
    budget.record_aborted(70.0)
    client.responses = 2
    # The last login of a check is more than five minutes old. Two responses are now enough to reset the count.
    budget.remove_client(cast("Relay", client), 76.0, 361.0)
    assert budget.aborted == 0


@pytest.mark.parametrize(
    ("responses", "seconds", "aborted"), [(0, 100.0, 1), (1, 10.9, 1), (1, 11.1, 0), (2, 0.1, 0)]
)
def test_which_clients_have_aborted_their_handshakes(responses: int, seconds: float, aborted: int) -> None:
    budget, client = AbortedHandshakeBudget(100), Client()
    client.responses = responses
    assert budget.remove_client(cast("Relay", client), 50.0, 50.0 + seconds) == bool(aborted)
    assert budget.aborted == aborted


def test_the_login_of_a_current_client_ends_the_throttling() -> None:
    budget, client = AbortedHandshakeBudget(10), Client()
    for _ in range(9):
        budget.record_aborted(50.0)
    budget.add_client(cast("Relay", client), 60.0)
    assert budget.throttled
    client.responses = 2
    assert budget.allows(61.0)
    assert budget.allows(61.0)
    assert not budget.throttled


@pytest.mark.parametrize(("limit", "clients"), [(1, 1), (2, 1), (9, 8), (10, 9), (11, 10), (100, 90)])
def test_clients_that_abort_at_the_same_time_do_not_reach_the_limit(limit: int, clients: int) -> None:
    """A limit of 1 is an exception, because one aborted handshake already reaches this limit."""
    budget = AbortedHandshakeBudget(limit)
    budget.dials = clients - 1
    assert budget.allows(50.0)
    budget.dials = clients
    assert not budget.allows(50.0)
    budget.dials = 0
    for _ in range(clients):
        assert not budget.throttled
        budget.record_aborted(50.0)
    assert budget.throttled


def test_a_server_that_tolerates_no_aborted_handshake_gets_one_client_at_a_time() -> None:
    budget = AbortedHandshakeBudget(1)
    assert budget.allows(50.0)
    budget.add_client(cast("Relay", Client()), 50.0)
    assert not budget.allows(50.0)


def test_a_login_does_not_reset_a_dial_that_may_still_connect() -> None:
    budget = AbortedHandshakeBudget(100)
    budget.record_abandoned(50.0)
    budget.record_aborted(51.0)
    budget.record_login(55.0)
    assert budget.aborted == 1  # The dial can reach the server after this login, and then count as aborted.
    budget.record_login(60.5)
    assert budget.aborted == 0


def test_a_login_does_not_reset_a_handshake_that_the_server_may_count_after_the_login() -> None:
    budget = AbortedHandshakeBudget(100)
    budget.record_aborted(50.0)
    budget.record_login(50.9)
    assert budget.aborted == 1
    budget.record_login(51.0)
    assert budget.aborted == 0


def test_a_login_resets_the_count_but_an_earlier_one_does_not() -> None:
    budget = AbortedHandshakeBudget(100)
    for _ in range(95):
        budget.record_aborted(50.5)
    budget.record_login(50.0)
    assert budget.aborted == 95
    budget.record_login(52.0)
    assert budget.aborted == 0
    assert not budget.needs_login


def test_paths_are_counted_together_and_a_login_resets_only_its_own_path() -> None:
    a, b = joined(2)
    for _ in range(45):
        a.record_aborted(10.0)
        b.record_aborted(10.0)
    assert (a.aborted, b.aborted) == (90, 90)
    # One interval between admissions applies to both paths together.
    assert [each.allows(11.0) for each in (a, b)] == [True, False]
    a.record_login(12.0)
    # The clients of path b can have another source address, so the count of path b remains.
    assert (a.aborted, b.aborted) == (0, 45)


def test_a_path_without_a_login_does_not_limit_the_other_paths() -> None:
    a, b = joined(2)
    for _ in range(95):
        b.record_aborted(10.0)
    a.record_login(11.0)
    assert [a.allows(12.0), a.allows(12.0)] == [True, True]
    assert [b.allows(12.0), b.allows(12.0)] == [True, False]


@given(some_addresses, st.lists(st.tuples(some_paths, st.booleans()), max_size=80))
def test_a_budget_is_the_highest_count_of_all_possible_addresses(
    addresses: list[int], events: list[tuple[int, bool]]
) -> None:
    partitions = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 2)]
    servers = [CountingServer(each, LIMIT) for each in (*partitions, addresses)]
    budgets = joined()
    for at, (path, is_login) in enumerate(events, 1):
        for server in servers:
            (server.log_in if is_login else server.abort)(path)
        (budgets[path].record_login if is_login else budgets[path].record_aborted)(2.0 * at)
        assert [each.aborted for each in budgets] == [
            max(server.count(path) for server in servers) for path in range(PATHS)
        ]


@given(
    some_addresses,
    st.lists(some_paths, min_size=1, max_size=12),
    st.lists(some_paths, min_size=1, max_size=PATHS, unique=True),
    st.integers(0, 35),
)
@example(addresses=[0, 1, 2], pattern=[0], working=[0, 1], delay=20)
@example(addresses=[0, 0, 0], pattern=[0, 1], working=[0, 1, 2], delay=35)
def test_aborting_clients_block_no_address_and_are_throttled_only_until_a_login(
    addresses: list[int], pattern: list[int], working: list[int], delay: int
) -> None:
    """Simulate clients that connect over the paths in `pattern`, one after the other, and abort their handshakes.

    Only logins over the paths in `working` succeed. When the budget of such a path needs a login, a check logs in
    over this path after `delay` more clients. Once per 20 clients, the check of another backend with the same
    server logs in over the last path in `working`.
    """
    server, budgets = CountingServer(addresses, LIMIT), joined()
    due: dict[int, int] = {}
    now = 0.0
    for turn in range(600):
        now += STEP
        path = pattern[turn % len(pattern)]
        if budgets[path].allows(now):
            server.abort(path)
            budgets[path].record_aborted(now)
            if budgets[path].needs_login:
                due.setdefault(path, turn + delay)
        logins = [each for each, at in due.items() if at <= turn and each in working]
        for each in {*logins, *(working[-1:] if turn % 20 == 0 else [])}:
            now += STEP / 10
            server.log_in(each)
            budgets[each].record_login(now)
            due.pop(each, None)
        assert not server.blocked
    now += 1.0  # By this time, the server has counted all aborted handshakes.
    for path in working:
        now += STEP
        budgets[path].record_login(now)
    for path in working:
        assert [budgets[path].allows(now), budgets[path].allows(now)] == [True, True]
