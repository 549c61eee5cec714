import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.vpn.liveness import NUDGE_EVERY, UNSURE, Patience, Stage, Vitals

PATIENCE = Patience()
ORDER = list(Stage)


def test_silence_without_a_question_means_nothing() -> None:
    vitals = Vitals(PATIENCE, 0)
    assert vitals.stage(10_000) is Stage.FINE


def test_an_echo_that_is_due_leads_from_stage_to_stage() -> None:
    vitals = Vitals(PATIENCE, 0)
    vitals.ask_echo(100)
    vitals.ask_echo(104)  # the first question counts
    seen = [vitals.stage(100 + after) for after in (4.9, 5, 7, 22, 60, 300)]
    assert seen == [Stage.FINE, Stage.SUSPECT, Stage.NUDGE, Stage.DOWN, Stage.LOST, Stage.RESTART]
    vitals.hear(401)
    assert vitals.stage(10_000) is Stage.FINE


def test_a_dial_proves_less_than_an_echo() -> None:
    vitals = Vitals(PATIENCE, 0)
    vitals.ask_dial(100)
    assert vitals.stage(100 + PATIENCE.suspect + UNSURE - 0.1) is Stage.FINE
    assert vitals.stage(100 + PATIENCE.suspect + UNSURE) is Stage.SUSPECT


def test_bytes_are_a_sign_of_life_only_when_they_grow() -> None:
    vitals = Vitals(PATIENCE, 0)
    vitals.count(1000, 1)
    vitals.ask_echo(10)
    vitals.count(1000, 18)
    assert vitals.stage(18) is Stage.NUDGE
    vitals.count(20, 19)  # the count began anew
    assert vitals.stage(19) is Stage.NUDGE
    vitals.count(21, 20)
    assert vitals.stage(20) is Stage.FINE


def test_it_is_nudged_at_once_and_then_at_a_pace() -> None:
    vitals = Vitals(PATIENCE, 0)
    vitals.ask_echo(100)
    nudges = [at for at in range(100, 130) if vitals.nudge_due(at)]
    assert nudges[0] == 100 + PATIENCE.nudge
    assert all(later - earlier == NUDGE_EVERY for earlier, later in itertools.pairwise(nudges))


@given(st.lists(st.tuples(st.sampled_from(["echo", "dial", "hear"]), st.floats(0, 20)), max_size=30))
def test_without_a_sign_of_life_it_only_gets_worse(steps: list[tuple[str, float]]) -> None:
    vitals, now, before = Vitals(PATIENCE, 0), 0.0, Stage.FINE
    for what, after in steps:
        now += after
        if what == "hear":
            vitals.hear(now)
            before = Stage.FINE
        elif what == "echo":
            vitals.ask_echo(now)
        else:
            vitals.ask_dial(now)
        stage = vitals.stage(now)
        assert ORDER.index(stage) >= ORDER.index(before)
        before = stage
