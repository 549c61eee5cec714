"""Writes to an engine: in order, recorded, counted, and noted before they are made."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from gateway.audit_log.events import MAX_TEXT
from gateway.audit_log.recorder import Recorder
from gateway.docker.act import act
from gateway.docker.brake import Brake
from gateway.docker.consumers import Directory
from gateway.docker.engine import Engine
from gateway.docker.failures import FIRST, Failures
from gateway.docker.ledger import Ledger
from gateway.docker.news import News
from gateway.docker.plan import REVIVALS, Action, Verb
from gateway.docker.revivals import Revivals
from gateway.docker.trouble import EngineError, Kind
from gateway.measure import Tally

log = logging.getLogger(__name__)

_PARALLEL = 4
_THEN = (Verb.CONNECT, Verb.DISCONNECT, Verb.REATTACH, Verb.UPDATE_SERVICE)
_UNCERTAIN = (Kind.TIMEOUT, Kind.UNREACHABLE, Kind.FAILED)
"""Errors after which the engine may have done it or not."""


class Writer:
    """Does the actions of plans.

    Args:
        ledger: Where endpoints are noted before they are made.
        brake: What limits detaching.
        directory: The addresses of containers, which forgets those that are detached.
        news: What limits the log.
        recorder: Where each write is recorded.
        changed: Called after writes, so that their effect is looked at.
    """

    def __init__(
        self,
        ledger: Ledger,
        brake: Brake,
        directory: Directory,
        news: News,
        recorder: Recorder,
        changed: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._brake = brake
        self._directory = directory
        self._news = news
        self._recorder = recorder
        self._changed = changed
        self.failures = Failures()
        self.revivals = Revivals()
        self.writes: Tally = Tally()
        self.errors: dict[tuple[str, str], int] = {}
        self.been: set[tuple[str, str]] = set()
        """Endpoints of this gateway that were seen, and that it did not detach."""

    async def act_all(self, engine: Engine, planned: Sequence[Action], due: Sequence[Action]) -> list[Action]:
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
                if await self._act(engine, action):
                    done.append(action)

        # What is created comes before what needs it; the actions of one group run side by side.
        for verbs in (FIRST, _THEN, (Verb.REMOVE_NETWORK,), REVIVALS):
            # What could not be created is not joined, either.
            lacking = {
                action.network for action in planned if action.verb is Verb.CREATE_NETWORK and action in self.failures
            }
            jobs: list[Awaitable[None]] = [
                one(action)
                for action in due
                if action.verb in verbs and (action.verb in FIRST or action.network not in lacking)
            ]
            if jobs:
                await asyncio.gather(*jobs)
                self._changed()
        return done

    async def _act(self, engine: Engine, action: Action) -> bool:
        """Do one action, and return whether the engine did it. Every write to the engine passes here."""
        if action.verb in (Verb.CONNECT, Verb.REATTACH):
            self._ledger.add(action.container_id, action.network)
        if action.verb in (Verb.DISCONNECT, Verb.REATTACH):
            self.been.discard((action.container_id, action.network))
            self._directory.forget(action.container_id)
        extra = {"action": action.verb, "network": action.network, "container": action.container, "why": action.why}
        self.writes[action.verb] += 1
        try:
            await act(engine, action)
        except asyncio.CancelledError:
            self._record(action, "unknown")  # it may be done
            raise
        except EngineError as trouble:
            self._record(action, "unknown" if trouble.kind in _UNCERTAIN else "error", trouble)
            if trouble.kind in _UNCERTAIN:
                self._brake.took(action.detaches, time.monotonic())
            self.count(action.verb, trouble)
            if action.verb in REVIVALS:
                self.revivals.attempted(action.container_id, time.monotonic(), started=False)
            is_new = self.failures.failed(action, trouble, time.monotonic(), self._ledger.addresses)
            if is_new and self._news.admit(time.monotonic()):
                log.warning("docker refused", extra={**extra, "reason": trouble.kind, "detail": str(trouble)})
            return False
        self._record(action, "ok")
        self._brake.took(action.detaches, time.monotonic())
        self.failures.succeeded(action)
        if action.verb in REVIVALS:
            self.revivals.attempted(action.container_id, time.monotonic(), started=True)
        if self._news.admit(time.monotonic()):
            log.info("docker changed", extra=extra)
        return True

    def _record(self, action: Action, result: str, trouble: EngineError | None = None) -> None:
        self._recorder.record(
            "docker",
            action=str(action.verb),
            object=action.subject,
            container=action.container or None,
            container_id=action.container_id or None,
            why=action.why,
            result=result,
            reason=str(trouble.kind) if trouble else None,
            detail=str(trouble)[:MAX_TEXT] if trouble else None,
        )

    def count(self, action: str, trouble: EngineError) -> None:
        """Count an error."""
        key = (str(action), str(trouble.kind))
        self.errors[key] = self.errors.get(key, 0) + 1
