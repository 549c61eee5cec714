from hypothesis import given
from hypothesis import strategies as st

from gateway.contracts.states import DatabaseRole, Preference, State
from gateway.contracts.values import Endpoint
from gateway.errors import Reason
from gateway.health.target_selection import Candidate, backend_state, order_targets, wrong_role_targets

ONE, TWO, THREE = (Endpoint("db", port) for port in (1, 2, 3))
STATES = st.sampled_from(list(State))


def candidate(
    target: Endpoint, state: State = State.UP, role: DatabaseRole | None = None, *, read_only: bool | None = None
) -> Candidate:
    return Candidate(target, state, None if state is State.UP else Reason.REFUSED, "why", role, read_only)


def targets(candidates: list[Candidate]) -> list[Endpoint]:
    return [each.target for each in candidates]


def test_order_puts_targets_that_are_up_first_and_keeps_the_others() -> None:
    assert targets(order_targets([candidate(ONE, State.DOWN), candidate(TWO), candidate(THREE)], "order")) == [
        TWO,
        THREE,
        ONE,
    ]


def test_an_unchecked_target_keeps_its_position_unless_roles_matter() -> None:
    assert targets(order_targets([candidate(ONE, State.UNKNOWN), candidate(TWO)], "order")) == [ONE, TWO]
    assert targets(order_targets([candidate(ONE, State.UNKNOWN), candidate(TWO, role="primary")], "primary")) == [
        TWO,
        ONE,
    ]
    assert backend_state([candidate(ONE, State.UNKNOWN), candidate(TWO)], "order")[0] is State.UP


def test_primary_excludes_read_only_targets() -> None:
    given_ = [candidate(ONE, role="replica"), candidate(TWO, read_only=True), candidate(THREE, role="primary")]
    assert targets(order_targets(given_, "primary")) == [THREE]
    assert order_targets(given_[:2], "primary") == []
    assert backend_state(given_[:2], "primary")[:2] == (State.DOWN, Reason.ROLE)


def test_clients_leave_a_demoted_target_that_is_down() -> None:
    demoted = candidate(ONE, State.DOWN, role="replica", read_only=True)
    assert wrong_role_targets([demoted, candidate(TWO, role="primary")], "primary") == {ONE}
    assert targets(order_targets([demoted, candidate(TWO, State.DOWN, role="primary")], "primary")) == [TWO]


def test_clients_stay_on_a_primary_that_new_clients_use() -> None:
    both = [candidate(ONE, State.DEGRADED, role="replica"), candidate(TWO, role="primary")]
    assert targets(order_targets(both, "replica")) == [TWO, ONE]
    assert wrong_role_targets(both, "replica") == frozenset()
    assert wrong_role_targets([candidate(ONE, role="replica"), candidate(TWO, role="primary")], "replica") == {TWO}


def test_replica_prefers_a_replica_and_falls_back_to_the_primary() -> None:
    both = [candidate(ONE, role="primary"), candidate(TWO, role="replica", read_only=True)]
    assert targets(order_targets(both, "replica")) == [TWO, ONE]
    assert backend_state(both, "replica")[0] is State.UP
    assert backend_state(both[:1], "replica")[:2] == (State.DEGRADED, Reason.ROLE)


def test_backend_states() -> None:
    up, down = candidate(ONE), candidate(TWO, State.DOWN)
    assert backend_state([up], "order") == (State.UP, None, "")
    assert backend_state([up, down], "order")[0] is State.DEGRADED
    assert backend_state([down], "order")[:2] == (State.DOWN, Reason.REFUSED)
    assert backend_state([candidate(ONE, State.BLOCKED)], "order")[0] is State.BLOCKED
    assert backend_state([candidate(ONE, State.PAUSED)], "order")[0] is State.PAUSED
    assert backend_state([candidate(ONE, State.UNKNOWN)], "order")[0] is State.UNKNOWN
    assert backend_state([candidate(ONE, State.UNKNOWN), down], "order")[0] is State.UNKNOWN


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
def test_primary_excludes_replicas_only(candidates: list[Candidate], prefer: Preference) -> None:
    chosen = order_targets(candidates, prefer)
    if prefer == "primary":
        assert not any(each.read_only or each.role == "replica" for each in chosen)
    else:
        assert sorted(targets(chosen)) == sorted(targets(candidates))
    good = {State.UP, State.DEGRADED}
    first = good | ({State.UNKNOWN} if prefer in ("order", "any") else set())
    placed = [each.state in first for each in chosen if each.state is not State.DEGRADED]
    assert placed == sorted(placed, reverse=True)
    usable = any(each.state in good for each in chosen)
    state, reason, _ = backend_state(candidates, prefer)
    assert (state in good) == usable
    assert (reason is None) == (state in (State.UP, State.UNKNOWN)) or state in (State.PAUSED, State.BLOCKED)


def test_clients_leave_a_target_that_lost_its_role() -> None:
    was, now = candidate(ONE, role="replica", read_only=True), candidate(TWO, role="primary")
    assert wrong_role_targets([was, now], "primary") == {ONE}
    assert wrong_role_targets([was], "primary") == {ONE}  # ONE is a replica, which refuses writes.
    assert wrong_role_targets([was, now], "replica") == {TWO}
    assert wrong_role_targets([now], "replica") == frozenset()
    for prefer in ("any", "order"):
        assert wrong_role_targets([was, now], prefer) == frozenset()


@given(CANDIDATES, st.sampled_from(["primary", "replica", "any", "order"]))
def test_clients_never_leave_the_target_that_new_clients_use(candidates: list[Candidate], prefer: Preference) -> None:
    unwanted = wrong_role_targets(candidates, prefer)
    chosen = order_targets(candidates, prefer)
    assert not (
        chosen and chosen[0].target in unwanted and len({each.target for each in candidates}) == len(candidates)
    )
