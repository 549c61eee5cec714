"""Runs the checks of backends in this process, and owns the handshake budgets that checks and clients share."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from functools import partial

from gateway.app.running_backend import RunningBackend
from gateway.app.units import Units
from gateway.config import BackendSpec
from gateway.contracts.backend import Backend
from gateway.contracts.values import Endpoint
from gateway.forwarding.handshake_budget import HandshakeBudget
from gateway.health.monitor import Check, MonitoredUplink, Schedule

_FIRST_RESULT_POLL = 0.5


class HandshakeBudgets:
    """The handshake budgets of all targets. Backends with the same target and the same tunnel share one budget."""

    def __init__(self) -> None:
        self._budgets: dict[tuple[str | None, Endpoint], HandshakeBudget] = {}

    def of(self, spec: BackendSpec) -> dict[Endpoint, HandshakeBudget]:
        """Return the budgets of a backend's targets; empty if its servers do not count aborted handshakes."""
        limit = spec.kind.abort_limit
        if limit is None:
            return {}
        return {
            target: self._budgets.setdefault((spec.via, target), HandshakeBudget(limit)) for target in spec.targets
        }

    def record_abandoned_dial(self, tunnel: str | None, target: Endpoint) -> None:
        """Record that a check's dial timed out. If it connects later, the server counts an aborted handshake."""
        budget = self._budgets.get((tunnel, target))
        if budget is not None:
            budget.record_abandoned(time.time())


class LocalChecks:
    """Checks targets in this process; implements `gateway.app.site.TargetHealth`.

    Args:
        units: Runs the checks.
        budgets: The handshake budgets of the targets.
    """

    def __init__(self, units: Units, budgets: HandshakeBudgets) -> None:
        self._units = units
        self._budgets = budgets

    def update(self, running: RunningBackend, uplink: MonitoredUplink, *, keep_results: bool) -> None:
        """See `gateway.app.site.TargetHealth`."""
        spec = running.spec
        previous = {check.target: check for check in running.checks} if keep_results else {}
        self.remove(running)
        backend: Backend = spec.kind.create(spec.options, spec.check_options)
        schedule = Schedule(**vars(spec.check))
        running.checks = [
            Check(
                spec.name,
                backend,
                target,
                uplink,
                schedule,
                running.on_check_result,
                partial(self._budgets.record_abandoned_dial, spec.via, target),
            )
            for target in spec.targets
        ]
        for check in running.checks:
            if check.target in previous:
                check.inherit(previous[check.target])
            self._units.start(f"check {spec.name} {check.target}", check)
        running.on_check_result()

    def remove(self, running: RunningBackend) -> None:
        """See `gateway.app.site.TargetHealth`."""
        for check in running.checks:
            self._units.stop_soon(check)

    def targets(self, running: RunningBackend) -> list[Endpoint]:
        """See `gateway.app.site.TargetHealth`."""
        return running.targets()

    def on_failure(self, running: RunningBackend, target: Endpoint) -> None:
        """See `gateway.app.site.TargetHealth`."""
        running.on_failure(target)

    def on_stall(self, running: RunningBackend, target: Endpoint) -> None:
        """See `gateway.app.site.TargetHealth`."""
        running.on_stall(target)


async def wait_first_results(backends: Callable[[], Iterable[RunningBackend]]) -> None:
    """Wait until each target has the result of a first check.

    Args:
        backends: Returns the running backends.
    """
    while waiting := [check for running in backends() for check in running.checks if not check.first_result.is_set()]:
        # The timeout is short, because a reload can replace the check with another object during the wait.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting[0].first_result.wait(), _FIRST_RESULT_POLL)
