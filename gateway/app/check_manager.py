"""Starts and stops the health checks of backends, and waits for their first results."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from gateway.app.aborted_handshake_budgets import AbortedHandshakeBudgets
from gateway.app.component_manager import ComponentManager
from gateway.app.monitored_target import MonitoredTarget
from gateway.app.running_backend import RunningBackend
from gateway.contracts.backend import Backend
from gateway.health.check import Check
from gateway.health.check_schedule import CheckSchedule
from gateway.health.last_probe_result import LastProbeResult
from gateway.health.path_selection import PathSelector
from gateway.supervision.uplink import Uplink

_FIRST_RESULT_POLL = 0.5


class CheckManager:
    """Starts and stops the health checks of backends.

    Args:
        components: Runs the checks.
        budgets: The handshake budgets. They limit how often checks log in to a MySQL server.
    """

    def __init__(self, components: ComponentManager, budgets: AbortedHandshakeBudgets) -> None:
        self._components = components
        self._budgets = budgets

    def update(self, running: RunningBackend, uplinks: Mapping[str | None, Uplink], *, keep_results: bool) -> None:
        """Start checks of the targets of `running.spec`, and stop the backend's previous checks.

        If the previous checks are paused, the new checks are paused, too.

        Args:
            running: The backend.
            uplinks: The uplink of each tunnel that leads to a target. The key None is the direct uplink.
            keep_results: Whether a target keeps the results of its previous checks. If False, the target keeps only
                its role (primary or replica) and the time of its promotion to primary.
        """
        spec = running.spec
        paused = any(check.paused for check in running.checks)
        previous = {each.target: each for each in running.targets} if keep_results else {}
        self.remove(running)
        known, running.records = running.records, {}
        backend: Backend = spec.kind.create(spec.options, spec.check_options)
        schedule = CheckSchedule(**vars(spec.check))
        running.targets = []
        for target in spec.targets:
            choice = PathSelector(spec.paths(target) or (None,), spec.prefer_way)
            before = previous.get(target)
            if before is not None and set(before.choice.names).isdisjoint(choice.names):
                before = None  # none of the previous paths remains, so discard the previous results
            key = (spec.kind.name, target)
            record = before.record if before is not None else known.get(key, LastProbeResult()).without_facts()
            running.records[key] = record
            checks = [
                Check(
                    spec.name,
                    backend,
                    target,
                    uplinks[tunnel],
                    schedule,
                    running.on_check_result,
                    partial(self._budgets.record_abandoned_dial, tunnel, target),
                    record,
                    tunnel,
                    budget.logins if (budget := self._budgets.of(spec, target, tunnel)) is not None else None,
                )
                for tunnel in choice.names
            ]
            monitored = MonitoredTarget(checks, choice, running.paths.get(target, ()))
            if before is not None:
                monitored.inherit(before)
            running.targets.append(monitored)
        for check in running.checks:
            if paused:
                check.pause()
            self._components.start(f"check {spec.name} {check.target}", check)
        running.on_check_result()

    def remove(self, running: RunningBackend) -> None:
        """Stop all checks of a backend."""
        for check in running.checks:
            self._components.stop_soon(check)


async def wait_first_results(backends: Callable[[], Iterable[RunningBackend]]) -> None:
    """Wait until each target has been checked over at least one of its paths.

    Args:
        backends: Returns the running backends.
    """
    while waiting := [target for running in backends() for target in running.targets if not target.is_checked]:
        # Wait for this check only briefly, and then repeat the loop. In the meantime, a reload can replace the check,
        # or a check over another path can finish.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_RESULT_POLL):
                await waiting[0].checks[0].first_result.wait()
