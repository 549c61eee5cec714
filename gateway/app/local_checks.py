"""Runs the checks of backends in this process."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from gateway.app.handshake_budgets import HandshakeBudgets
from gateway.app.monitored_target import MonitoredTarget
from gateway.app.running_backend import RunningBackend
from gateway.app.units import Units
from gateway.contracts.backend import Backend
from gateway.forwarding.routed_target import RoutedTarget
from gateway.health.monitor import Check, MonitoredUplink, Schedule
from gateway.health.target_record import TargetRecord
from gateway.health.ways import WayChoice

_FIRST_RESULT_POLL = 0.5


class LocalChecks:
    """Checks targets in this process; implements `gateway.app.site.TargetHealth`.

    Args:
        units: Runs the checks.
        budgets: The handshake budgets of the ways to the targets.
    """

    def __init__(self, units: Units, budgets: HandshakeBudgets) -> None:
        self._units = units
        self._budgets = budgets

    def update(
        self, running: RunningBackend, uplinks: Mapping[str | None, MonitoredUplink], *, keep_results: bool
    ) -> None:
        """See `gateway.app.site.TargetHealth`."""
        spec = running.spec
        previous = {each.target: each for each in running.targets} if keep_results else {}
        self.remove(running)
        backend: Backend = spec.kind.create(spec.options, spec.check_options)
        schedule = Schedule(**vars(spec.check))
        running.targets = []
        for target in spec.targets:
            choice = WayChoice(spec.ways(target) or (None,), spec.prefer_way)
            before = previous.get(target)
            if before is not None and set(before.choice.names).isdisjoint(choice.names):
                before = None  # through other tunnels, the address is possibly another server
            record = before.record if before is not None else TargetRecord()
            checks = [
                Check(
                    spec.name,
                    backend,
                    target,
                    uplinks[way],
                    schedule,
                    running.on_check_result,
                    partial(self._budgets.record_abandoned_dial, way, target),
                    record,
                    way,
                    budget.logins if (budget := self._budgets.of(spec, target, way)) is not None else None,
                )
                for way in choice.names
            ]
            monitored = MonitoredTarget(checks, choice, running.routes.get(target, ()))
            if before is not None:
                monitored.inherit(before)
            running.targets.append(monitored)
        for check in running.checks:
            self._units.start(f"check {spec.name} {check.target}", check)
        running.on_check_result()

    def remove(self, running: RunningBackend) -> None:
        """See `gateway.app.site.TargetHealth`."""
        for check in running.checks:
            self._units.stop_soon(check)

    def routes(self, running: RunningBackend) -> list[RoutedTarget]:
        """See `gateway.app.site.TargetHealth`."""
        return running.ordered_routes()

    def on_failure(self, running: RunningBackend, routed: RoutedTarget) -> None:
        """See `gateway.app.site.TargetHealth`."""
        running.on_failure(routed.target)

    def on_stall(self, running: RunningBackend, routed: RoutedTarget) -> None:
        """See `gateway.app.site.TargetHealth`."""
        running.on_stall(routed.target, routed.uplink.tunnel_name)

    def on_detour(self, running: RunningBackend, routed: RoutedTarget) -> None:
        """See `gateway.app.site.TargetHealth`."""
        running.on_detour(routed.target, routed.uplink.tunnel_name)


async def wait_first_results(backends: Callable[[], Iterable[RunningBackend]]) -> None:
    """Wait until each target has the result of a first check, through any way.

    Args:
        backends: Returns the running backends.
    """
    while waiting := [target for running in backends() for target in running.targets if not target.is_checked]:
        # The timeout is short, because a reload can replace the check with another object during the wait, and
        # because another way can have the first result.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waiting[0].checks[0].first_result.wait(), _FIRST_RESULT_POLL)
