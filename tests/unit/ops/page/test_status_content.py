"""Tests the content of the status page: groups of backends, recent changes, and consumers."""

from gateway.contracts.states import HealthState
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.page.status_content import changes, consumer_rows, groups, some
from tests.support.status_views import backend, consumer, service, tunnel


def test_backends_are_grouped_by_tunnel_and_the_worst_come_first() -> None:
    tunnels = [tunnel("edge"), tunnel("inner", via=["edge"]), tunnel("unused"), tunnel("other")]
    backends = [
        backend("a", via=["edge"]),
        backend("b", HealthState.DEGRADED, via=["inner"]),
        backend("c", HealthState.DOWN, via=["inner"]),
        backend("d"),
        backend("e", via=["edge", "other"]),
    ]
    found = groups(service(tunnels, backends))
    assert [([each.name for each in group.tunnels], [each.name for each in group.backends]) for group in found] == [
        (["edge", "inner"], ["c", "b"]),
        ([], ["d"]),
        (["edge"], ["a"]),
        (["edge", "other"], ["e"]),
        (["unused"], []),
    ]


def test_similar_events_at_one_time_become_one_change() -> None:
    now = [100.0]
    log = EventLog(clock=lambda: now[0])
    log.observe(EventSubject(SubjectType.TUNNEL, "bastion"), "backoff", "auth")
    for name in "abcde":
        log.observe(EventSubject(SubjectType.TARGET, name, "db:1"), "blocked", "tunnel")
        log.observe(EventSubject(SubjectType.BACKEND, name), "blocked", "tunnel")
    now[0] += 60
    log.observe(EventSubject(SubjectType.BACKEND, "a"), "up")
    log.record(EventSubject(SubjectType.RELOAD), "failed", detail="x")
    log.record(EventSubject(SubjectType.RELOAD), "failed", detail="x")
    found = changes(log.latest())
    assert [(each.event.subject.type, some(each.names)) for each in found] == [
        ("reload", ""),
        ("reload", ""),
        ("backend", "a"),
        ("backend", "e, d, c and 2 more"),
        ("tunnel", "bastion"),
    ]
    assert len(changes(log.latest(), limit=2)) == 2


def test_events_with_different_causes_stay_separate() -> None:
    log = EventLog(clock=lambda: 100.0)
    for name, cause in (("a", "refused"), ("b", "wrong key"), ("c", "refused")):
        log.observe(EventSubject(SubjectType.BACKEND, name), "blocked", "tunnel", cause)
    assert [each.names for each in changes(log.latest())] == [["c", "a"], ["b"]]


def test_consumers_that_wait_come_first() -> None:
    one = backend("a", consumers={"busy": consumer(9), "waits": consumer(3, waiting=1)})
    rows = [(row.name, row.backend, row.connected, row.waiting) for row in consumer_rows([one])]
    assert rows == [("waits", "a", 2, 1), ("busy", "a", 9, 0)]
