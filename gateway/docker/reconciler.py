"""Keeps an engine as configured: looks on events and at intervals, plans, and acts."""

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gateway.audit_log.recorder import Recorder
from gateway.contracts import Link
from gateway.docker.brake import Brake
from gateway.docker.consumers import Directory, networks_of_sources
from gateway.docker.engine import Engine, connected
from gateway.docker.exposure import image_labels, spoofing
from gateway.docker.ledger import Ledger
from gateway.docker.model import Observed
from gateway.docker.news import News
from gateway.docker.observe import Observer
from gateway.docker.options import DockerOptions
from gateway.docker.plan import REVIVALS, Action, Desired, Plan, Standing, marked
from gateway.docker.planning import plan
from gateway.docker.planning.own import as_running_gateway, lasting_addresses
from gateway.docker.trouble import EngineError
from gateway.docker.writer import Writer
from gateway.supervision.backoff import Backoff, BackoffPolicy

log = logging.getLogger(__name__)

_DEBOUNCE, _AT_LATEST = 0.2, 2.0
_RECYCLE = 600.0
_BEFORE = 5.0
"""Seconds that an event stream reaches back, so that no event is missed between two streams."""
_JITTER = 0.1
_RECONNECT = BackoffPolicy(first=0.5, cap=10.0, floor=0.1)
_ROUNDS = 20
"""Rounds of looking and acting, after which another program must be undoing the changes."""
_ENDS = ("die", "destroy", "stop", "kill", "remove")
_NOISE = ("exec_", "health_status", "top", "attach", "resize", "export", "archive-path", "extract-to-dir")
"""Events of containers that do not matter, some of them many times a minute."""


