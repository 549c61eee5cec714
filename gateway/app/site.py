"""The running tunnels, forwards and checks of one configuration, and how another configuration is applied to them."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

from gateway.app.config_diff import ConfigDiff, diff_configs
from gateway.app.running_backend import RunningBackend
from gateway.app.traffic_class import Lane, backend_lane, outer_lane, required_lanes
from gateway.app.units import Units
from gateway.app.worker.messages import Command
from gateway.app.worker.owner import Workers
from gateway.app.worker.remote import RemoteForward
from gateway.app.worker.unit import WorkerUnit
from gateway.audit_log.recorder import Recorder
from gateway.config import BackendSpec, Config, TunnelSpec
from gateway.contracts import Backend, Endpoint, TunnelState
from gateway.forwarding.admission import Admission, Identity, SocketConsumer, SocketRule
from gateway.forwarding.dialer import Route
from gateway.forwarding.forward import Forward
from gateway.forwarding.handshake_budget import HandshakeBudget
from gateway.forwarding.listener import ListenAddress, Listener
from gateway.health.monitor import Check, Schedule
from gateway.relay.direct import DirectTunnel
from gateway.ssh.handshake_limiter import PER_SERVER, handshake_limiter
from gateway.supervision.supervisor import Supervisor
from gateway.supervision.uplink import Uplink

_FIRST_RESULT_POLL = 0.5
_DEFAULT_CONSUMER_SHARE = 0.8
"""Share of a backend's connections that one consumer may use if `max_connections_per_consumer` is absent."""


class Checker(Protocol):
    """Checks the targets for a process that does not check them itself."""

    def targets(self, backend: str, configured: tuple[Endpoint, ...]) -> list[Endpoint]:
        """Return the targets to try for a new client, best first."""

    def on_failure(self, backend: str, target: Endpoint, *, stalled: bool = False) -> None:
        """Handle a failure of real traffic to `target`, or (`stalled`) a response that takes too long."""


