import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.vpn.liveness import DIAL_GRACE, RECONNECT_INTERVAL, Liveness, SilenceStage, SilenceThresholds

THRESHOLDS = SilenceThresholds()
ORDER = list(SilenceStage)


def test_silence_without_a_pending_request_is_ignored() -> None:
    liveness = Liveness(THRESHOLDS, 0)
    assert liveness.stage(10_000) is SilenceStage.FINE


def test_overdue_echo_replies_advance_the_stage() -> None:
    liveness = Liveness(THRESHOLDS, 0)
    liveness.record_echo_request(100)
    liveness.record_echo_request(104)  # The stage depends on the first unanswered request.
    seen = [liveness.stage(100 + after) for after in (4.9, 5, 7, 22, 60, 300)]
    assert seen == [
        SilenceStage.FINE,
        SilenceStage.SUSPECT,
        SilenceStage.RECONNECT,
        SilenceStage.DOWN,
        SilenceStage.LOST,
        SilenceStage.RESTART,
    ]
    liveness.record_reply(401)
    assert liveness.stage(10_000) is SilenceStage.FINE


def test_a_dial_is_weaker_evidence_of_life_than_an_echo_reply() -> None:
    liveness = Liveness(THRESHOLDS, 0)
    liveness.record_dial(100)
    assert liveness.stage(100 + THRESHOLDS.suspect + DIAL_GRACE - 0.1) is SilenceStage.FINE
    assert liveness.stage(100 + THRESHOLDS.suspect + DIAL_GRACE) is SilenceStage.SUSPECT


def test_bytes_are_a_sign_of_life_only_when_they_grow() -> None:
    liveness = Liveness(THRESHOLDS, 0)
    liveness.record_received(1000, 1)
    liveness.record_echo_request(10)
    liveness.record_received(1000, 18)
    assert liveness.stage(18) is SilenceStage.RECONNECT
    liveness.record_received(20, 19)  # The lower number means that the kernel has reset the counter.
    assert liveness.stage(19) is SilenceStage.RECONNECT
    liveness.record_received(21, 20)
    assert liveness.stage(20) is SilenceStage.FINE


def test_it_reconnects_immediately_and_then_at_an_interval() -> None:
    liveness = Liveness(THRESHOLDS, 0)
    liveness.record_echo_request(100)
    attempts = [at for at in range(100, 130) if liveness.start_reconnect(at)]
    assert attempts[0] == 100 + THRESHOLDS.reconnect
    assert all(later - earlier == RECONNECT_INTERVAL for earlier, later in itertools.pairwise(attempts))


@given(st.lists(st.tuples(st.sampled_from(["echo", "dial", "hear"]), st.floats(0, 20)), max_size=30))
def test_without_a_sign_of_life_the_stage_never_improves(steps: list[tuple[str, float]]) -> None:
    liveness, now, before = Liveness(THRESHOLDS, 0), 0.0, SilenceStage.FINE
    for what, after in steps:
        now += after
        if what == "hear":
            liveness.record_reply(now)
            before = SilenceStage.FINE
        elif what == "echo":
            liveness.record_echo_request(now)
        else:
            liveness.record_dial(now)
        stage = liveness.stage(now)
        assert ORDER.index(stage) >= ORDER.index(before)
        before = stage
