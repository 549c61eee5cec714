"""Changes an engine to match the configuration: makes and executes plans after engine events and at intervals."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gateway.audit_log.recorder import AuditLogRecorder
from gateway.backoff import Backoff, BackoffPolicy
from gateway.contracts.link import Link
from gateway.docker.action_schedule import ActionSchedule
from gateway.docker.consumer_identity_warnings import image_label_warnings, is_own_container, spoofing_warnings
from gateway.docker.consumer_registry import ConsumerRegistry, client_networks
from gateway.docker.container_signal_recorder import record_past_events
from gateway.docker.desired_state import DesiredState, marked_endpoints
from gateway.docker.engine_client import EngineClient
from gateway.docker.engine_connection import connected
from gateway.docker.engine_events import EngineEventHandler
from gateway.docker.engine_snapshot_collector import EngineSnapshotCollector
from gateway.docker.errors import EngineError
from gateway.docker.inspection_cache import RETRY
from gateway.docker.last_start_inspector import NEXT
from gateway.docker.network_disconnect_limiter import NetworkDisconnectLimiter
from gateway.docker.options import DockerOptions
from gateway.docker.ownership_record import OwnershipRecord
from gateway.docker.plan import Plan, PlannedAction
from gateway.docker.plan_executor import PlanExecutor
from gateway.docker.plan_log import log_changes
from gateway.docker.plan_log_limiter import PlanLogLimiter
from gateway.docker.planning import plan
from gateway.docker.planning.gateway_container import as_running_gateway, reserved_addresses
from gateway.docker.snapshot import EngineSnapshot
from gateway.docker.start_attempts import StartAttempts

log = logging.getLogger(__name__)

_MAX_CONNECTION_AGE = 600.0
_EVENT_OVERLAP = 5.0
"""Each stream of engine events starts this number of seconds in the past, so that no event between two streams is
lost."""
_JITTER = 0.1
_RECONNECT = BackoffPolicy(first=0.5, cap=10.0, floor=0.1)
_MAX_ROUNDS = 20
"""The maximum number of plans that `apply_once` executes. More plans are needed only if another program undoes the
changes."""


class Reconciler:
    """Changes one engine to match the configuration; implements `SupervisedComponent`.

    Args:
        options: The configuration.
        desired: Returns the desired state.
        link_of: Takes the name of a tunnel, and returns the tunnel's link; None while the tunnel is down.
        state_dir: The directory of the ownership record.
        recorder: Records each write to the engine in the audit log; None if writes are not recorded.
        start_attempts: The previous reconciler's attempts to start containers; None if this is the first reconciler.
        monotonic: Returns the monotonic time in seconds.
    """

    def __init__(
        self,
        options: DockerOptions,
        desired: Callable[[], DesiredState],
        link_of: Callable[[str], Link | None],
        state_dir: Path,
        recorder: AuditLogRecorder | None = None,
        start_attempts: StartAttempts | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._monotonic = monotonic
        self._wanted = desired
        self._link_of = link_of
        self._ownership = OwnershipRecord(state_dir)
        self._observer = EngineSnapshotCollector(
            options,
            known=lambda: {network for _, network in self._ownership.endpoints},
            volumes=lambda: bool(desired().volumes),
            consumers=lambda: frozenset(desired().by_label.values()),
            starting=lambda: self._executor.starter.requested,
        )
        self._detach_limiter = NetworkDisconnectLimiter(options.max_detaches, options.resync)
        self.registry = ConsumerRegistry(self.trigger)
        self.observed: EngineSnapshot | None = None
        self.plan = Plan()
        self.observed_at: float | None = None
        """The time of the last snapshot, in seconds since the epoch."""
        self.problem: str | None = None
        """Why the engine cannot be used; None if it can."""
        self._log_limiter = PlanLogLimiter()
        self._executor = PlanExecutor(
            self._ownership,
            self._detach_limiter,
            self.registry,
            self._log_limiter,
            recorder or AuditLogRecorder(),
            self.trigger,
            self._observer.inspections.forget_start,
            start_attempts or StartAttempts(),
            monotonic,
        )
        self._failures, self.start_attempts = self._executor.failures, self._executor.start_attempts
        self._schedule = ActionSchedule(self._executor.starter, self._failures, self.start_attempts)
        self._events = EngineEventHandler(
            self._observer.inspections, self.registry, self.start_attempts, self._executor.starter.requested
        )
        self.writes, self.errors = self._executor.writes, self._executor.errors
        self.settled = asyncio.Event()
        """An `asyncio.Event` that is set when the gateway's container is attached, or cannot be attached with any
        address. It is also set when the engine cannot be used, or when the reconciler stops."""

    def desired(self) -> DesiredState:
        """Return the desired state, with recorded data about addresses, starts, signals and network namespaces."""
        return replace(
            self._wanted(),
            claimed=self._ownership.addresses,
            refused=self._failures.refused,
            given_up=self.start_attempts.given_up,
            interrupted=self._ownership.starts,
            namespaces=self._ownership.namespaces,
            signals=self.start_attempts.signals,
            restarted=self.start_attempts.restarted | self._ownership.later_starts.items(),
        )

    def trigger(self) -> None:
        """Request a reconciliation. It starts after the debounce time."""
        self._events.changed.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Reconcile until cancelled."""
        try:
            await self._run(ready)
        finally:
            self.settled.set()
            await self._executor.starter.cancel()

    async def _run(self, ready: Callable[[], None]) -> None:
        backoff = Backoff(_RECONNECT)
        while True:
            started = self._monotonic()
            try:
                async with connected(self._options, self._link_of) as engine:
                    await self._reconcile_until_disconnected(engine, ready)
            except EngineError as error:
                self._executor.count("connect", error)
                if str(error) != self.problem:
                    log.warning("docker engine not usable", extra={"reason": error.kind, "detail": str(error)})
                self.problem = str(error)
                self.settled.set()
            backoff.succeeded(self._monotonic() - started)
            await asyncio.sleep(backoff.next())

    async def _reconcile_until_disconnected(self, engine: EngineClient, ready: Callable[[], None]) -> None:
        """Reconcile until the connection fails or reaches its maximum age."""
        self._observer.inspections.expire_starts()
        engine_time, self._schedule.signals_since = await record_past_events(
            engine, self.start_attempts, self._executor.starter.requested, self._options.timeout
        )
        watching = asyncio.ensure_future(self._events.watch(engine, engine_time - _EVENT_OVERLAP))
        recycle_at = self._monotonic() + _MAX_CONNECTION_AGE * random.uniform(1 - _JITTER, 1)  # noqa: S311 - jitter
        try:
            while self._monotonic() < recycle_at:
                if watching.done():
                    watching.result()
                    return
                self._events.changed.clear()
                wake, _ = await self.reconcile(engine)
                ready()
                resync = self._options.resync * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - jitter
                await self._events.wait(min(resync, wake), watching)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def dry_run(self, engine: EngineClient) -> Plan:
        """Return the plan without executing it.

        Raises:
            EngineError: A request failed.
        """
        desired = self.desired()
        observed = as_running_gateway(desired, await self._observer.snapshot(engine))
        ours = (
            frozenset(marked_endpoints(desired, observed)) if self._ownership.adopting else self._ownership.endpoints
        )
        planned = plan(desired, observed, ours)
        return planned.without(self._detach_limiter.admit(planned.actions, self._monotonic())[1])

    async def apply_once(self, engine: EngineClient) -> tuple[Plan, list[str]]:
        """Reconcile until nothing changes, but at most `_MAX_ROUNDS` times.

        Return the last plan, and a line for each failure. In this plan, `actions` contains each action that succeeded
        in any of the rounds, instead of the planned actions.

        Raises:
            EngineError: A request failed.
        """
        done: list[PlannedAction] = []
        for _ in range(_MAX_ROUNDS):
            before = sum(self.writes.values())
            _, made = await self.reconcile(engine, once=True)
            done += made
            if sum(self.writes.values()) == before:
                break
        return replace(self.plan, actions=tuple(done)), self._failures.lines()

    async def reconcile(self, engine: EngineClient, *, once: bool = False) -> tuple[float, list[PlannedAction]]:
        """Take a snapshot, make a plan, and execute the planned actions that are due.

        Return the seconds until the next reconciliation, and the actions that succeeded.

        Args:
            engine: The engine.
            once: Whether a command such as `gateway apply` calls this method. If so, the method uses the running
                gateway's container as the gateway's own container, and waits until the containers that it starts have
                started.

        Raises:
            EngineError: A request for the snapshot failed; nothing was executed.
        """
        began = self._monotonic()
        observed, desired = await self._observer.snapshot(engine), self.desired()
        if once:
            observed = as_running_gateway(desired, observed)
        sources = client_networks(observed, self._options)
        self.registry.update(observed.containers, began, sources, self._options.grants, strict=desired.strict)
        if self._ownership.adopting:
            self._ownership.adopt(marked_endpoints(desired, observed))
        there = {each.id for each in observed.containers}
        seen = self._executor.seen | (marked_endpoints(desired, observed) & self._ownership.endpoints)
        self._executor.seen = {key for key in seen if key[0] in there}
        planned = plan(desired, observed, self._ownership.endpoints, frozenset(self._executor.seen))
        if self.problem is not None:
            log.info("docker engine usable again")
        self.observed, self.observed_at, self.problem = observed, time.time(), None
        now = self._monotonic()
        self.start_attempts.observed(planned.unavailable, now, observed.engine_time)
        self.start_attempts.retain(there)
        self._ownership.record_namespaces(planned.namespaces)
        self._ownership.record_later_starts(planned.later_starts)
        self._ownership.end_starts(self._schedule.completed_starts(self._ownership.starts, observed, now))
        locked = {each.id for each in observed.containers if each.is_locked}
        possible = [each for each in planned.actions if each.container_id not in locked]
        due_for_retry = [each for each in possible if self._schedule.not_before(each) <= now]
        # Pass only actions that are due now, so that `max_detaches` does not count actions that wait for a retry.
        due, held = self._detach_limiter.admit(due_for_retry, now)
        log_changes(planned, self._log_limiter, now)
        self.plan = self._with_failures(planned.without(held))
        self._ownership.record_addresses(reserved_addresses(desired, observed))
        done = await self._executor.run(engine, planned.actions, due, wait=once)
        undone = [each for each in planned.actions if each.container_id == observed.own and each not in done]
        if all(map(self._failures.fails_with_any_address, undone)):
            self.settled.set()
        if not due:
            self._ownership.retain({container.id for container in observed.containers})
        self._failures.retain(planned.actions)
        waits = self._schedule.waits(possible, now)
        if held:
            waits.append(self._detach_limiter.wait_time(now))
        if len(possible) < len(planned.actions):
            waits.append(RETRY)
        if not observed.starts_known:
            waits.append(NEXT)
        return max(0.05, min(waits, default=self._options.resync)), done

    async def exposures(self, engine: EngineClient) -> tuple[list[str], frozenset[str]]:
        """Return findings for `gateway audit`, and the IDs of the gateway's containers.

        The findings are about unavailable containers, containers that can spoof an address, and labels that the
        gateway ignores because they come from an image.

        Raises:
            EngineError: A request failed.
        """
        desired, observed = self.desired(), await self._observer.snapshot(engine)
        own = frozenset(each.id for each in observed.containers if is_own_container(desired, observed, each))
        planned = plan(desired, observed, self._ownership.endpoints)
        unavailable = [f"container {each.container}: {each}" for each in planned.unavailable]
        return [*unavailable, *image_label_warnings(desired, observed), *spoofing_warnings(desired, observed)], own

    def _with_failures(self, planned: Plan) -> Plan:
        """Return a copy of the plan that also contains the errors of failed attachments.

        If the file of the ownership record cannot be read or written, the copy also contains a warning.
        """
        attachments = tuple(self._failures.with_failure(each, self._options.networks) for each in planned.attachments)
        warnings = planned.warnings + self._ownership.problems
        return replace(planned, attachments=attachments, warnings=warnings)
