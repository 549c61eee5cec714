"""Passes the results of a backend's checks to its forward, and failures of its traffic to the checks."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.app.worker.messages import CheckLogin, TargetAssignment
from gateway.app.worker.remote import RemoteForward
from gateway.app.worker.unit import WorkerSupervisor
from gateway.config import BackendSpec
from gateway.contracts.states import State
from gateway.contracts.values import Endpoint
from gateway.errors import Reason
from gateway.forwarding.forward import Forward
from gateway.forwarding.handshake_budget import HandshakeBudget
from gateway.health.monitor import Check
from gateway.health.target_selection import Candidate, backend_state, order_targets, wrong_role_targets


@dataclass
class RunningBackend:
    """A running backend.

    Args:
        spec: The configuration of the backend.
        forward: Serves the clients of the backend.
        worker: The worker process that serves the clients; None if this process serves them.
        local: The same object as `forward` if this process serves the clients; None if a worker serves them.
        checks: The checks of the backend, one per target; empty in a worker.
        budgets: The handshake budgets of the targets whose servers count aborted handshakes.
        state: The backend's state when it was last computed.
        since: When `state` began, in epoch seconds.
        on_state_change: Called when `state` changes.
    """

    spec: BackendSpec
    forward: Forward | RemoteForward
    worker: WorkerSupervisor | None = None
    local: Forward | None = None
    checks: list[Check] = field(default_factory=list)
    budgets: dict[Endpoint, HandshakeBudget] = field(default_factory=dict)
    state: State = State.UNKNOWN
    since: float = field(default_factory=time.time)
    on_state_change: Callable[[], None] = lambda: None

    def candidates(self) -> list[Candidate]:
        """Return the targets with the results of their last checks."""
        return [
            Candidate(
                target=check.target,
                state=check.verdict.state,
                reason=check.verdict.reason,
                detail=check.verdict.detail,
                role=check.probe_result.role,
                read_only=check.probe_result.read_only,
            )
            for check in self.checks
        ]

    def evaluate(self) -> tuple[State, Reason | None, str]:
        """Return the backend's state, the reason and a line of detail. If the state has changed, record the time."""
        state, reason, detail = backend_state(self.candidates(), self.spec.prefer)
        if state is not self.state:
            self.state, self.since = state, time.time()
            self.on_state_change()
        return state, reason, detail

    def on_check_result(self) -> None:
        """Update the state and the order of targets, and drain the clients of targets that have the wrong role."""
        self.evaluate()
        logins = self._logins()
        for target, at, limit in logins:
            self.record_login(target, at, limit)
        wrong_role = wrong_role_targets(self.candidates(), self.spec.prefer)
        if self.worker is not None:
            self.worker.assign_targets(TargetAssignment(self.spec.name, tuple(self.targets()), wrong_role, logins))
        elif self.local is not None:
            self.local.drain_targets(wrong_role)

    def _logins(self) -> tuple[CheckLogin, ...]:
        return tuple(
            (check.target, check.last_success, check.probe_result.abort_limit)
            for check in self.checks
            if check.target in self.budgets and check.last_success is not None
        )

    def record_login(self, target: Endpoint, at: float, limit: int | None) -> None:
        """Record a successful login of a check in the target's handshake budget.

        Args:
            target: The target.
            at: When the login succeeded, in epoch seconds.
            limit: How many aborted handshakes the target's server tolerates; None if this is not known.
        """
        budget = self.budgets.get(target)
        if budget is not None:
            budget.record_login(at)
            budget.limit = limit or budget.limit

    def targets(self) -> list[Endpoint]:
        """Return the targets to try for a new client, best first."""
        return [candidate.target for candidate in order_targets(self.candidates(), self.spec.prefer)]

    def on_failure(self, target: Endpoint) -> None:
        """Check `target` soon, because real traffic to it failed.

        If the kind has roles, check all targets, because after a failover another target can have the required role.
        """
        roles = self.spec.kind.has_roles
        for check in self.checks:
            if roles or check.target == target:
                check.check_soon()

    def on_stall(self, target: Endpoint) -> None:
        """Report to the check of `target` that a client waits for a response."""
        for check in self.checks:
            if check.target == target:
                check.report_stall()
