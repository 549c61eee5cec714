"""Stores the last probe result of one target, for the checks over all paths to this target. Does no I/O."""

from gateway.contracts.backend import ProbeResult
from gateway.contracts.states import DatabaseRole
from gateway.health.check_results import CheckResult


class LastProbeResult:
    """The last probe result of one target, and when the target was promoted to primary.

    The checks over all paths to the target share this object.
    """

    def __init__(self) -> None:
        self.probe_result = ProbeResult()
        """The result of the last probe. A probe that raises an error does not change this value."""
        self.probed = 0.0
        """Monotonic time, in seconds, at the start of the last probe that got a response."""
        self.promoted = 0.0
        """Monotonic time, in seconds, at which a probe detected that the target was promoted from replica to primary;
        0 if there was no promotion."""
        self._role: DatabaseRole | None = None

    def without_facts(self) -> "LastProbeResult":
        """Return a copy whose probe result contains only `role` and `read_only`."""
        record = LastProbeResult()
        record.probe_result = ProbeResult(role=self.probe_result.role, read_only=self.probe_result.read_only)
        record.probed, record.promoted, record._role = self.probed, self.promoted, self._role
        return record

    def add(self, result: CheckResult, started: float, now: float) -> None:
        """Record the result of a probe.

        Ignore a probe that got no response, and a probe that started before the last recorded one.

        Args:
            result: The result.
            started: Monotonic time at which the probe started.
            now: The current monotonic time.
        """
        # A server that refuses the login has responded. In this case, `passed` is true and `probe_result` is None.
        answered = result.passed or result.probe_result is not None
        if not answered or started < self.probed:
            return
        self.probed = started
        if result.probe_result is None:
            return
        role = result.probe_result.role
        if role == "primary" and self._role == "replica":
            self.promoted = now
        self.probe_result = result.probe_result
        self._role = role or self._role
