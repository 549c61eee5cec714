"""Provides the targets that the main process assigns to the backends of a worker process."""

from gateway.app.running_backend import RunningBackend
from gateway.app.worker.messages import Failed
from gateway.app.worker.messenger import Messenger
from gateway.contracts.values import Endpoint
from gateway.health.monitor import MonitoredUplink


class AssignedTargets:
    """Provides the targets that the main process assigns; implements `gateway.app.site.TargetHealth`.

    Args:
        owner: The connection to the main process, which checks the targets.
    """

    def __init__(self, owner: Messenger) -> None:
        self.assigned: dict[str, tuple[Endpoint, ...]] = {}
        self._owner = owner

    def update(self, running: RunningBackend, uplink: MonitoredUplink, *, keep_results: bool) -> None:
        """Do nothing, because the main process checks the targets. See `gateway.app.site.TargetHealth`."""

    def remove(self, running: RunningBackend) -> None:
        """Do nothing, because the main process checks the targets. See `gateway.app.site.TargetHealth`."""

    def targets(self, running: RunningBackend) -> list[Endpoint]:
        """See `gateway.app.site.TargetHealth`."""
        return list(self.assigned.get(running.spec.name, running.spec.targets))

    def on_failure(self, running: RunningBackend, target: Endpoint) -> None:
        """See `gateway.app.site.TargetHealth`."""
        self._owner.send(Failed(running.spec.name, target))

    def on_stall(self, running: RunningBackend, target: Endpoint) -> None:
        """See `gateway.app.site.TargetHealth`."""
        self._owner.send(Failed(running.spec.name, target, stalled=True))
