"""Tests whether the message of a timeout names the phases of the probe, and which results have a remedy."""

import asyncio

import pytest

from gateway.contracts.backend import ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason, UnusableTargetError
from gateway.health.probe import probe_once
from gateway.health.target_state_evaluator import TargetStateEvaluator
from gateway.relay.direct_link import DirectLink


class Stuck:
    """A backend whose probe never ends. The probe completes all phases except the last one."""

    def __init__(self, *phases: str) -> None:
        self._phases = phases

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        for name in self._phases:
            with phases(name):
                if name == self._phases[-1]:
                    await asyncio.Event().wait()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(
    ("phases", "detail"),
    [
        ((), "no response within 0.01 s (completed: nothing)"),
        (("tcp",), "no response within 0.01 s in the phase tcp (completed: nothing)"),
        (("dns", "tcp", "auth"), "no response within 0.01 s in the phase auth (completed: dns, tcp)"),
    ],
)
async def test_the_detail_of_a_timeout_separates_the_unfinished_phase(phases: tuple[str, ...], detail: str) -> None:
    result = await probe_once(Stuck(*phases), DirectLink(), HostPort("db", 1), 0.01)
    assert (result.reason, result.detail) == (FailureReason.TIMEOUT, detail)
    assert tuple(result.phases) == phases


class Answers:
    """A backend whose probe returns a result, or raises an error."""

    def __init__(self, answer: ProbeResult | UnusableTargetError) -> None:
        self._answer = answer

    async def probe(self, link: SocketConnector, target: HostPort, phases: PhaseTimer) -> ProbeResult:
        if isinstance(self._answer, UnusableTargetError):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (ProbeResult(unprobed="check.user is not set"), "set check.user"),
        (UnusableTargetError(FailureReason.HOST_BLOCKED, "no account", "create the account"), "create the account"),
        (ProbeResult(), ""),
    ],
)
async def test_a_result_has_the_remedy_of_its_own_failure(
    answer: ProbeResult | UnusableTargetError, remedy: str
) -> None:
    result = await probe_once(Answers(answer), DirectLink(), HostPort("db", 1), 10)
    verdict = TargetStateEvaluator(rise=1, fall=1)
    verdict.add(result)
    assert verdict.remedy.startswith(remedy)
    assert bool(verdict.remedy) == bool(remedy)
    verdict.override(HealthState.BLOCKED, FailureReason.TUNNEL, "the tunnel is down")
    assert verdict.remedy == ""
