from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts.config_types import HostPort
from gateway.contracts.states import DatabaseRole, HealthState, Preference
from gateway.errors import FailureReason
from gateway.health.target_selection import (
    BackendHealth,
    TargetCandidate,
    backend_state,
    lacks_primary,
    order_targets,
    superseded_primaries,
    wrong_role_targets,
)

ONE, TWO, THREE = (HostPort("db", port) for port in (1, 2, 3))
STATES = st.sampled_from(list(HealthState))


def candidate(
    target: HostPort,
    state: HealthState = HealthState.UP,
    role: DatabaseRole | None = None,
    *,
    read_only: bool | None = None,
) -> TargetCandidate:
    reason = None if state is HealthState.UP else FailureReason.REFUSED
    return TargetCandidate(target, state, reason, "why", role=role, read_only=read_only)


def targets(candidates: list[TargetCandidate]) -> list[HostPort]:
    return [each.target for each in candidates]


def test_order_puts_targets_that_are_up_first_and_keeps_the_others() -> None:
    assert targets(order_targets([candidate(ONE, HealthState.DOWN), candidate(TWO), candidate(THREE)], "order")) == [
        TWO,
        THREE,
        ONE,
    ]


def test_an_unchecked_target_keeps_its_position_unless_roles_matter() -> None:
    assert targets(order_targets([candidate(ONE, HealthState.UNKNOWN), candidate(TWO)], "order")) == [ONE, TWO]
    assert targets(
        order_targets([candidate(ONE, HealthState.UNKNOWN), candidate(TWO, role="primary")], "primary")
    ) == [
        TWO,
        ONE,
    ]
    assert backend_state([candidate(ONE, HealthState.UNKNOWN), candidate(TWO)], "order")[0] is HealthState.UP


def test_primary_excludes_read_only_targets() -> None:
    given_ = [candidate(ONE, role="replica"), candidate(TWO, read_only=True), candidate(THREE, role="primary")]
    assert targets(order_targets(given_, "primary")) == [THREE]
    assert order_targets(given_[:2], "primary") == []
    assert backend_state(given_[:2], "primary")[:2] == (HealthState.DOWN, FailureReason.ROLE)


def test_clients_leave_a_demoted_target_that_is_down() -> None:
    demoted = candidate(ONE, HealthState.DOWN, role="replica", read_only=True)
    assert wrong_role_targets([demoted, candidate(TWO, role="primary")], "primary") == {ONE}
    assert targets(order_targets([demoted, candidate(TWO, HealthState.DOWN, role="primary")], "primary")) == [TWO]


def test_a_primary_that_was_replaced_gets_no_clients() -> None:
    old = TargetCandidate(ONE, HealthState.UP, role="primary", probed=20.0)
    new = TargetCandidate(TWO, HealthState.UP, role="primary", promoted=10.0, probed=20.0)
    both = [old, new]
    assert targets(order_targets(both, "primary")) == [TWO]
    assert superseded_primaries(both, "primary") == superseded_primaries(both, "primary", confirmed=True) == {ONE}
    assert wrong_role_targets(both, "primary") == {ONE}
    found = backend_state(both, "primary")
    assert (found.state, found.reason, found.detail.split()[0]) == (HealthState.DEGRADED, FailureReason.ROLE, "db:1")
    assert found.remedy.startswith("demote db:1")
    # If the old primary was not probed after the promotion of the new primary, the old one might be a replica now.
    unprobed = [replace(old, probed=9.0), new]
    assert superseded_primaries(unprobed, "primary") == {ONE}
    assert superseded_primaries(unprobed, "primary", confirmed=True) == frozenset()
    failing = [replace(old, probed=9.0, failing=True), new]
    assert superseded_primaries(failing, "primary", confirmed=True) == {ONE}
    # Clients use the old primary again if the new primary is down, or if the old primary is promoted again.
    assert targets(order_targets([old, replace(new, state=HealthState.DOWN)], "primary")) == [ONE, TWO]
    assert targets(order_targets([replace(old, promoted=30.0), new], "primary")) == [ONE]
    assert targets(order_targets([replace(old, state=HealthState.DOWN), new], "primary")) == [TWO]
    for prefer in ("any", "order", "replica"):
        assert superseded_primaries(both, prefer) == frozenset()
    assert superseded_primaries([replace(new, promoted=0.0), old], "primary") == frozenset()


