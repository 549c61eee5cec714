"""Tests the log of state changes: which states cause an event, and which events a client has missed."""

from gateway.ops.events import EventLog, EventSubject, SubjectType

ORDERS = EventSubject(SubjectType.BACKEND, "orders")


def test_a_state_causes_an_event_when_it_changes() -> None:
    log, seen = EventLog(clock=lambda: 5.0), []
    log.watchers.append(lambda: seen.append(log.last_id))
    for state in ("up", "down", "down", "up", "up"):
        log.observe(ORDERS, state, "refused" if state == "down" else None, "first\nsecond")
    events = log.latest()
    assert [(each.previous, each.state, each.reason) for each in events] == [
        ("up", "down", "refused"),
        ("down", "up", None),
    ]
    assert events[0].detail == "first second"
    assert seen == [each.id for each in events]


def test_a_part_that_fails_from_the_start_has_no_previous_state() -> None:
    log = EventLog()
    log.observe(ORDERS, "down")
    assert [each.previous for each in log.latest()] == [None]


def test_ids_increase_although_the_clock_does_not() -> None:
    times = iter([2000.0, 1000.0, 1000.0, 3000.0])
    log = EventLog(clock=lambda: next(times))
    for number in range(4):
        log.record(ORDERS, str(number))
    assert [each.id for each in log.latest()] == [2_000_000, 2_000_001, 2_000_002, 3_000_000]


def test_a_client_gets_the_events_since_one_that_the_log_contains() -> None:
    log = EventLog(limit=3)
    assert log.since(0) == []
    for number in range(5):
        log.record(ORDERS, str(number))
    kept = log.latest()
    assert [each.state for each in kept] == ["2", "3", "4"]
    assert log.since(kept[0].id) == kept[1:]
    assert log.since(kept[-1].id) == []
    for unknown in (0, -1, kept[0].id - 1, kept[-1].id + 1):
        assert log.since(unknown) is None


def test_a_backend_that_is_added_again_has_no_earlier_state() -> None:
    times = iter([1000.0, 2000.0])
    log = EventLog(clock=lambda: next(times))
    log.observe(ORDERS, "down")
    log.forget(lambda subject: subject != ORDERS)
    assert [each.state for each in log.latest()] == ["down"]
    assert log.began(ORDERS, "down", 1500.0) == 1500.0
    log.observe(ORDERS, "down")
    assert [(each.state, each.previous) for each in log.latest()] == [("down", None), ("down", None)]
    assert log.began(ORDERS, "down", 2500.0) == 2000.0


def test_events_of_many_backends_do_not_replace_the_event_of_their_tunnel() -> None:
    log = EventLog(limit=3)
    log.observe(EventSubject(SubjectType.TUNNEL, "bastion"), "backoff")
    for number in range(5):
        log.record(ORDERS, str(number))
    assert [each.state for each in log.latest()] == ["backoff", "2", "3", "4"]
    assert log.since(log.latest()[0].id) is None  # The log no longer contains the events "0" and "1".
    after = EventLog(limit=3)
    after.load(log.latest())
    assert after.latest() == log.latest()


def test_states_of_a_previous_run_continue() -> None:
    before = EventLog()
    before.observe(ORDERS, "down")
    before.record(EventSubject(SubjectType.DRAIN), "draining")
    after = EventLog()
    after.load(before.latest())
    after.observe(ORDERS, "down")
    assert after.last_id == before.last_id
    after.observe(ORDERS, "up")
    after.record(EventSubject(SubjectType.DRAIN), "draining")
    assert [(each.previous, each.state) for each in after.latest()[-2:]] == [("down", "up"), (None, "draining")]


def test_events_of_a_previous_run_are_added_to_those_of_this_run() -> None:
    clock = iter(range(1, 10))
    before, after = EventLog(clock=lambda: next(clock)), EventLog(clock=lambda: next(clock))
    tunnel = EventSubject(SubjectType.TUNNEL, "bastion")
    before.observe(ORDERS, "down")
    before.observe(tunnel, "backoff")
    after.record(EventSubject(SubjectType.START), "started")
    after.observe(ORDERS, "up")
    after.observe(tunnel, "quarantined")
    seen = after.last_id
    after.load(before.latest())
    after.load(before.latest())
    assert [(each.subject.type, each.previous, each.state) for each in after.latest()] == [
        ("backend", None, "down"),
        ("tunnel", None, "backoff"),
        ("start", None, "started"),
        ("tunnel", None, "quarantined"),
        ("backend", "down", "up"),
    ]
    assert after.since(seen) == after.latest()[-1:]
    after.observe(tunnel, "up")
    assert after.latest()[-1].previous == "quarantined"


def test_a_failure_began_when_it_did_in_a_previous_run() -> None:
    clock = iter(range(1, 20))
    before, after = EventLog(clock=lambda: next(clock)), EventLog(clock=lambda: next(clock))
    tunnel, recovered = EventSubject(SubjectType.TUNNEL, "bastion"), EventSubject(SubjectType.BACKEND, "recovered")
    for subject, state in ((ORDERS, "down"), (tunnel, "suspect"), (tunnel, "backoff"), (ORDERS, "blocked"),
                           (recovered, "down"), (recovered, "up")):  # fmt: skip
        before.observe(subject, state)
    after.observe(ORDERS, "blocked")
    after.load(before.latest())
    after.observe(tunnel, "quarantined")
    assert [after.began(ORDERS, "blocked", 99), after.began(tunnel, "connecting", 99)] == [4, 2]
    assert [after.began(recovered, "down", 99), after.began(recovered, "up", 99)] == [99, 99]
    after.observe(ORDERS, "down")
    # The failure lasts from "down" until "up", and includes the state "blocked".
    assert after.began(ORDERS, "down", 99) == 1
    after.observe(ORDERS, "up")
    after.observe(ORDERS, "down")
    assert after.began(ORDERS, "down", 99) == after.latest()[-1].at


def test_the_beginning_of_a_failure_is_not_replaced_by_many_events() -> None:
    log = EventLog(limit=3)
    log.observe(ORDERS, "down")
    began = log.latest()[0]
    for number in range(9):
        log.observe(EventSubject(SubjectType.BACKEND, "flapping"), ("down", "up")[number % 2])
    assert log.latest()[0] == began
    assert len(log.latest()) == 4
    after = EventLog(limit=3)
    after.load(log.latest())
    assert after.latest() == log.latest()
    assert after.since(began.id) is None  # The log no longer contains all events after `began`.
    after.observe(ORDERS, "up")
    assert began not in after.latest()
