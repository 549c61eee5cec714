import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.vpn.overdue_reply_timer import (
    DIAL_GRACE,
    RECONNECT_INTERVAL,
    OverdueReplyLevel,
    OverdueReplyThresholds,
    OverdueReplyTimer,
)

THRESHOLDS = OverdueReplyThresholds()
ORDER = list(OverdueReplyLevel)


def test_silence_without_a_pending_request_is_ignored() -> None:
    silence = OverdueReplyTimer(THRESHOLDS, 0)
    assert silence.level(10_000) is OverdueReplyLevel.FINE


def test_overdue_echo_replies_advance_the_level() -> None:
    silence = OverdueReplyTimer(THRESHOLDS, 0)
    silence.record_echo_request(100)
    silence.record_echo_request(104)  # The level depends only on the first request without a reply.
    seen = [silence.level(100 + after) for after in (4.9, 5, 7, 22, 60, 300)]
    assert seen == [
        OverdueReplyLevel.FINE,
        OverdueReplyLevel.SUSPECT,
        OverdueReplyLevel.RECONNECT,
        OverdueReplyLevel.DOWN,
        OverdueReplyLevel.LOST,
        OverdueReplyLevel.RESTART,
    ]
    silence.record_reply(401)
    assert silence.level(10_000) is OverdueReplyLevel.FINE


def test_a_dial_is_weaker_evidence_of_life_than_an_echo_reply() -> None:
    silence = OverdueReplyTimer(THRESHOLDS, 0)
    silence.record_dial(100)
    assert silence.level(100 + THRESHOLDS.suspect + DIAL_GRACE - 0.1) is OverdueReplyLevel.FINE
    assert silence.level(100 + THRESHOLDS.suspect + DIAL_GRACE) is OverdueReplyLevel.SUSPECT


def test_bytes_are_a_sign_of_life_only_when_they_grow() -> None:
    silence = OverdueReplyTimer(THRESHOLDS, 0)
    silence.record_received(1000, 1)
    silence.record_echo_request(10)
    silence.record_received(1000, 18)
    assert silence.level(18) is OverdueReplyLevel.RECONNECT
    silence.record_received(20, 19)  # The kernel has reset the counter. A lower number does not count as a reply.
    assert silence.level(19) is OverdueReplyLevel.RECONNECT
    silence.record_received(21, 20)
    assert silence.level(20) is OverdueReplyLevel.FINE


def test_it_reconnects_immediately_and_then_at_an_interval() -> None:
    silence = OverdueReplyTimer(THRESHOLDS, 0)
    silence.record_echo_request(100)
    attempts = [at for at in range(100, 130) if silence.start_reconnect(at)]
    assert attempts[0] == 100 + THRESHOLDS.reconnect
    assert all(later - earlier == RECONNECT_INTERVAL for earlier, later in itertools.pairwise(attempts))


@given(st.lists(st.tuples(st.sampled_from(["echo", "dial", "hear"]), st.floats(0, 20)), max_size=30))
def test_without_a_sign_of_life_the_level_never_improves(steps: list[tuple[str, float]]) -> None:
    silence, now, before = OverdueReplyTimer(THRESHOLDS, 0), 0.0, OverdueReplyLevel.FINE
    for what, after in steps:
        now += after
        if what == "hear":
            silence.record_reply(now)
            before = OverdueReplyLevel.FINE
        elif what == "echo":
            silence.record_echo_request(now)
        else:
            silence.record_dial(now)
        level = silence.level(now)
        assert ORDER.index(level) >= ORDER.index(before)
        before = level
