"""Combines the two parts of a running backend: the forward, which serves clients, and the checks of its targets.

The results of the checks determine which targets clients use. Failures of client traffic trigger early checks.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.app.aborted_handshake_budgets import AbortedHandshakeBudgets
from gateway.app.monitored_target import MonitoredTarget
from gateway.config import BackendSpec
from gateway.contracts.config_types import HostPort
from gateway.contracts.health_state_tracker import HealthStateTracker
from gateway.forwarding.aborted_handshake_budget import AbortedHandshakeBudget, set_limit
from gateway.forwarding.forward import Forward
from gateway.forwarding.target_path import TargetPath
from gateway.health.check import Check
from gateway.health.last_probe_result import LastProbeResult
from gateway.health.target_selection import (
    BackendHealth,
    TargetCandidate,
    backend_state,
    lacks_primary,
    order_targets,
    superseded_primaries,
    wrong_role_targets,
)

ProbeRecords = dict[tuple[str, HostPort], LastProbeResult]
"""The last probe results of targets. A key consists of the kind of a backend and the address of a target."""


@dataclass
class RunningBackend:
    """A backend that runs: its configuration, its forward, and the checks of its targets.

    Args:
        spec: The configuration of the backend.
        forward: Serves the clients of the backend.
        budgets: The handshake budgets.
        targets: The targets with their checks.
        records: The last probe result of each target. A reload keeps at least the target's role. Otherwise, clients
            could return to a former primary.
        paths: For each target, the paths that the forward dials.
        state_tracker: The last computed state of the backend, and the time at which this state began.
        on_state_change: Called when the state changes.
        on_result: Called after each check, and when the checks are replaced.
    """

    spec: BackendSpec
    forward: Forward
    budgets: AbortedHandshakeBudgets
    targets: list[MonitoredTarget] = field(default_factory=list)
    records: ProbeRecords = field(default_factory=dict)
    paths: dict[HostPort, tuple[TargetPath, ...]] = field(default_factory=dict)
    state_tracker: HealthStateTracker = field(default_factory=lambda: HealthStateTracker(time.time()))
    on_state_change: Callable[[], None] = lambda: None
    on_result: Callable[[], None] = lambda: None

    @property
    def checks(self) -> list[Check]:
        """The checks of this backend: one for each combination of target and path."""
        return [check for target in self.targets for check in target.checks]

    def candidates(self) -> list[TargetCandidate]:
        """Return the targets with the results of their last checks."""
        return [target.candidate() for target in self.targets]

    def evaluate(self, candidates: list[TargetCandidate] | None = None) -> BackendHealth:
        """Return the backend's state. If it has changed, update `state_tracker`, and call `on_state_change`.

        Args:
            candidates: The result of `candidates()`, if the caller already has it.
        """
        health = backend_state(self.candidates() if candidates is None else candidates, self.spec.prefer)
        if self.state_tracker.enter(health.state, time.time()):
            self.on_state_change()
        return health

    def on_check_result(self) -> None:
        """Update the state of the backend, and move clients away from targets that have the wrong role.

        A former primary may still accept writes, and these writes are lost. Therefore, the gateway immediately resets
        the connections to a former primary. It resets the connections to other targets with the wrong role
        gradually.
        """
        candidates, prefer = self.candidates(), self.spec.prefer
        self.evaluate(candidates)
        for check in self.checks:
            self._record_login(check)
        wrong_role = wrong_role_targets(candidates, prefer)
        left = superseded_primaries(candidates, prefer, confirmed=True)
        self.forward.move_clients(wrong_role, left)
        self._set_urgent(candidates)
        self.on_result()

    def _set_urgent(self, candidates: list[TargetCandidate]) -> None:
        """Check targets more often while their role (primary or replica) might change soon.

        - A superseded primary that has not been probed since the failover might become a replica.
        - While no primary is usable, any target that responds might become the primary.
        """
        prefer = self.spec.prefer
        lacking = lacks_primary(candidates, prefer)
        unconfirmed = superseded_primaries(candidates, prefer) - superseded_primaries(
            candidates, prefer, confirmed=True
        )
        for check in self.checks:
            check.set_urgent(urgent=(lacking and not check.failing) or check.target in unconfirmed)

    def budget(self, target: HostPort, tunnel: str | None) -> AbortedHandshakeBudget | None:
        """Return the handshake budget of a path; None if servers of this kind do not count aborted handshakes.

        Args:
            target: The target.
            tunnel: The tunnel; None for a direct connection.
        """
        return self.budgets.of(self.spec, target, tunnel)

    def _record_login(self, check: Check) -> None:
        """Record the last login of `check` in the handshake budget of its path.

        A login resets the server's count of aborted handshakes. If the check has read the server's limit for this
        count, all budgets of the server adopt the limit.
        """
        budget = self.budget(check.target, check.tunnel)
        if budget is None:
            return
        # Use the result of this check. `check.record` also contains results over other paths.
        result = check.last.probe_result if check.last is not None else None
        if result is not None and result.login_started_at is not None:
            budget.record_login(result.login_started_at)
        set_limit(budget.same_server, check.record.probe_result.abort_limit or budget.limit)

    def ordered_targets(self) -> list[HostPort]:
        """Return the targets to try for a new client, best first."""
        return [candidate.target for candidate in order_targets(self.candidates(), self.spec.prefer)]

    def ordered_paths(self) -> list[TargetPath]:
        """Return the paths to dial for a new client, best first. All paths to the best target come first."""
        by_target = {each.target: each for each in self.targets}
        return [target_path for target in self.ordered_targets() for target_path in by_target[target].paths()]

    def on_failure(self, target: HostPort) -> None:
        """Check `target` soon over all paths, because client traffic to it failed.

        If the targets have roles (primary and replica), also check the other targets, because a failover may have
        changed their roles.
        """
        roles = self.spec.kind.has_roles(self.spec.check_options)
        for each in self.targets:
            if roles or each.target == target:
                each.check_soon(all_paths=each.target == target)

    def on_stall(self, target: HostPort, tunnel: str | None) -> None:
        """Count one failed probe of `target` through `tunnel`, because a client waited too long for a response."""
        for each in self.targets:
            if each.target == target:
                each.report_stall(tunnel)
        self._set_urgent(self.candidates())

    def on_detour(self, target: HostPort, tunnel: str | None) -> None:
        """Avoid `tunnel` for dials to `target`: a dial through it failed, and a dial over another path succeeded."""
        for each in self.targets:
            if each.target == target:
                each.report_failed_dial(tunnel)
