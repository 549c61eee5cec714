"""Records what probes find out about one target, independently of the way. Does no I/O."""

import asyncio

from gateway.contracts.backend import ProbeResult
from gateway.contracts.states import DatabaseRole
from gateway.health.verdict import CheckResult


class TargetRecord:
    """The part of a target's state that the checks through all ways share."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        """Held during each probe. Probes take turns, so that the results are recorded in their order."""
        self.probe_result = ProbeResult()
        """Result of the last probe that the target answered."""
        self.probed = 0.0
        """Monotonic time at which the last probe with a result started."""
        self.failing = False
        """Whether this probe failed."""
        self.promoted = 0.0
        """Monotonic time at which a probe found that the target, which was a replica, had become the primary; 0 if no
        probe has."""
        self._role: DatabaseRole | None = None

    def add(self, result: CheckResult, started: float, now: float) -> None:
        """Record the result of a probe.

        Args:
            result: The result.
            started: Monotonic time at which the probe started.
            now: Monotonic time.
        """
        self.probed, self.failing = started, not result.passed
        if result.probe_result is None:
            return
        role = result.probe_result.role
        if role == "primary" and self._role == "replica":
            self.promoted = now
        self.probe_result = result.probe_result
        self._role = role or self._role