def test_a_backend_lacks_a_primary_while_it_fails_or_has_none() -> None:
    primary, replica = candidate(ONE, role="primary"), candidate(TWO, role="replica")
    assert not lacks_primary([primary, replica], "primary")
    assert not lacks_primary([candidate(ONE, HealthState.DEGRADED, role="primary"), replica], "primary")
    assert lacks_primary([replace(primary, failing=True), replica], "primary")
    assert lacks_primary([candidate(ONE, HealthState.DOWN, role="primary"), replica], "primary")
    assert lacks_primary([replica], "primary")
    assert not lacks_primary([replica], "replica")
    assert not lacks_primary([candidate(ONE, HealthState.UNKNOWN)], "primary")


def test_clients_stay_on_a_primary_that_new_clients_use() -> None:
    both = [candidate(ONE, HealthState.DEGRADED, role="replica"), candidate(TWO, role="primary")]
    assert targets(order_targets(both, "replica")) == [TWO, ONE]
    assert wrong_role_targets(both, "replica") == frozenset()
    assert wrong_role_targets([candidate(ONE, role="replica"), candidate(TWO, role="primary")], "replica") == {TWO}


def test_replica_prefers_a_replica_and_falls_back_to_the_primary() -> None:
    both = [candidate(ONE, role="primary"), candidate(TWO, role="replica", read_only=True)]
    assert targets(order_targets(both, "replica")) == [TWO, ONE]
    assert backend_state(both, "replica")[0] is HealthState.UP
    found = backend_state(both[:1], "replica")
    assert (found.state, found.reason) == (HealthState.DEGRADED, FailureReason.ROLE)
    assert found.remedy.startswith("start a replica")


def test_backend_states() -> None:
    up, down = candidate(ONE), candidate(TWO, HealthState.DOWN)
    assert backend_state([up], "order") == BackendHealth(HealthState.UP)
    assert backend_state([up, down], "order")[0] is HealthState.DEGRADED
    assert backend_state([down], "order")[:2] == (HealthState.DOWN, FailureReason.REFUSED)
    assert backend_state([candidate(ONE, HealthState.BLOCKED)], "order")[0] is HealthState.BLOCKED
    assert backend_state([candidate(ONE, HealthState.PAUSED)], "order")[0] is HealthState.PAUSED
    assert backend_state([candidate(ONE, HealthState.UNKNOWN)], "order")[0] is HealthState.UNKNOWN
    assert backend_state([candidate(ONE, HealthState.UNKNOWN), down], "order")[0] is HealthState.UNKNOWN


CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.sampled_from([ONE, TWO, THREE]),
        STATES,
        st.sampled_from([None, "primary", "replica"]),
        read_only=st.sampled_from([None, True, False]),
    ),
    min_size=1,
    max_size=3,
)


@given(CANDIDATES, st.sampled_from(["primary", "replica", "any", "order"]))
def test_primary_excludes_replicas_only(candidates: list[TargetCandidate], prefer: Preference) -> None:
    chosen = order_targets(candidates, prefer)
    if prefer == "primary":
        assert not any(each.read_only or each.role == "replica" for each in chosen)
    else:
        assert sorted(targets(chosen)) == sorted(targets(candidates))
    good = {HealthState.UP, HealthState.DEGRADED}
    first = good | ({HealthState.UNKNOWN} if prefer in ("order", "any") else set())
    placed = [each.state in first for each in chosen if each.state is not HealthState.DEGRADED]
    assert placed == sorted(placed, reverse=True)
    usable = any(each.state in good for each in chosen)
    state, reason = backend_state(candidates, prefer)[:2]
    assert (state in good) == usable
    assert (reason is None) == (state in (HealthState.UP, HealthState.UNKNOWN)) or state in (
        HealthState.PAUSED,
        HealthState.BLOCKED,
    )


def test_clients_leave_a_target_that_lost_its_role() -> None:
    was, now = candidate(ONE, role="replica", read_only=True), candidate(TWO, role="primary")
    assert wrong_role_targets([was, now], "primary") == {ONE}
    assert wrong_role_targets([was], "primary") == {ONE}  # ONE is a replica, which refuses writes.
    assert wrong_role_targets([was, now], "replica") == {TWO}
    assert wrong_role_targets([now], "replica") == frozenset()
    for prefer in ("any", "order"):
        assert wrong_role_targets([was, now], prefer) == frozenset()


@given(CANDIDATES, st.sampled_from(["primary", "replica", "any", "order"]))
def test_clients_never_leave_the_target_that_new_clients_use(
    candidates: list[TargetCandidate], prefer: Preference
) -> None:
    unwanted = wrong_role_targets(candidates, prefer)
    chosen = order_targets(candidates, prefer)
    assert not (
        chosen and chosen[0].target in unwanted and len({each.target for each in candidates}) == len(candidates)
    )
