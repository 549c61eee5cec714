"""Owns the checks of one target, one for each path to it, and chooses the path for new clients.

A path is a tunnel to the target, or the direct connection.
"""

import logging
import time

from gateway.contracts.config_types import HostPort
from gateway.contracts.health_state_tracker import HealthStateTracker
from gateway.contracts.states import HealthState
from gateway.forwarding.target_path import TargetPath
from gateway.health.check import Check
from gateway.health.last_probe_result import LastProbeResult
from gateway.health.path_selection import PathCandidate, PathSelector, order_paths
from gateway.health.target_selection import TargetCandidate
from gateway.ops.status_views import TargetView
from gateway.supervision.tunnel_state_describer import describe_all

log = logging.getLogger(__name__)

_DOUBT_EXPIRES = 60.0
"""Seconds for which new clients avoid a path after a failed dial over it. A successful check of the path ends this
time early."""


class MonitoredTarget:
    """A target of a running backend, with a check over each path to it.

    Args:
        checks: The check over each path, in the order of the configuration. All checks share one record of the last
            probe.
        choice: Chooses the path for new clients.
        paths: The paths that the forward dials. They are the paths of `checks`, in the same order.
    """

    def __init__(self, checks: list[Check], choice: PathSelector, paths: tuple[TargetPath, ...]) -> None:
        self.checks = checks
        self.choice = choice
        self._paths = paths
        self.state_tracker = HealthStateTracker(time.time())
        """The target's last state, and the time at which this state began. A change of the path alone does not change
        the time."""
        self.view: tuple[object, TargetView] | None = None
        """A cache for `status_view_builder`: the inputs and the target's view. The view is reused if the inputs have
        not changed. None if there is no view yet."""
        self._dial_failed_at: dict[int, float] = {}
        """For each path, by its index in `checks`: the monotonic time, in seconds, of the latest call of
        `report_failed_dial`."""

    def inherit(self, other: "MonitoredTarget") -> None:
        """Copy the check results from `other`, which represented the same target before a reload.

        Omit the results of checks over paths that no longer exist.
        """
        previous = {check.tunnel: check for check in other.checks}
        self.choice.inherit(other.choice)
        self.state_tracker = other.state_tracker
        for check in self.checks:
            if check.tunnel in previous:
                check.inherit(previous[check.tunnel])

    @property
    def is_checked(self) -> bool:
        """Whether a check over at least one path has finished."""
        return any(check.first_result.is_set() for check in self.checks)

    @property
    def target(self) -> HostPort:
        """The address of the target."""
        return self.checks[0].target

    def choose(self) -> int:
        """Choose the path for new clients, and return its index in `checks`.

        Also make the checks over the other paths less frequent.
        """
        if len(self.checks) == 1:
            return 0
        before = self.choice.current
        chosen = self.choice.update(self.health(), time.monotonic())
        for at, check in enumerate(self.checks):
            check.every = 1 if at == chosen else len(self.checks)
        if before is not None and before != chosen:
            log.info(
                "new clients use another path",
                extra={
                    "backend": self.checks[chosen].name,
                    "target": str(self.target),
                    "tunnel": self.checks[chosen].tunnel,
                    "previous": self.checks[before].tunnel,
                },
            )
            self.checks[chosen].check_soon()
        return chosen

    def health(self) -> list[PathCandidate]:
        """Return the state and latency of each path, in the order of `checks`."""
        return [
            PathCandidate(
                is_open=check.uplink.link is not None,
                state=check.verdict.state,
                latency=check.latency,
                checks=check.attempts,
                dial_failed=self._has_failed_dial(at),
            )
            for at, check in enumerate(self.checks)
        ]

    def _has_failed_dial(self, path: int) -> bool:
        since = self._dial_failed_at.get(path)
        if since is None:
            return False
        return (self.checks[path].succeeded_at or 0.0) < since and time.monotonic() - since < _DOUBT_EXPIRES

    def candidate(self) -> TargetCandidate:
        """Return the target's state over the path that new clients use, and the last probe result over any path.

        If the state has changed, update `state_tracker`.
        """
        check, record = self.checks[self.choose()], self.record
        verdict = check.verdict
        self.state_tracker.enter(verdict.state, time.time())
        blocked = verdict.state is HealthState.BLOCKED
        return TargetCandidate(
            target=self.target,
            state=verdict.state,
            reason=verdict.reason,
            detail=describe_all(each.uplink for each in self.checks) if blocked else verdict.detail,
            remedy=verdict.remedy,
            role=record.probe_result.role,
            read_only=record.probe_result.read_only,
            promoted=record.promoted,
            probed=record.probed,
            failing=check.failing,
        )

    @property
    def record(self) -> LastProbeResult:
        """The result of the most recent probe, over any path. All checks of the target share this record."""
        return self.checks[0].record

    @property
    def last_success(self) -> float | None:
        """The time of the last successful check over any path, in epoch seconds; None if no check has succeeded."""
        return max((each.last_success for each in self.checks if each.last_success is not None), default=None)

    def paths(self) -> list[TargetPath]:
        """Return the paths to the target, in the order in which a new client must try them."""
        if len(self._paths) == 1:
            return list(self._paths)
        chosen = self.choose()
        return [self._paths[at] for at in order_paths(self.health(), chosen)]

    def check_soon(self, *, all_paths: bool) -> None:
        """Check the target soon: over all paths, or only over the path that new clients use."""
        for check in self.checks if all_paths else [self.checks[self.choose()]]:
            check.check_soon()

    def report_stall(self, tunnel: str | None) -> None:
        """Count one failed probe of the path through `tunnel`, because a client waited too long for a response."""
        for check in self.checks:
            if check.tunnel == tunnel:
                check.report_stall()

    def report_failed_dial(self, tunnel: str | None) -> None:
        """Record that a client's dial through `tunnel` failed, and that a dial over another path succeeded."""
        for at, check in enumerate(self.checks):
            if check.tunnel == tunnel:
                self._dial_failed_at[at] = time.monotonic()
                check.check_soon()
