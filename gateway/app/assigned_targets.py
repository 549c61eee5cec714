"""The targets that the owner assigns to the backends of a worker."""

from gateway.app.running_backend import RunningBackend
from gateway.app.worker.messages import Failed
from gateway.app.worker.messenger import Messenger
from gateway.contracts.values import Endpoint
from gateway.health.monitor import MonitoredUplink


class AssignedTargets:
    """Uses the targets that the owner of this worker assigns; a `gateway.app.site.TargetHealth`.

    Args:
        owner: The connection to the owner, which checks the targets.
    """

    def __init__(self, owner: Messenger) -> None:
        self.assigned: dict[str, tuple[Endpoint, ...]] = {}
        self._owner = owner

    def update(self, running: RunningBackend, uplink: MonitoredUplink, *, keep_results: bool) -> None:
        """See `gateway.app.site.TargetHealth`. The owner checks the targets."""

    def remove(self, running: RunningBackend) -> None:
        """See `gateway.app.site.TargetHealth`. The owner checks the targets."""

    def targets(self, running: RunningBackend) -> list[Endpoint]:
        """See `gateway.app.site.TargetHealth`."""
        return list(self.assigned.get(running.spec.name, running.spec.targets))

    def on_failure(self, running: RunningBackend, target: Endpoint) -> None:
        """See `gateway.app.site.TargetHealth`."""
        self._owner.send(Failed(running.spec.name, target))

    def on_stall(self, running: RunningBackend, target: Endpoint) -> None:
        """See `gateway.app.site.TargetHealth`."""
        self._owner.send(Failed(running.spec.name, target, stalled=True))
