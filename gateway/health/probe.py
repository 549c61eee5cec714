"""Probes a target once within a time limit, and converts the result or the exception to a `CheckResult`."""

import asyncio
import logging
import time
from collections.abc import Callable

from gateway.contracts.backend import Backend, ProbeResult
from gateway.contracts.config_types import HostPort
from gateway.contracts.link import SocketConnector
from gateway.contracts.login_limiter import LoginLimiter
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason, LinkLostError, TargetPathError, UnusableTargetError
from gateway.health.check_results import CheckResult
from gateway.text_sanitizer import error_text, one_line

log = logging.getLogger(__name__)

_NOT_PROBED = "set check.user and check.password_file, so that the gateway can check the server"
"""The remedy if the gateway has no login for the target, and therefore does not probe the target."""
_LOGIN_REASONS = (FailureReason.AUTH, FailureReason.UNAUTHENTICATED)
"""Reasons of failed logins. If the check cannot log in, the target is only degraded: clients use their own accounts,
and might be able to log in."""


async def probe_once(
    backend: Backend,
    link: SocketConnector,
    target: HostPort,
    timeout: float,  # noqa: ASYNC109 - the function returns a result after a timeout
    on_abandoned: Callable[[], None] = lambda: None,
    logins: LoginLimiter | None = None,
) -> CheckResult:
    """Probe a target once, and return the result. A failure of the target is a result, and not an exception.

    Args:
        backend: The backend, which implements the probe.
        link: The link to the target.
        target: The target.
        timeout: Time limit of the probe, in seconds.
        on_abandoned: Called for each dial that the probe abandons although the server might still accept the
            connection.
        logins: Limits the logins to the server; None: no limit.

    Raises:
        LinkLostError: The link was lost during the probe, which therefore shows nothing about the target.
    """
    phases = PhaseTimer(on_abandoned=on_abandoned, logins=logins)
    started = time.perf_counter()
    probe_result: ProbeResult | None = None
    state, reason, detail, remedy = HealthState.UP, None, "", ""
    try:
        async with asyncio.timeout(timeout):
            probe_result = await backend.probe(link, target, phases)
        if probe_result.unprobed:
            state, detail, remedy = HealthState.UNKNOWN, probe_result.unprobed, _NOT_PROBED
        elif probe_result.unusable:
            state, (reason, detail) = HealthState.DOWN, probe_result.unusable
        elif probe_result.degraded:
            state, (reason, detail) = HealthState.DEGRADED, probe_result.degraded
    except TimeoutError:
        state = HealthState.DOWN
        completed = ", ".join(phases.completed) or "nothing"
        phase = f" in the phase {phases.unfinished}" if phases.unfinished else ""
        hint = f": {phases.timeout_hint}" if phases.timeout_hint else ""
        detail = f"no response within {timeout:g} s{phase} (completed: {completed}){hint}"
        reason, detail = phases.timeout_failure or (FailureReason.TIMEOUT, detail)
    except LinkLostError:
        raise
    except TargetPathError as error:
        usable = isinstance(error, UnusableTargetError) and error.reason in _LOGIN_REASONS
        state, reason, detail = HealthState.DEGRADED if usable else HealthState.DOWN, error.reason, error.detail
        remedy = error.remedy if isinstance(error, UnusableTargetError) else ""
    except OSError as error:
        state, reason, detail = HealthState.DOWN, FailureReason.RESET, error_text(error)
    except Exception as error:
        # If the server sends malformed data, a client library can raise any exception. Count it as a failed probe.
        log.exception("a check raised an unexpected error", extra={"target": str(target)})
        state, reason, detail = HealthState.DOWN, FailureReason.PROTOCOL, f"{type(error).__name__}: {error}"
    return CheckResult(
        at=time.time(),
        duration=time.perf_counter() - started,
        state=state,
        reason=reason,
        detail=one_line(detail),
        remedy=remedy,
        phases=phases.seconds,
        probe_result=probe_result,
    )