class Reconciler:
    """Reconciles one engine; a `gateway.contracts.Unit`.

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
        self.directory = Directory(self.hurry)
        self.observed: Observed | None = None
        self.plan = Plan()
        self.looked_at: float | None = None
        """When the engine was last seen, in seconds since the epoch."""
        self.trouble: str | None = None
        """Why the engine cannot be used now."""
        self._news = News()
        self._writer = Writer(
            self._ledger, self._brake, self.directory, self._news, recorder or Recorder(), self.hurry,
            self._observer.forget_start,
        )  # fmt: skip
        self._failures, self.revivals = self._writer.failures, self._writer.revivals
        self.writes, self.errors = self._writer.writes, self._writer.errors
        self.settled = asyncio.Event()
        """Set once the gateway's own container is attached, or cannot be for now."""

    def desired(self) -> Desired:
        """Return what is wanted now."""
        return replace(
            self._wanted(),
            claimed=self._ledger.addresses,
            refused=self._failures.refused,
            given_up=self.revivals.given_up,
        )

    def hurry(self) -> None:
        """Look soon."""
        self._dirty.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Reconcile until cancelled."""
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
                self._writer.count("connect", trouble)
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
            await self._writer.end_starts()

    async def _watch(self, engine: Engine, since: float) -> None:
        async for event in engine.events(since, ("container", "network", "service", "volume")):
            action = str(event.get("Action", ""))
            if event.get("Type") == "container":
                if action.startswith(_NOISE):
                    continue
                if action == "start":
                    self._observer.forget_start(str(event.get("Actor", {}).get("ID", "")))
                if action in _ENDS:
                    self.directory.forget(str(event.get("Actor", {}).get("ID", "")))
            elif action == "disconnect":
                self.directory.forget(engine.flavour.left(event))
            self._dirty.set()

    async def _pause(self, wake: float, watching: "asyncio.Task[None]") -> None:
        """Wait until an event and a pause after it, or until `wake` or `resync` seconds have passed."""
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
        """Return the plan, and do nothing.

        Raises:
            EngineError: The engine did not answer all of it.
        """
        desired = self.desired()
        observed = as_running_gateway(desired, await self._observer.look(engine))
        ours = frozenset(marked(desired, observed)) if self._ledger.adopting else self._ledger.endpoints
        planned = plan(desired, observed, ours)
        return _without(planned, self._brake.admit(planned.actions, time.monotonic())[1])

    async def settle(self, engine: Engine) -> tuple[Plan, list[str]]:
        """Do everything once, and return what was done, with the states, and what was refused.

        Raises:
            EngineError: The engine did not answer.
        """
        done: list[Action] = []
        for _ in range(_ROUNDS):
            before = sum(self.writes.values())
            _, made = await self.cycle(engine, once=True)
            done += made
            if sum(self.writes.values()) == before:
                break
        return replace(self.plan, actions=tuple(done)), self._failures.lines()

    async def cycle(self, engine: Engine, *, once: bool = False) -> tuple[float, list[Action]]:
        """Look, plan, and act once; return the seconds until the next action may be tried, and what was done.

        Args:
            engine: The engine.
            once: Whether a command does this for a gateway that may run in another container.

        Raises:
            EngineError: The engine did not answer all of it: nothing was done.
        """
        began = time.monotonic()
        observed, desired = await self._observer.look(engine), self.desired()
        if once:
            observed = as_running_gateway(desired, observed)
        sources = networks_of_sources(observed, self._options)
        self.directory.renew(observed.containers, began, sources, self._options.grants, strict=desired.strict)
        if self._ledger.adopting:
            self._ledger.adopt(marked(desired, observed))
        there = {each.id for each in observed.containers}
        been = self._writer.been | (marked(desired, observed) & self._ledger.endpoints)
        self._writer.been = {key for key in been if key[0] in there}
        planned = plan(desired, observed, self._ledger.endpoints, frozenset(self._writer.been))
        if self.trouble is not None:
            log.info("docker is available again")
        self.observed, self.looked_at, self.trouble = observed, time.time(), None
        now = time.monotonic()
        # Only actions that are due count against the brake.
        self.revivals.saw(planned.dead, now)
        ripe = [each for each in planned.actions if self._not_before(each) <= now]
        due, held = self._brake.admit(ripe, now)
        self._log_news(planned, now)
        self.plan = self._with_failures(_without(planned, held))
        self._ledger.note_addresses(lasting_addresses(desired, observed))
        done = await self._writer.act_all(engine, planned.actions, due, wait=once)
        undone = [each for each in planned.actions if each.container_id == observed.own and each not in done]
        if all(map(self._failures.is_final, undone)):
            self.settled.set()
        if not due:
            self._ledger.keep({container.id for container in observed.containers})
        self._failures.keep(planned.actions)
        waits = [at - now for each in planned.actions if 0 < (at := self._not_before(each)) < math.inf]
        if held:
            waits.append(self._brake.wait(now))
        return max(0.05, min(waits, default=self._options.resync)), done

    def _not_before(self, action: Action) -> float:
        """Return when an action may be tried, as a monotonic time; 0: not tried yet; `inf`: under way."""
        if self._writer.is_starting(action):
            return math.inf
        again = self.revivals.not_before(action.container_id) if action.verb in REVIVALS else 0.0
        return max(again, self._failures.not_before(action))

    def _log_news(self, planned: Plan, now: float) -> None:
        """Log the warnings and refusals that are new."""
        refused = [
            (each.network, each.container, str(each.reason), each.message)
            for each in planned.conditions
            if each.state is Standing.BLOCKED
        ]
        dead = [(each.container, str(each.cause), each.detail, each.message, each.command) for each in planned.dead]
        fresh = set(self._news.fresh(dead, now))
        for container, cause, detail, why, command in filter(fresh.__contains__, dead):
            extra = {"container": container, "cause": cause, "detail": detail, "why": why, "command": command}
            log.warning("docker: a container does not run", extra=extra)
        if count := self._news.left_out(now):
            log.info("docker: log lines were left out", extra={"count": count})
        for each in self._news.fresh((*planned.warnings, *refused), now):
            if isinstance(each, tuple):
                extra = dict(zip(("network", "container", "reason", "detail"), each, strict=True))
                log.info("docker: an attachment is refused", extra=extra)
            elif each in planned.mistakes:
                log.info("docker: a label is wrong", extra={"detail": each})
            else:
                log.warning("docker: attention needed", extra={"detail": each})

    async def exposures(self, engine: Engine) -> list[str]:
        """Return a line for each container that can spoof an address, that is dead, or whose image has labels.

        Raises:
            EngineError: The engine did not answer all of it.
        """
        desired, observed = self.desired(), await self._observer.look(engine)
        planned = plan(desired, observed, self._ledger.endpoints)
        dead = [f"container {each.container}: {each}" for each in planned.dead]
        return [*dead, *image_labels(desired, observed), *spoofing(desired, observed)]

    def _with_failures(self, planned: Plan) -> Plan:
        """Return the plan, with the reasons why its actions failed so far."""
        conditions = tuple(self._failures.explained(each, self._options.networks) for each in planned.conditions)
        warnings = planned.warnings
        if self._ledger.problem:
            consequence = "nothing that an earlier process attached is detached"
            warnings += (f"the ownership record cannot be used, and {consequence}: {self._ledger.problem}",)
        return replace(planned, conditions=conditions, warnings=warnings)


def _without(planned: Plan, held: list[Action]) -> Plan:
    """Return the plan, where held actions count as postponed."""
    actions = tuple(action for action in planned.actions if action not in held)
    return replace(planned, actions=actions, postponed=sum(action.detaches for action in held))
