"""Provides, in a worker process, the targets that the main process has chosen for each backend."""

from collections.abc import Mapping

from gateway.app.running_backend import RunningBackend
from gateway.app.worker.messages import TrafficFailure
from gateway.app.worker.messenger import Messenger
from gateway.contracts.values import Endpoint
from gateway.forwarding.routed_target import RoutedTarget
from gateway.health.check import MonitoredUplink


class AssignedTargets:
    """Chooses the targets that the main process has assigned; implements `gateway.app.runtime.TargetSelector`.

    Args:
        owner: The connection to the main process, which checks the targets.
    """

    def __init__(self, owner: Messenger) -> None:
        self.assigned: dict[str, tuple[Endpoint, ...]] = {}
        self._owner = owner

    def update(
        self, running: RunningBackend, uplinks: Mapping[str | None, MonitoredUplink], *, keep_results: bool
    ) -> None:
        """Do nothing, because the main process checks the targets. See `gateway.app.runtime.TargetSelector`."""

    def remove(self, running: RunningBackend) -> None:
        """Do nothing, because the main process checks the targets. See `gateway.app.runtime.TargetSelector`."""

    def routes(self, running: RunningBackend) -> list[RoutedTarget]:
        """Return the ways to the targets to try for a new client, best first."""
        targets = self.assigned.get(running.spec.name, running.spec.targets)
        return [routed for target in targets for routed in running.routes.get(target, ())]

    def on_failure(self, running: RunningBackend, routed: RoutedTarget) -> None:
        """Handle a failure of real traffic to a target. See `gateway.app.runtime.TargetSelector`."""
        self._owner.send(TrafficFailure(running.spec.name, routed.target))

    def on_stall(self, running: RunningBackend, routed: RoutedTarget) -> None:
        """Handle a response of a target that takes too long. See `gateway.app.runtime.TargetSelector`."""
        self._owner.send(TrafficFailure(running.spec.name, routed.target, stalled=True))

    def on_detour(self, running: RunningBackend, routed: RoutedTarget) -> None:
        """Do nothing, because a worker has one way to each target. See `gateway.app.runtime.TargetSelector`."""
