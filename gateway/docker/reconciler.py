"""Keeps an engine as it should be: looks when something happens, and from time to time, plans, and acts."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gateway.audit_log.events import MAX_TEXT
from gateway.audit_log.recorder import Recorder
from gateway.contracts import Link
from gateway.docker.act import act
from gateway.docker.brake import Brake
from gateway.docker.consumers import Directory, networks_of_sources
from gateway.docker.engine import Engine, connected
from gateway.docker.exposure import image_labels, spoofing
from gateway.docker.ledger import Ledger
from gateway.docker.model import Observed
from gateway.docker.news import News
from gateway.docker.observe import Observer
from gateway.docker.options import DockerOptions
from gateway.docker.plan import Action, Condition, Desired, Plan, Standing, Verb, marked
from gateway.docker.planning import plan
from gateway.docker.planning.own import lasting_addresses
from gateway.docker.trouble import Blocked, EngineError, Kind
from gateway.measure import Tally
from gateway.supervision.backoff import Backoff, BackoffPolicy

log = logging.getLogger(__name__)

_DEBOUNCE, _AT_LATEST = 0.2, 2.0
_RECYCLE = 600.0
_PATIENCE = 3
"""Attempts at an address that was ours: a swarm's manager that does not answer must not change it."""
_BEFORE = 5.0
"""Seconds that an event stream reaches back, so that none falls between two of them."""
_PARALLEL = 4
_JITTER = 0.1
_PER_OBJECT = BackoffPolicy(first=0.2, cap=60.0, floor=0.1)
_RECONNECT = BackoffPolicy(first=0.5, cap=10.0, floor=0.1)
_ROUNDS = 20
"""Of looking and acting, after which somebody else must be undoing what is done."""
_VOLUMES = (Verb.CREATE_VOLUME, Verb.RECREATE_VOLUME)
_FIRST = (Verb.CREATE_NETWORK, Verb.CREATE_VOLUME, Verb.RECREATE_VOLUME)
_THEN = (Verb.CONNECT, Verb.DISCONNECT, Verb.REATTACH, Verb.UPDATE_SERVICE)
_UNCERTAIN = (Kind.TIMEOUT, Kind.UNREACHABLE, Kind.FAILED)
"""Troubles after which it may be done or not."""
_ENDS = ("die", "destroy", "stop", "kill", "remove")
_NOISE = ("exec_", "health_status", "top", "attach", "resize", "export", "archive-path", "extract-to-dir")
"""Events of containers that change nothing here, some of them many times a minute."""


