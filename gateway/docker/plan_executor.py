"""Executes plans: in order, with every write counted, in the audit log, and new endpoints in the ownership record."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from gateway.audit_log.events import MAX_TEXT
from gateway.audit_log.recorder import Recorder
from gateway.docker.consumers import ConsumerDirectory
from gateway.docker.detach_limiter import DetachLimiter
from gateway.docker.engine import Engine
from gateway.docker.errors import EngineError, ErrorKind
from gateway.docker.executor import execute
from gateway.docker.failures import PREREQUISITES, Failures
from gateway.docker.log_limiter import LogLimiter
from gateway.docker.ownership import OwnershipRecord
from gateway.docker.plan import Action, Verb
from gateway.measure import Tally

log = logging.getLogger(__name__)

_PARALLEL = 4
_VOLUMES = (Verb.CREATE_VOLUME, Verb.RECREATE_VOLUME)
_DEPENDENT = (Verb.CONNECT, Verb.DISCONNECT, Verb.REATTACH, Verb.UPDATE_SERVICE)
_UNCERTAIN = (ErrorKind.TIMEOUT, ErrorKind.UNREACHABLE, ErrorKind.FAILED)
"""Errors after which the engine may or may not have executed the action."""


class PlanExecutor:
    """Executes the actions of plans.

    Args:
        ownership: Records endpoints before they are created.
        detach_limiter: Counts detached endpoints.
        directory: The consumers, from which detached containers are removed.
        log_limiter: Limits the log.
        recorder: Records each write in the audit log.
        changed: Called after writes, to request a snapshot.
    """

    def __init__(
        self,
        ownership: OwnershipRecord,
        detach_limiter: DetachLimiter,
        directory: ConsumerDirectory,
        log_limiter: LogLimiter,
        recorder: Recorder,
        changed: Callable[[], None],
    ) -> None:
        self._ownership = ownership
        self._detach_limiter = detach_limiter
        self._directory = directory
        self._log_limiter = log_limiter
        self._recorder = recorder
        self._changed = changed
        self.failures = Failures()
        self.writes: Tally = Tally()
        self.errors: dict[tuple[str, str], int] = {}
        self.seen: set[tuple[str, str]] = set()
        """Endpoints of this gateway that a snapshot has contained, and that it did not detach."""

    async def run(self, engine: Engine, planned: Sequence[Action], due: Sequence[Action]) -> list[Action]:
        """Execute the actions that are due, and return those that succeeded.

        Args:
            engine: The engine.
            planned: All actions of the plan.
            due: The actions to execute now.
        """
        gate = asyncio.Semaphore(_PARALLEL)
        done: list[Action] = []

        async def one(action: Action) -> None:
            async with gate:
                if await self._execute(engine, action):
                    done.append(action)

        # Prerequisites come first; the actions of one group run concurrently.
        for verbs in (PREREQUISITES, _DEPENDENT, (Verb.REMOVE_NETWORK,)):
            # Do not attach to a network that could not be created.
            missing = {
                action.network for action in planned if action.verb is Verb.CREATE_NETWORK and action in self.failures
            }
            jobs: list[Awaitable[None]] = [
                one(action)
                for action in due
                if action.verb in verbs and (action.verb in PREREQUISITES or action.network not in missing)
            ]
            if jobs:
                await asyncio.gather(*jobs)
                self._changed()
        return done

    async def _execute(self, engine: Engine, action: Action) -> bool:
        """Execute one action, and return whether it succeeded. Every write to the engine passes through here."""
        if action.verb in (Verb.CONNECT, Verb.REATTACH):
            self._ownership.add(action.container_id, action.network)
        if action.verb in (Verb.DISCONNECT, Verb.REATTACH):
            self.seen.discard((action.container_id, action.network))
            self._directory.forget(action.container_id)
        extra = {"action": action.verb, "network": action.network, "container": action.container, "why": action.why}
        self.writes[action.verb] += 1
        try:
            await execute(engine, action)
        except asyncio.CancelledError:
            self._record(action, "unknown")  # the engine may have executed it
            raise
        except EngineError as error:
            self._record(action, "unknown" if error.kind in _UNCERTAIN else "error", error)
            if error.kind in _UNCERTAIN:
                self._detach_limiter.record(action.detaches, time.monotonic())
            self.count(action.verb, error)
            is_new = self.failures.failed(action, error, time.monotonic(), self._ownership.addresses)
            if is_new and self._log_limiter.admit(time.monotonic()):
                log.warning("docker action failed", extra={**extra, "reason": error.kind, "detail": str(error)})
            return False
        self._record(action, "ok")
        self._detach_limiter.record(action.detaches, time.monotonic())
        self.failures.succeeded(action)
        if self._log_limiter.admit(time.monotonic()):
            log.info("docker action completed", extra=extra)
        return True

    def _record(self, action: Action, result: str, error: EngineError | None = None) -> None:
        self._recorder.record(
            "docker",
            action=str(action.verb),
            object=" ".join(("volume" if action.verb in _VOLUMES else "network", action.network)),
            container=action.container or None,
            container_id=action.container_id or None,
            why=action.why,
            result=result,
            reason=str(error.kind) if error else None,
            detail=str(error)[:MAX_TEXT] if error else None,
        )

    def count(self, action: str, error: EngineError) -> None:
        """Count an error."""
        key = (str(action), str(error.kind))
        self.errors[key] = self.errors.get(key, 0) + 1
