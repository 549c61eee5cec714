"""Executes the actions of plans, and records them in the metrics, the audit log and the ownership record."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from gateway.audit_log.events import MAX_TEXT
from gateway.audit_log.recorder import AuditLogRecorder
from gateway.docker.consumer_registry import ConsumerRegistry
from gateway.docker.container_starter import ContainerStarter
from gateway.docker.engine_actions import can_need_several_requests, execute
from gateway.docker.engine_client import EngineClient
from gateway.docker.errors import EngineError, EngineErrorKind
from gateway.docker.failed_actions import PREREQUISITES, FailedActions
from gateway.docker.network_disconnect_limiter import NetworkDisconnectLimiter
from gateway.docker.ownership_record import OwnershipRecord
from gateway.docker.plan import REVIVALS, ActionKind, PlannedAction
from gateway.docker.plan_log_limiter import PlanLogLimiter
from gateway.docker.start_attempts import StartAttempts
from gateway.docker.start_failure import CANCELED, ContainerRevival, StartFailureCause
from gateway.metric_types import Tally
from gateway.task_cancellation import complete

log = logging.getLogger(__name__)

_PARALLEL = 4
_DEPENDENT = (ActionKind.CONNECT, ActionKind.DISCONNECT, ActionKind.REATTACH, ActionKind.UPDATE_SERVICE)
_COMPLETION_GRACE = 3.0
"""Seconds that an action of several requests can still take after it has been cancelled."""
_UNCERTAIN = (EngineErrorKind.TIMEOUT, EngineErrorKind.UNREACHABLE, EngineErrorKind.FAILED)
"""The kinds of errors after which the gateway does not know whether the engine has executed the action."""


class PlanExecutor:
    """Executes planned actions in the order of their dependencies, and records them.

    Args:
        ownership: The ownership record. The executor adds each endpoint to the record before it creates the endpoint.
        detach_limiter: Counts detached endpoints.
        registry: The consumer registry. The executor removes detached containers from it.
        log_limiter: Limits how many lines are logged.
        recorder: Writes an entry about each attempted action to the audit log.
        changed: Called after an attempt to execute actions, to request a snapshot.
        on_start: Called with the ID of a container after each attempt to start it.
        start_attempts: Records the attempts to start containers.
        monotonic: Returns the monotonic time in seconds.
    """

    def __init__(
        self,
        ownership: OwnershipRecord,
        detach_limiter: NetworkDisconnectLimiter,
        registry: ConsumerRegistry,
        log_limiter: PlanLogLimiter,
        recorder: AuditLogRecorder,
        changed: Callable[[], None],
        on_start: Callable[[str], None],
        start_attempts: StartAttempts,
        monotonic: Callable[[], float],
    ) -> None:
        self._ownership = ownership
        self._detach_limiter = detach_limiter
        self._registry = registry
        self._log_limiter = log_limiter
        self._recorder = recorder
        self._changed = changed
        self._on_start = on_start
        self._monotonic = monotonic
        self.failures = FailedActions()
        self.start_attempts = start_attempts
        self.starter = ContainerStarter(self._execute, self._start_failed, self._start_ended, self._permits)
        self.writes: Tally = Tally()
        self.errors: dict[tuple[str, str], int] = {}
        self.seen: set[tuple[str, str]] = set()
        """Endpoints that this gateway created and has not detached, and that at least one snapshot contained."""

    async def run(
        self, engine: EngineClient, planned: Sequence[PlannedAction], due: Sequence[PlannedAction], *, wait: bool
    ) -> list[PlannedAction]:
        """Execute the actions that are due, and return those that succeeded.

        Args:
            engine: The engine.
            planned: All actions of the plan.
            due: The actions to execute now.
            wait: Whether to wait until the containers have started. If not, the starts continue in the background,
                and the result does not contain them.
        """
        self.starter.reap()
        gate = asyncio.Semaphore(_PARALLEL)
        done: list[PlannedAction] = []

        async def one(action: PlannedAction) -> None:
            async with gate:
                if await self._execute(engine, action):
                    done.append(action)

        # Execute the groups of actions in the order of their dependencies. The actions of one group run concurrently.
        for verbs in (PREREQUISITES, _DEPENDENT, (ActionKind.REMOVE_NETWORK,)):
            # Do not attach containers to a network that could not be created: the error of such an attachment would
            # hide the actual problem.
            missing = {
                action.network
                for action in planned
                if action.verb is ActionKind.CREATE_NETWORK and action in self.failures
            }
            jobs: list[Awaitable[None]] = [
                one(action)
                for action in due
                if action.verb in verbs and (action.verb in PREREQUISITES or action.network not in missing)
            ]
            if jobs:
                # With `return_exceptions`, `gather` waits for all actions, even after one of them has been cancelled.
                for result in await asyncio.gather(*jobs, return_exceptions=True):
                    if result is not None:
                        raise result
                self._changed()
        started = {action: self.starter.start(engine, action) for action in due if action.verb in REVIVALS}
        if wait and started:
            await asyncio.gather(*started.values())
            done += [action for action, task in started.items() if task.result()]
        return done

    def _permits(self, action: PlannedAction) -> bool:
        return self.start_attempts.permits(action, self._monotonic())

    def _start_ended(self, container: str) -> None:
        self._on_start(container)
        self._changed()

    def _start_failed(self, action: PlannedAction, error: EngineError) -> None:
        self.count(action.verb, error)
        self.failures.failed(action, error, self._monotonic(), {})

    async def _execute(self, engine: EngineClient, action: PlannedAction) -> bool:
        """Execute one action, record its result, and return whether it succeeded.

        If this method is cancelled, an action that can need several requests still gets `_COMPLETION_GRACE` seconds
        to finish. Otherwise, an unfinished `REATTACH` would leave the container detached, an unfinished
        `RECREATE_VOLUME` would leave no volume, and a failed `CONNECT` would leave an endpoint that prevents Podman
        from listing containers.
        """
        attempt = self._execute_and_record(engine, action)
        return await (complete(attempt, _COMPLETION_GRACE) if can_need_several_requests(engine, action) else attempt)

    async def _execute_and_record(self, engine: EngineClient, action: PlannedAction) -> bool:
        """See `_execute`. Only this method writes to the engine."""
        if action.verb in (ActionKind.CONNECT, ActionKind.REATTACH):
            self._ownership.add(action.container_id, action.network)
        if action.verb in (ActionKind.DISCONNECT, ActionKind.REATTACH):
            self.seen.discard((action.container_id, action.network))
            self._registry.forget(action.container_id)
        extra = {"action": action.verb, "network": action.network, "container": action.container, "why": action.why}
        self.writes[action.verb] += 1
        if action.verb in REVIVALS:
            start = ContainerRevival(StartFailureCause(action.cause), action.backend)
            self._ownership.begin_start(action.container_id, start)
            if self._log_limiter.admit(self._monotonic()):
                log.info("docker start requested", extra=extra)
        try:
            await execute(engine, action)
        except asyncio.CancelledError:
            self._record(action, "unknown")  # the engine may have executed the action before the cancellation
            self._attempted(action, answered=False)
            raise
        except EngineError as error:
            self._record(action, "unknown" if error.kind in _UNCERTAIN else "error", error)
            if error.kind in _UNCERTAIN:
                self._detach_limiter.record(action.detaches, self._monotonic())
            self.count(action.verb, error)
            is_lost = error.kind in (EngineErrorKind.TIMEOUT, EngineErrorKind.UNREACHABLE) or error.message.endswith(
                CANCELED
            )
            self._attempted(action, answered=not is_lost)
            is_new = self.failures.failed(action, error, self._monotonic(), self._ownership.addresses)
            if is_new and self._log_limiter.admit(self._monotonic()):
                log.warning("docker action failed", extra={**extra, "reason": error.kind, "detail": str(error)})
            return False
        self._record(action, "ok")
        self._detach_limiter.record(action.detaches, self._monotonic())
        self.failures.succeeded(action)
        self._attempted(action, started=True)
        if self._log_limiter.admit(self._monotonic()):
            log.info("docker action completed", extra=extra)
        return True

    def _attempted(self, action: PlannedAction, *, started: bool = False, answered: bool = True) -> None:
        if action.verb not in REVIVALS:
            return
        if answered:
            self._ownership.end_starts({action.container_id})
        self.start_attempts.attempted(action, self._monotonic(), started=started, answered=answered)

    def _record(self, action: PlannedAction, result: str, error: EngineError | None = None) -> None:
        self._recorder.record(
            "docker",
            action=str(action.verb),
            object=action.subject,
            container=action.container or None,
            container_id=action.container_id or None,
            why=action.why,
            result=result,
            reason=str(error.kind) if error else None,
            detail=str(error)[:MAX_TEXT] if error else None,
        )

    def count(self, action: str, error: EngineError) -> None:
        """Count a failed action in the metrics, by the kind of the action and the kind of the error."""
        key = (str(action), str(error.kind))
        self.errors[key] = self.errors.get(key, 0) + 1