class Site:
    """The running tunnels, forwards and checks.

    Args:
        supervisor: Runs the units.
        group: Owns the tasks that wait for something to drain.
        config: The configuration that will be applied first.
        identity: Maps source addresses to consumers; None: consumers are not known.
        checker: Checks the targets; None: this process does, and may have workers.
        recorder: Records the ends of clients; None: they are not recorded.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        group: asyncio.TaskGroup,
        config: Config,
        identity: Identity | None = None,
        checker: Checker | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder or Recorder()
        self._identity = identity
        self._knows_containers = False
        self.config = self._new_config = replace(config, tunnels={}, backends={})
        self.uplinks: dict[Lane, Uplink] = {}
        self.backends: dict[str, RunningBackend] = {}
        self.direct = Uplink("direct", DirectTunnel(), None, quiet=True)
        self.listeners: dict[ListenAddress, Listener] = {}
        self._units = Units(supervisor, group, self._busy)
        self._specs: WeakKeyDictionary[Uplink, TunnelSpec] = WeakKeyDictionary()
        self._budgets: dict[tuple[str | None, Endpoint], HandshakeBudget] = {}
        """By tunnel and server, because several backends may use the same server."""
        self._checker = checker
        self._separate_bulk = checker is None  # a worker carries one traffic class only
        self.workers = Workers(
            config.gateway.workers if checker is None else 0, self._on_worker_failure, self._recorder
        )
        if self.workers.units:
            handshake_limiter().per_server = max(1, PER_SERVER - len(self.workers.units))
        self._units.start("tunnel direct", self.direct)
        for unit in self.workers.units:
            supervisor.start(f"worker {unit.number}", unit)

    def apply(self, config: Config, listeners: dict[ListenAddress, Listener]) -> ConfigDiff:
        """Apply `config`. What is the same in both configurations keeps running untouched.

        Args:
            config: The new configuration.
            listeners: Its bound listeners; owned by the site from now on.

        Raises:
            UsageError: A key differs that only a restart can change; nothing was changed.
        """
        changes = diff_configs(self.config, config)
        self._new_config = config
        self._knows_containers = config.docker is not None
        drain = config.shutdown.drain
        assigned = self.workers.apply(config, listeners)
        required = required_lanes(config, config.backends.keys() - assigned.keys(), separate_bulk=self._separate_bulk)
        closed = [lane for lane in self.uplinks if lane.tunnel in changes.tunnels_closed or lane not in required]
        retired = {lane: self.uplinks.pop(lane) for lane in closed}
        for lane in required:
            if lane not in self.uplinks:
                self._open(config, lane, retired.values())
        moved = {name for name, running in self.backends.items() if running.worker is not assigned.get(name)}
        for name in sorted((changes.backends_removed | moved) & self.backends.keys()):
            self._remove(self.backends.pop(name), drain)
        for name in changes.backends_changed - moved:
            self._stop_removed_listeners(self.backends[name].forward, config.backends[name])
        for name in sorted(changes.backends_added | moved - changes.backends_removed):
            self._add(config.backends[name], listeners, assigned.get(name))
        for name in sorted(changes.backends_changed - moved):
            self._change(self.backends[name], config.backends[name], listeners)
        for uplink in retired.values():
            uplink.drain()
        self._units.retire(retired.values(), drain)
        for address, listener in self.listeners.items():
            if address not in listeners:
                listener.close()
        self.listeners = listeners
        self.config = config
        return changes

    def stop_accepting(self) -> None:
        """Close all listeners. Open connections continue."""
        for listener in self.listeners.values():
            listener.close()
        self.listeners = {}
        for unit in self.workers.units:
            unit.stop_accepting()

    async def wait_started(self) -> None:
        """Wait until each target has the result of a first check."""
        while waiting := [check for check in self._checks() if not check.first_result.is_set()]:
            # A short wait, because a reload may replace the check.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiting[0].first_result.wait(), _FIRST_RESULT_POLL)

    def _checks(self) -> Iterator[Check]:
        return (check for running in self.backends.values() for check in running.checks)

    def forwards(self) -> list[Forward | RemoteForward]:
        """Return the configured forwards, and the removed ones that still drain."""
        return [*(running.forward for running in self.backends.values()), *self._units.retiring_forwards()]

    def abort_idle(self, seconds: float) -> None:
        """Reset the clients, also in workers, that have been silent for `seconds` and do not await a response."""
        for each in self._local_forwards_and_workers():
            each.abort_idle(seconds)

    def abort_all(self) -> None:
        """Reset all clients, also in workers."""
        for each in self._local_forwards_and_workers():
            each.abort_all()

    def _local_forwards_and_workers(self) -> list[Forward | WorkerUnit]:
        own = [forward for forward in self.forwards() if isinstance(forward, Forward)]
        return [*own, *self.workers.units]

    @property
    def active(self) -> int:
        """Number of clients of all backends."""
        draining = sum(unit.report.draining for unit in self.workers.units)
        return draining + sum(forward.active for forward in self.forwards())

    def draining(self) -> list[tuple[TunnelSpec, Uplink]]:
        """Return the removed tunnels that still drain."""
        retiring = self._units.retiring_uplinks()
        return [(self._specs[each], each) for each in retiring if each.name not in self.config.tunnels]

    def uplinks_of(self, tunnel: str) -> list[Uplink]:
        """Return the uplinks of a tunnel in this process, one per lane."""
        return [uplink for lane, uplink in self.uplinks.items() if lane.tunnel == tunnel]

    def _open(self, config: Config, lane: Lane, retired: Collection[Uplink]) -> None:
        spec = config.tunnels[lane.tunnel]
        closing = (*retired, *self._units.retiring_uplinks())
        same = [each for each in closing if _peer_identity(self._specs[each]) == _peer_identity(spec) is not None]
        after = self._units.stop_early(same) if same else None
        outer = outer_lane(config, lane)
        via = self.uplinks[outer] if outer else self.direct
        traffic = "bulk" if lane.bulk else ""
        tunnel = spec.kind.create(spec.options)
        uplink = self.uplinks[lane] = Uplink(spec.name, tunnel, via, traffic=traffic, after=after)
        self._specs[uplink] = spec
        self._units.start(f"tunnel {spec.name}", uplink)

    def _add(self, spec: BackendSpec, listeners: dict[ListenAddress, Listener], worker: WorkerUnit | None) -> None:
        if worker is not None:
            running = RunningBackend(spec, worker.forwards[spec.name], worker)
        else:
            route = Route(self._path(spec), lambda: list(spec.targets), lambda _: None, spec.hold)
            kind = spec.kind
            forward = Forward(
                spec.name, [], self._admission(spec), route, kind.tap, kind.prompt, kind.cancels, self._recorder
            )
            running = RunningBackend(spec, forward)
        self.backends[spec.name] = running
        self._change(running, spec, listeners)
        if isinstance(running.forward, Forward):
            self._units.start(f"forward {spec.name}", running.forward)

    def _change(self, running: RunningBackend, spec: BackendSpec, listeners: dict[ListenAddress, Listener]) -> None:
        same = (running.spec.kind, running.spec.options, running.spec.via) == (spec.kind, spec.options, spec.via)
        known = {check.target: check for check in running.checks} if same else {}
        running.spec = spec
        if spec.kind.abort_limit is not None:
            running.budgets = {target: self._budget(spec, target) for target in spec.targets}
        if self._checker is None:
            self._start_checks(running, known)
        if isinstance(running.forward, Forward):
            bound = [listeners[address] for address in spec.listen if address in listeners]
            running.forward.update(bound, self._admission(spec), self._route(running))

    def _admission(self, spec: BackendSpec) -> Admission:
        per_consumer = spec.max_connections_per_consumer
        if per_consumer is None and self._knows_containers:
            per_consumer = max(1, int(spec.max_connections * _DEFAULT_CONSUMER_SHARE))
        return Admission(
            backend=spec.name,
            allow=spec.allow.networks,
            label=spec.allow.label,
            max_connections=spec.max_connections,
            per_consumer=per_consumer,
            privileged_only=spec.kind.privileged_only(spec.options),
            identity=self._identity if self._knows_containers else None,
            sockets={
                str(each.unix): SocketRule(
                    SocketConsumer(each.consumer) if each.consumer else None, frozenset(each.uid), frozenset(each.gid)
                )
                for each in spec.sockets
            },
        )

    def _budget(self, spec: BackendSpec, target: Endpoint) -> HandshakeBudget:
        return self._budgets.setdefault((spec.via, target), HandshakeBudget(spec.kind.abort_limit or 0))

    def record_abandoned_dial(self, tunnel: str | None, target: Endpoint) -> None:
        """Record a dial that timed out: if it connects later, its handshake is aborted."""
        budget = self._budgets.get((tunnel, target))
        if budget is not None:
            budget.record_abandoned(time.time())

    def renew(self, tunnel: str) -> None:
        """Use the keys or certificates of a tunnel that have changed on disk, without closing connections."""
        for uplink in self.uplinks_of(tunnel):
            uplink.renew()
        for unit in self.workers.units:
            unit.send(Command("renew", tunnel))

    def retry(self, tunnel: str) -> None:
        """Retry a tunnel that is down, because its certificates were renewed on disk. Open links continue."""
        for uplink in self.uplinks_of(tunnel):
            uplink.retry()
        for unit in self.workers.units:
            unit.send(Command("retry", tunnel))

    def _stop_removed_listeners(self, forward: Forward | RemoteForward, spec: BackendSpec) -> None:
        """Stop the listeners that the backend loses, before another backend or process takes them over."""
        for listener in forward.listeners:
            if listener.address not in spec.listen:
                listener.stop()

    def _start_checks(self, running: RunningBackend, known: dict[Endpoint, Check]) -> None:
        """Start the checks of a backend. Targets that were checked before keep their results."""
        spec = running.spec
        path = running.worker.path(spec.via) if running.worker else self._path(spec)
        for check in running.checks:
            self._units.stop_soon(check)
        backend: Backend = spec.kind.create(spec.options, spec.check_options)
        schedule = Schedule(**vars(spec.check))
        running.checks = [
            Check(
                spec.name,
                backend,
                target,
                path,
                schedule,
                running.on_check_result,
                partial(self.record_abandoned_dial, spec.via, target),
            )
            for target in spec.targets
        ]
        for check in running.checks:
            if check.target in known:
                check.inherit(known[check.target])
            self._units.start(f"check {spec.name} {check.target}", check)
        running.on_check_result()

    def restart_checks(self, running: RunningBackend) -> None:
        """Restart the checks. They accept the current state of an export that has changed."""
        self._start_checks(running, {check.target: check for check in running.checks})

    def _remove(self, running: RunningBackend, drain: float) -> None:
        for check in running.checks:
            self._units.stop_soon(check)
        if isinstance(running.forward, Forward):  # a worker drains its own forwards
            for listener in running.forward.listeners:
                listener.stop()
            running.forward.listeners = []
            self._units.retire([running.forward], drain)

    def _path(self, spec: BackendSpec) -> Uplink:
        lane = backend_lane(self._new_config, spec.name, separate_bulk=self._separate_bulk)
        return self.uplinks[lane] if lane else self.direct

    def _route(self, running: RunningBackend) -> Route:
        spec, checker = running.spec, self._checker
        if checker is None:
            return Route(
                self._path(spec),
                running.targets,
                running.on_failure,
                spec.hold,
                running.budgets.get,
                running.on_stall,
            )
        return Route(
            self._path(spec),
            lambda: checker.targets(spec.name, spec.targets),
            lambda target: checker.on_failure(spec.name, target),
            spec.hold,
            running.budgets.get,
            lambda target: checker.on_failure(spec.name, target, stalled=True),
        )

    def _on_worker_failure(self, backend: str, target: Endpoint, stalled: bool) -> None:
        running = self.backends.get(backend)
        if running is not None:
            (running.on_stall if stalled else running.on_failure)(target)

    def _busy(self, unit: Uplink | Forward) -> bool:
        if isinstance(unit, Forward):
            return unit.active > 0
        inner = (*self.uplinks.values(), *self._units.retiring_uplinks())
        return any(forward.active_on(unit) for forward in self.forwards()) or any(
            each.via is unit and each.state is not TunnelState.STOPPED for each in inner
        )


def _peer_identity(spec: TunnelSpec) -> object:
    """Return the identity that must not be connected twice; None if the tunnel has none."""
    kind = spec.kind
    return (kind.name, kind.identity(spec.options)) if kind.identity else None
