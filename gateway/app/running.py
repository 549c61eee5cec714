"""One backend at work: its forward, its checks, and what the ones tell the other."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.app.worker.messages import Login, Order
from gateway.app.worker.remote import RemoteForward
from gateway.app.worker.unit import WorkerUnit
from gateway.config import BackendSpec
from gateway.contracts import Endpoint, State
from gateway.errors import Reason
from gateway.forwarding.forward import Forward
from gateway.forwarding.handshake_budget import HandshakeBudget
from gateway.health.monitor import Check
from gateway.health.routing import Candidate, backend_state, order_targets, wrong_role_targets


@dataclass
class Running:
    """One backend at work."""

    spec: BackendSpec
    forward: Forward | RemoteForward
    worker: WorkerUnit | None = None
    checks: list[Check] = field(default_factory=list)
    budgets: dict[Endpoint, HandshakeBudget] = field(default_factory=dict)
    state: State = State.UNKNOWN
    since: float = field(default_factory=time.time)
    changed: Callable[[], None] = lambda: None
    """Called when `state` changes."""

    def candidates(self) -> list[Candidate]:
        """The targets as the last checks saw them."""
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

    def judge(self) -> tuple[State, Reason | None, str]:
        """The backend's state, its reason and a line about it; notes when it changes."""
        state, reason, detail = backend_state(self.candidates(), self.spec.prefer)
        if state is not self.state:
            self.state, self.since = state, time.time()
            self.changed()
        return state, reason, detail

    def checked(self) -> None:
        """A check is done: what it says may change where clients go, new ones and those of a lost role."""
        self.judge()
        logins = self._logins()
        for target, at, limit in logins:
            self.note_login(target, at, limit)
        unwanted = wrong_role_targets(self.candidates(), self.spec.prefer)
        if self.worker is not None:
            self.worker.order(Order(self.spec.name, tuple(self.targets()), unwanted, logins))
        elif isinstance(self.forward, Forward):
            self.forward.drain_targets(unwanted)

    def _logins(self) -> tuple[Login, ...]:
        return tuple(
            (check.target, check.last_success, check.probe_result.abort_limit)
            for check in self.checks
            if check.target in self.budgets and check.last_success is not None
        )

    def note_login(self, target: Endpoint, at: float, limit: int | None) -> None:
        """A login succeeded at `target` at the time `at`, where so many broken handshakes are let pass."""
        budget = self.budgets.get(target)
        if budget is not None:
            budget.record_login(at)
            budget.limit = limit or budget.limit

    def targets(self) -> list[Endpoint]:
        """The targets to try for a new client, best first."""
        return [candidate.target for candidate in order_targets(self.candidates(), self.spec.prefer)]

    def failed(self, target: Endpoint) -> None:
        """Real traffic failed at `target`: look at it now, and at the others, which may have taken its role."""
        roles = self.spec.kind.has_roles
        for check in self.checks:
            if roles or check.target == target:
                check.check_soon()

    def silent(self, target: Endpoint) -> None:
        """A client waits for an answer of `target`: look at it now, and let that count."""
        for check in self.checks:
            if check.target == target:
                check.report_stall()