class Reconciler:
    """One engine's; a `gateway.contracts.Unit`.

    Args:
        options: What is configured.
        desired: Gives what is wanted now.
        link_of: Gives a tunnel's link, for an engine behind one.
        state_dir: Where the ledger goes.
        recorder: Where each write to the engine is recorded; None: nowhere.
    """

    def __init__(
        self,
        options: DockerOptions,
        desired: Callable[[], Desired],
        link_of: Callable[[str], Link | None],
        state_dir: Path,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder or Recorder()
        self._options = options
        self._wanted = desired
        self._link_of = link_of
        self._ledger = Ledger(state_dir)
        self._observer = Observer(
            options,
            known=lambda: {network for _, network in self._ledger.endpoints},
            volumes=lambda: bool(desired().volumes),
            consumers=lambda: frozenset(desired().by_label.values()),
        )
        self._dirty = asyncio.Event()
        self._brake = Brake(options.max_detaches, options.resync)
        self._backoffs: dict[tuple[str, str], tuple[Backoff, float, EngineError]] = {}
        self.directory = Directory(self.hurry)
        self.observed: Observed | None = None
        self.plan = Plan()
        self.looked_at: float | None = None
        """When the engine was last seen, in seconds since the epoch."""
        self.trouble: str | None = None
        """Why the engine cannot be used now."""
        self.writes: Tally = Tally()
        self.errors: dict[tuple[str, str], int] = {}
        self._news = News()
        self._been: set[tuple[str, str]] = set()
        """Endpoints of ours that were seen, and that we did not take off."""
        self._refused: dict[str, frozenset[str]] = {}
        """Addresses that the engine did not give us, by network."""
        self._doubts: dict[tuple[str, tuple[str, ...]], int] = {}
        """How often these were not got, by network and addresses."""
        self.settled = asyncio.Event()
        """Set once the gateway's own container is attached, or cannot be for now."""

    def desired(self) -> Desired:
        """Return what is wanted now."""
        return replace(self._wanted(), claimed=self._ledger.addresses, refused=self._refused)

    def hurry(self) -> None:
        """Look soon."""
        self._dirty.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep it until cancelled."""
        try:
            await self._run(ready)
        finally:
            self.settled.set()

    async def _run(self, ready: Callable[[], None]) -> None:
        backoff = Backoff(_RECONNECT)
        while True:
            started = time.monotonic()
            try:
                async with connected(self._options, self._link_of) as engine:
                    await self._keep(engine, ready)
            except EngineError as trouble:
                self._count("connect", trouble)
                if str(trouble) != self.trouble:
                    log.warning("docker cannot be used", extra={"reason": trouble.kind, "detail": str(trouble)})
                self.trouble = str(trouble)
                self.settled.set()
            backoff.succeeded(time.monotonic() - started)
            await asyncio.sleep(backoff.next())

    async def _keep(self, engine: Engine, ready: Callable[[], None]) -> None:
        """Look, plan and act until the connection fails or is to be recycled."""
        watching = asyncio.ensure_future(self._watch(engine, time.time() - _BEFORE))
        recycle_at = time.monotonic() + _RECYCLE * random.uniform(1 - _JITTER, 1)  # noqa: S311 - jitter
        try:
            while time.monotonic() < recycle_at:
                if watching.done():
                    watching.result()
                    return
                self._dirty.clear()
                wake, _ = await self.cycle(engine)
                ready()
                await self._pause(wake, watching)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, engine: Engine, since: float) -> None:
        async for event in engine.events(since, ("container", "network", "service", "volume")):
            action = str(event.get("Action", ""))
            if event.get("Type") == "container":
                if action.startswith(_NOISE):
                    continue
                if action in _ENDS:
                    self.directory.forget(str(event.get("Actor", {}).get("ID", "")))
            elif action == "disconnect":
                self.directory.forget(engine.flavour.left(event))
            self._dirty.set()

    async def _pause(self, wake: float, watching: "asyncio.Task[None]") -> None:
        """Until something happens, and is over, or until it is time."""
        resync = self._options.resync * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - jitter
        dirty = asyncio.ensure_future(self._dirty.wait())
        try:
            await asyncio.wait({dirty, watching}, timeout=min(resync, wake), return_when=asyncio.FIRST_COMPLETED)
        finally:
            dirty.cancel()
        latest = time.monotonic() + _AT_LATEST
        while self._dirty.is_set() and time.monotonic() < latest:
            self._dirty.clear()
            await asyncio.sleep(_DEBOUNCE)

    async def consider(self, engine: Engine) -> Plan:
        """What would be done; does nothing.

        Raises:
            EngineError: The engine did not answer all of it.
        """
        observed = await self._observer.look(engine)
        desired = self.desired()
        ours = frozenset(marked(desired, observed)) if self._ledger.adopting else self._ledger.endpoints
        planned = plan(desired, observed, ours)
        return _without(planned, self._brake.admit(planned.actions, time.monotonic())[1])

    async def settle(self, engine: Engine) -> tuple[Plan, list[str]]:
        """Do all there is to do, once; gives what was done, how it stands, and what was refused.

        Raises:
            EngineError: The engine did not answer.
        """
        done: list[Action] = []
        for _ in range(_ROUNDS):
            before = sum(self.writes.values())
            _, made = await self.cycle(engine)
            done += made
            if sum(self.writes.values()) == before:
                break
        refused = [f"{'/'.join(filter(None, key))}: {trouble}" for key, (_, _, trouble) in self._backoffs.items()]
        return replace(self.plan, actions=tuple(done)), refused

    async def cycle(self, engine: Engine) -> tuple[float, list[Action]]:
        """Look, plan, and act once; gives the seconds until the next action may be tried, and what was done.

        Raises:
            EngineError: The engine did not answer all of it: nothing was done.
        """
        began = time.monotonic()
        observed = await self._observer.look(engine)
        desired = self.desired()
        sources = networks_of_sources(observed, self._options)
        self.directory.renew(observed.containers, began, sources, self._options.grants, strict=desired.strict)
        if self._ledger.adopting:
            self._ledger.adopt(marked(desired, observed))
        there = {each.id for each in observed.containers}
        self._been |= marked(desired, observed) & self._ledger.endpoints
        self._been = {key for key in self._been if key[0] in there}
        planned = plan(desired, observed, self._ledger.endpoints, frozenset(self._been))
        if self.trouble is not None:
            log.info("docker is back")
        self.observed, self.looked_at, self.trouble = observed, time.time(), None
        now = time.monotonic()
        # Only what would be done now takes of what the brake has left.
        due, held = self._brake.admit([each for each in planned.actions if self._not_before(each) <= now], now)
        self._log_news(planned, now)
        self.plan = self._with_failures(_without(planned, held))
        self._ledger.note_addresses(lasting_addresses(desired, observed))
        done = await self._act_all(engine, planned.actions, due)
        undone = [each for each in planned.actions if each.container_id == observed.own and each not in done]
        if all(self._is_refused(each) for each in undone):
            self.settled.set()
        if not due:
            self._ledger.keep({container.id for container in observed.containers})
        self._forget_failures(planned)
        waits = [at - now for _, at, _ in self._backoffs.values()]
        if held:
            waits.append(self._brake.wait(now))
        return max(0.05, min(waits, default=self._options.resync)), done

    def _log_news(self, planned: Plan, now: float) -> None:
        """Log the warnings and refusals that are new."""
        refused = [
            (each.network, each.container, str(each.reason), each.message)
            for each in planned.conditions
            if each.state is Standing.BLOCKED
        ]
        if count := self._news.left_out(now):
            log.info("docker: changes are missing in this log", extra={"count": count})
        for each in self._news.fresh((*planned.warnings, *refused), now):
            if isinstance(each, tuple):
                extra = dict(zip(("network", "container", "reason", "detail"), each, strict=True))
                log.info("docker: an attachment is refused", extra=extra)
            elif each in planned.mistakes:
                log.info("docker: a label is wrong", extra={"detail": each})
            else:
                log.warning("docker: what is asked for is not done", extra={"detail": each})

    async def exposures(self, engine: Engine) -> list[str]:
        """Containers that can spoof an address, and labels that come from images, a line each.

        Raises:
            EngineError: The engine did not answer all of it.
        """
        desired, observed = self.desired(), await self._observer.look(engine)
        return [*image_labels(desired, observed), *spoofing(desired, observed)]

    async def _act_all(self, engine: Engine, planned: Sequence[Action], due: Sequence[Action]) -> list[Action]:
        """Do what is due of what is planned; gives what was done."""
        gate = asyncio.Semaphore(_PARALLEL)
        done: list[Action] = []

        async def one(action: Action) -> None:
            async with gate:
                if await self._act(engine, action):
                    done.append(action)

        # What is made comes before what needs it; each sort on its own, side by side.
        for verbs in (_FIRST, _THEN, (Verb.REMOVE_NETWORK,)):
            # What could not be made is not joined, either.
            lacking = {
                action.network
                for action in planned
                if action.verb is Verb.CREATE_NETWORK and action.key in self._backoffs
            }
            jobs: list[Awaitable[None]] = [
                one(action)
                for action in due
                if action.verb in verbs and (action.verb in _FIRST or action.network not in lacking)
            ]
            if jobs:
                await asyncio.gather(*jobs)
                self._dirty.set()  # to see what came of it
        return done

    async def _act(self, engine: Engine, action: Action) -> bool:
        """Do it; gives whether the engine did. Every write to the engine passes here."""
        if action.verb in (Verb.CONNECT, Verb.REATTACH):
            self._ledger.add(action.container_id, action.network)
        if action.verb in (Verb.DISCONNECT, Verb.REATTACH):
            self._been.discard((action.container_id, action.network))
            self.directory.forget(action.container_id)
        told = {"action": action.verb, "network": action.network, "container": action.container, "why": action.why}
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
            self._count(action.verb, trouble)
            if action.addresses and trouble.may_be_address:
                self._doubt(action, certain=trouble.blocked is Blocked.ADDRESS_REFUSED)
            backoff = self._backoffs[action.key][0] if action.key in self._backoffs else Backoff(_PER_OBJECT)
            is_new = action.key not in self._backoffs or str(trouble) != str(self._backoffs[action.key][2])
            if is_new and self._news.admit(time.monotonic()):
                log.warning("docker refused", extra={**told, "reason": trouble.kind, "detail": str(trouble)})
            self._backoffs[action.key] = (backoff, time.monotonic() + backoff.next(), trouble)
            return False
        self._record(action, "ok")
        self._brake.took(action.detaches, time.monotonic())
        self._backoffs.pop(action.key, None)
        if action.verb in _FIRST:  # what waited for it may be tried at once
            self._backoffs = {key: each for key, each in self._backoffs.items() if key[0] != action.key[0]}
        if self._news.admit(time.monotonic()):
            log.info("docker changed", extra=told)
        return True

    def _doubt(self, action: Action, *, certain: bool) -> None:
        """Ask for another address next time; for one that was ours, only when it was not got several times."""
        wanted = (action.network, action.addresses)
        self._doubts[wanted] = self._doubts.get(wanted, 0) + 1
        was_ours = action.addresses == self._ledger.addresses.get(action.network)
        if certain or self._doubts[wanted] >= (_PATIENCE if was_ours else 1):
            before = self._refused.get(action.network, frozenset())
            self._refused[action.network] = before | set(action.addresses)

    def _record(self, action: Action, result: str, trouble: EngineError | None = None) -> None:
        self._recorder.record(
            "docker",
            action=str(action.verb),
            object=" ".join(("volume" if action.verb in _VOLUMES else "network", action.network)),
            container=action.container or None,
            container_id=action.container_id or None,
            why=action.why,
            result=result,
            reason=str(trouble.kind) if trouble else None,
            detail=str(trouble)[:MAX_TEXT] if trouble else None,
        )

    def _count(self, action: str, trouble: EngineError) -> None:
        key = (str(action), str(trouble.kind))
        self.errors[key] = self.errors.get(key, 0) + 1

    def _not_before(self, action: Action) -> float:
        return self._backoffs[action.key][1] if action.key in self._backoffs else 0.0

    def _is_refused(self, action: Action) -> bool:
        """Whether it failed, and not for an address in whose place another one is tried."""
        failure = self._backoffs.get(action.key) or self._backoffs.get((action.network, ""))
        return failure is not None and failure[2].blocked is not Blocked.ADDRESS_REFUSED

    def _forget_failures(self, planned: Plan) -> None:
        """What is not to be done any more need not be tried again."""
        keys = {action.key for action in planned.actions}
        self._backoffs = {key: failure for key, failure in self._backoffs.items() if key in keys}

    def _with_failures(self, planned: Plan) -> Plan:
        """The plan, whose conditions also tell why what is to be done has failed so far."""
        conditions = tuple(self._with_failure(each) for each in planned.conditions)
        warnings = planned.warnings
        if self._ledger.problem:
            warnings += (
                f"the ledger cannot be used, and nothing of before is ever detached: {self._ledger.problem}",
            )
        return replace(planned, conditions=conditions, warnings=warnings)

    def _with_failure(self, condition: Condition) -> Condition:
        key = (condition.network, condition.container_id)
        failure = self._backoffs.get(key) or self._backoffs.get((condition.network, ""))
        if condition.state is not Standing.PENDING or failure is None:
            return condition
        trouble = failure[2]
        if trouble.blocked is Blocked.ADDRESS_REFUSED:
            told = f"{trouble.message}: free the address, or set another docker.networks.{condition.network}.address"
            return replace(condition, state=Standing.BLOCKED, reason=trouble.blocked, message=told)
        return replace(condition, state=Standing.BLOCKED, reason=trouble.blocked, message=trouble.message)


def _without(planned: Plan, held: list[Action]) -> Plan:
    """The plan, where what is held is told as postponed."""
    actions = tuple(action for action in planned.actions if action not in held)
    return replace(planned, actions=actions, postponed=sum(action.detaches for action in held))
