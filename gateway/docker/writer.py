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
        started: Called with the ID of each container that was started or restarted, or that failed to.
    """

    def __init__(
        self,
        ledger: Ledger,
        brake: Brake,
        directory: Directory,
        news: News,
        recorder: Recorder,
        changed: Callable[[], None],
        started: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._brake = brake
        self._directory = directory
        self._news = news
        self._recorder = recorder
        self._changed = changed
        self._started = started
        self._starts: dict[str, asyncio.Task[bool]] = {}
        """The starts under way, by the container's ID: the engine answers after it has mounted the volumes."""
        self._start_gate = asyncio.Semaphore(_PARALLEL)
        self.failures = Failures()
        self.revivals = Revivals()
        self.writes: Tally = Tally()
        self.errors: dict[tuple[str, str], int] = {}
        self.been: set[tuple[str, str]] = set()
        """Endpoints of this gateway that were seen, and that it did not detach."""

    async def act_all(
        self, engine: Engine, planned: Sequence[Action], due: Sequence[Action], *, wait: bool
    ) -> list[Action]:
        """Do what is due, and return what was done.

        Args:
            engine: The engine.
            planned: All actions of the plan.
            due: Those that are to be done now.
            wait: Also wait for the starts of containers, which otherwise go on while other changes are made.
        """
        for key in [key for key, task in self._starts.items() if task.done()]:
            self._starts.pop(key).result()  # raises if there is an error in the code
        gate = asyncio.Semaphore(_PARALLEL)
        done: list[Action] = []

        async def one(action: Action) -> None:
            async with gate:
                if await self._act(engine, action):
                    done.append(action)

        # What is created comes before what needs it; the actions of one group run side by side.
        for verbs in (FIRST, _THEN, (Verb.REMOVE_NETWORK,)):
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
        begun = {action: self._begin(engine, action) for action in due if action.verb in REVIVALS}
        if wait and begun:
            await asyncio.gather(*begun.values())
            done += [action for action, task in begun.items() if task.result()]
        return done

    def is_starting(self, action: Action) -> bool:
        """Return whether the start of its container is under way."""
        task = self._starts.get(action.container_id) if action.verb in REVIVALS else None
        return task is not None and not task.done()

    async def end_starts(self) -> None:
        """Stop waiting for starts; the engine goes on with those that it has begun."""
        tasks = list(self._starts.values())
        self._starts = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, engine: Engine, action: Action) -> "asyncio.Task[bool]":
        async def start() -> bool:
            try:
                async with self._start_gate:
                    return await self._act(engine, action)
            finally:
                self._started(action.container_id)
                self._changed()

        task = self._starts[action.container_id] = asyncio.ensure_future(start())
        return task

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
                self.revivals.attempted(action, time.monotonic(), started=False)
            is_new = self.failures.failed(action, trouble, time.monotonic(), self._ledger.addresses)
            if is_new and self._news.admit(time.monotonic()):
                log.warning("docker refused", extra={**extra, "reason": trouble.kind, "detail": str(trouble)})
            return False
        self._record(action, "ok")
        self._brake.took(action.detaches, time.monotonic())
        self.failures.succeeded(action)
        if action.verb in REVIVALS:
            self.revivals.attempted(action, time.monotonic(), started=True)
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
