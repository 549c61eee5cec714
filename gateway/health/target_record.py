"""Records what probes find out about one target, independently of the way. Does no I/O."""

from gateway.contracts.backend import ProbeResult
from gateway.contracts.states import DatabaseRole
from gateway.health.verdict import CheckResult


class TargetRecord:
    """The part of a target's state that the checks through all ways share."""

    def __init__(self) -> None:
        self.probe_result = ProbeResult()
        """Result of the last probe that the target answered."""
        self.probed = 0.0
        """Monotonic time at which this probe started."""
        self.promoted = 0.0
        """Monotonic time at which a probe found that the target, which was a replica, had become the primary; 0 if no
        probe has."""
        self._role: DatabaseRole | None = None

    def add(self, result: CheckResult, started: float, now: float) -> None:
        """Record the result of a probe, except if a probe that started later has already found a result.

        Args:
            result: The result.
            started: Monotonic time at which the probe started.
            now: Monotonic time.
        """
        if result.probe_result is None or started < self.probed:
            return
        self.probed = started
        role = result.probe_result.role
        if role == "primary" and self._role == "replica":
            self.promoted = now
        self.probe_result = result.probe_result
        self._role = role or self._role
