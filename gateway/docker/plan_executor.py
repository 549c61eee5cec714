"""Writes to an engine: in order, recorded, counted, and noted before they are made."""

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
"""Errors after which the engine may have done it or not."""


class PlanExecutor:
    """Does the actions of plans.

    Args:
        ownership: Where endpoints are noted before they are made.
        detach_limiter: What limits detaching.
        directory: The addresses of containers, which forgets those that are detached.
        log_limiter: What limits the log.
        recorder: Where each write is recorded.
        changed: Called after writes, so that their effect is looked at.
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
        """Endpoints of this gateway that were seen, and that it did not detach."""

    async def run(self, engine: Engine, planned: Sequence[Action], due: Sequence[Action]) -> list[Action]:
        """Do what is due, and return what was done.

        Args:
            engine: The engine.
            planned: All actions of the plan.
            due: Those that are to be done now.
        """
        gate = asyncio.Semaphore(_PARALLEL)
        done: list[Action] = []

        async def one(action: Action) -> None:
            async with gate:
                if await self._execute(engine, action):
                    done.append(action)

        # What is created comes before what needs it; the actions of one group run side by side.
        for verbs in (PREREQUISITES, _DEPENDENT, (Verb.REMOVE_NETWORK,)):
            # What could not be created is not joined, either.
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
        """Do one action, and return whether the engine did it. Every write to the engine passes here."""
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
            self._record(action, "unknown")  # it may be done
            raise
        except EngineError as error:
            self._record(action, "unknown" if error.kind in _UNCERTAIN else "error", error)
            if error.kind in _UNCERTAIN:
                self._detach_limiter.record(action.detaches, time.monotonic())
            self.count(action.verb, error)
            is_new = self.failures.failed(action, error, time.monotonic(), self._ownership.addresses)
            if is_new and self._log_limiter.admit(time.monotonic()):
                log.warning("docker refused", extra={**extra, "reason": error.kind, "detail": str(error)})
            return False
        self._record(action, "ok")
        self._detach_limiter.record(action.detaches, time.monotonic())
        self.failures.succeeded(action)
        if self._log_limiter.admit(time.monotonic()):
            log.info("docker changed", extra=extra)
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
