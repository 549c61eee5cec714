"""Everything that runs for one configuration, and how another one is applied to it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

from gateway.app.changes import Changes, compare
from gateway.app.lanes import Lane, lane_of, lanes, through
from gateway.app.running import Running
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

_STARTED_POLL = 0.5
_SHARE_OF_ONE = 0.8
"""Of a backend's connections, what one consumer may take where nothing else is configured."""


class Checker(Protocol):
    """Who checks the targets, where this process does not."""

    def targets(self, backend: str, configured: tuple[Endpoint, ...]) -> list[Endpoint]:
        """The targets to try for a new client, best first."""

    def failed(self, backend: str, target: Endpoint, *, silent: bool = False) -> None:
        """Real traffic failed at `target`, or, `silent`, waits there for too long."""


class Site:
    """The running tunnels, forwards and checks.

    Args:
        supervisor: Runs the units.
        group: Owns the tasks that wait for something to drain.
        config: What will be applied first.
        identity: Who knows consumers by their addresses; None: nobody does.
        checker: Who checks the targets; None: this process does, and may have workers.
        recorder: Where clients' ends are recorded; None: nowhere.
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
        self.state_changed: Callable[[], None] = lambda: None
        """Called when the state of a backend changes."""
        self.config = self._wanted = replace(config, tunnels={}, backends={})
        self.uplinks: dict[Lane, Uplink] = {}
        self.backends: dict[str, Running] = {}
        self.direct = Uplink("direct", DirectTunnel(), None, quiet=True)
        self.listeners: dict[ListenAddress, Listener] = {}
        self._units = Units(supervisor, group, self._busy)
        self._specs: WeakKeyDictionary[Uplink, TunnelSpec] = WeakKeyDictionary()
        self._budgets: dict[tuple[str | None, Endpoint], HandshakeBudget] = {}
        """By tunnel and server: several backends may lead to the same one."""
        self._checker = checker
        self._apart = checker is None  # a worker is for one sort of traffic anyway
        self.workers = Workers(config.gateway.workers if checker is None else 0, self._failed, self._recorder)
        if self.workers.units:
            handshake_limiter().per_server = max(1, PER_SERVER - len(self.workers.units))
        self._units.start("tunnel direct", self.direct)
        for unit in self.workers.units:
            supervisor.start(f"worker {unit.number}", unit)

    def apply(self, config: Config, listeners: dict[ListenAddress, Listener]) -> Changes:
        """Change to `config`, whose listeners are bound already; what is the same goes on untouched.

        Raises:
            UsageError: What changed needs a restart; nothing was changed.
        """
        changes = compare(self.config, config)
        self._wanted = config
        self._knows_containers = config.docker is not None
        drain = config.shutdown.drain
        assigned = self.workers.apply(config, listeners)
        wanted = lanes(config, config.backends.keys() - assigned.keys(), apart=self._apart)
        gone = [lane for lane in self.uplinks if lane.tunnel in changes.tunnels_gone or lane not in wanted]
        retired = {lane: self.uplinks.pop(lane) for lane in gone}
        for lane in wanted:
            if lane not in self.uplinks:
                self._open(config, lane, retired.values())
        moved = {name for name, running in self.backends.items() if running.worker is not assigned.get(name)}
        for name in sorted((changes.backends_gone | moved) & self.backends.keys()):
            self._remove(self.backends.pop(name), drain)
        for name in changes.backends_changed - moved:
            self._let_go(self.backends[name].forward, config.backends[name])
        for name in sorted(changes.backends_new | moved - changes.backends_gone):
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
        """Close every listener; open connections go on."""
        for listener in self.listeners.values():
            listener.close()
        self.listeners = {}
        for unit in self.workers.units:
            unit.stop_accepting()

    async def wait_started(self) -> None:
        """Wait until every target has a first result, passed or not."""
        while waiting := [check for check in self._checks() if not check.first_result.is_set()]:
            # Not for long at one: a reload may put another in its place.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiting[0].first_result.wait(), _STARTED_POLL)

    def _checks(self) -> Iterator[Check]:
        return (check for running in self.backends.values() for check in running.checks)

    def forwards(self) -> list[Forward | RemoteForward]:
        """Those that are configured, and those that are not any more and drain."""
        return [*(running.forward for running in self.backends.values()), *self._units.retiring_forwards()]

    def abort_idle(self, seconds: float) -> None:
        """Reset the clients that wait for nothing and have been silent for so many seconds, those of workers too."""
        for each in self._carriers():
            each.abort_idle(seconds)

    def abort_all(self) -> None:
        """Reset every client, those of workers too."""
        for each in self._carriers():
            each.abort_all()

    def _carriers(self) -> list[Forward | WorkerUnit]:
        own = [forward for forward in self.forwards() if isinstance(forward, Forward)]
        return [*own, *self.workers.units]

    @property
    def active(self) -> int:
        """Clients of all backends."""
        draining = sum(unit.report.draining for unit in self.workers.units)
        return draining + sum(forward.active for forward in self.forwards())

    def draining(self) -> list[tuple[TunnelSpec, Uplink]]:
        """Tunnels that are not configured any more and still have clients."""
        retiring = self._units.retiring_uplinks()
        return [(self._specs[each], each) for each in retiring if each.name not in self.config.tunnels]

    def uplinks_of(self, tunnel: str) -> list[Uplink]:
        """The lanes of a tunnel that this process has open."""
        return [uplink for lane, uplink in self.uplinks.items() if lane.tunnel == tunnel]

    def _open(self, config: Config, lane: Lane, retired: Collection[Uplink]) -> None:
        spec = config.tunnels[lane.tunnel]
        going = (*retired, *self._units.retiring_uplinks())
        same = [each for each in going if _identity(self._specs[each]) == _identity(spec) is not None]
        after = self._units.make_room(same) if same else None
        outer = through(config, lane)
        via = self.uplinks[outer] if outer else self.direct
        traffic = "bulk" if lane.bulk else ""
        tunnel = spec.kind.create(spec.options)
        uplink = self.uplinks[lane] = Uplink(spec.name, tunnel, via, traffic=traffic, after=after)
        self._specs[uplink] = spec
        self._units.start(f"tunnel {spec.name}", uplink)

    def _add(self, spec: BackendSpec, listeners: dict[ListenAddress, Listener], worker: WorkerUnit | None) -> None:
        if worker is not None:
            running = Running(spec, worker.forwards[spec.name], worker)
        else:
            route = Route(self._path(spec), lambda: list(spec.targets), lambda _: None, spec.hold)
            kind = spec.kind
            forward = Forward(
                spec.name, [], self._admission(spec), route, kind.tap, kind.prompt, kind.cancels, self._recorder
            )
            running = Running(spec, forward)
        running.changed = lambda: self.state_changed()  # noqa: PLW0108 - it may be replaced
        self.backends[spec.name] = running
        self._change(running, spec, listeners)
        if isinstance(running.forward, Forward):
            self._units.start(f"forward {spec.name}", running.forward)

    def _change(self, running: Running, spec: BackendSpec, listeners: dict[ListenAddress, Listener]) -> None:
        same = (running.spec.kind, running.spec.options, running.spec.via) == (spec.kind, spec.options, spec.via)
        known = {check.target: check for check in running.checks} if same else {}
        running.spec = spec
        if spec.kind.abort_limit is not None:
            running.budgets = {target: self._budget(spec, target) for target in spec.targets}
        if self._checker is None:
            self._check(running, known)
        if isinstance(running.forward, Forward):
            bound = [listeners[address] for address in spec.listen if address in listeners]
            running.forward.update(bound, self._admission(spec), self._route(running))

    def _admission(self, spec: BackendSpec) -> Admission:
        per_consumer = spec.max_connections_per_consumer
        if per_consumer is None and self._knows_containers:
            per_consumer = max(1, int(spec.max_connections * _SHARE_OF_ONE))
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

    def given_up(self, tunnel: str | None, target: Endpoint) -> None:
        """A dial of a check was given up, and may still connect: its handshake is broken off then."""
        budget = self._budgets.get((tunnel, target))
        if budget is not None:
            budget.record_abandoned(time.time())

    def renew(self, tunnel: str) -> None:
        """A tunnel's keys or certificates changed on disk."""
        for uplink in self.uplinks_of(tunnel):
            uplink.renew()
        for unit in self.workers.units:
            unit.send(Command("renew", tunnel))

    def retry(self, tunnel: str) -> None:
        """A tunnel's certificates were renewed on disk: what is open goes on, and what is not tries at once."""
        for uplink in self.uplinks_of(tunnel):
            uplink.retry()
        for unit in self.workers.units:
            unit.send(Command("retry", tunnel))

    def _let_go(self, forward: Forward | RemoteForward, spec: BackendSpec) -> None:
        """Stop at the listeners that the backend loses, before another backend or process takes them over."""
        for listener in forward.listeners:
            if listener.address not in spec.listen:
                listener.stop()

    def _check(self, running: Running, known: dict[Endpoint, Check]) -> None:
        """Check the targets from now on; of a target that was checked before, what is known stays known."""
        spec = running.spec
        path = running.worker.path(spec.via) if running.worker else self._path(spec)
        for check in running.checks:
            self._units.stop_soon(check)
        backend: Backend = spec.kind.create(spec.options, spec.check_options)
        schedule = Schedule(**vars(spec.check))
        running.checks = [
            Check(
                spec.name, backend, target, path, schedule, running.checked, partial(self.given_up, spec.via, target)
            )
            for target in spec.targets
        ]
        for check in running.checks:
            if check.target in known:
                check.inherit(known[check.target])
            self._units.start(f"check {spec.name} {check.target}", check)
        running.checked()

    def check_anew(self, running: Running) -> None:
        """Go on checking as if for the first time: an export that changed is taken as it is now."""
        self._check(running, {check.target: check for check in running.checks})

    def _remove(self, running: Running, drain: float) -> None:
        for check in running.checks:
            self._units.stop_soon(check)
        if isinstance(running.forward, Forward):  # a worker drains its own
            for listener in running.forward.listeners:
                listener.stop()
            running.forward.listeners = []
            self._units.retire([running.forward], drain)

    def _path(self, spec: BackendSpec) -> Uplink:
        lane = lane_of(self._wanted, spec.name, apart=self._apart)
        return self.uplinks[lane] if lane else self.direct

    def _route(self, running: Running) -> Route:
        spec, checker = running.spec, self._checker
        if checker is None:
            return Route(
                self._path(spec), running.targets, running.failed, spec.hold, running.budgets.get, running.silent
            )
        return Route(
            self._path(spec),
            lambda: checker.targets(spec.name, spec.targets),
            lambda target: checker.failed(spec.name, target),
            spec.hold,
            running.budgets.get,
            lambda target: checker.failed(spec.name, target, silent=True),
        )

    def _failed(self, backend: str, target: Endpoint, silent: bool) -> None:
        running = self.backends.get(backend)
        if running is not None:
            (running.silent if silent else running.failed)(target)

    def _busy(self, unit: Uplink | Forward) -> bool:
        if isinstance(unit, Forward):
            return unit.active > 0
        inner = (*self.uplinks.values(), *self._units.retiring_uplinks())
        return any(forward.active_on(unit) for forward in self.forwards()) or any(
            each.via is unit and each.state is not TunnelState.STOPPED for each in inner
        )


def _identity(spec: TunnelSpec) -> object:
    """What must not be connected twice; None: nothing."""
    kind = spec.kind
    return (kind.name, kind.identity(spec.options)) if kind.identity else None
