"""Owns the running tunnels, forwards and checks of a process, and applies new configurations to them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from gateway.app.admission_rules import build_admission
from gateway.app.component_manager import ComponentManager
from gateway.app.config_diff import ConfigDiff, diff_configs
from gateway.app.handshake_budgets import HandshakeBudgets
from gateway.app.running_backend import RunningBackend, TargetRecords
from gateway.app.uplink_manager import UplinkManager
from gateway.app.worker.messages import WorkerAction, WorkerCommand
from gateway.app.worker.stubs import ForwardStub
from gateway.app.worker.worker_pool import WorkerPool
from gateway.app.worker.worker_supervisor import WorkerSupervisor
from gateway.audit_log.recorder import AuditRecorder
from gateway.config import BackendSpec, Config
from gateway.contracts.tracing import TraceExporter
from gateway.contracts.values import Endpoint
from gateway.forwarding.admission import AdmissionRules, ConsumerResolver
from gateway.forwarding.forward import Forward
from gateway.forwarding.listener import Listener
from gateway.forwarding.route import Route
from gateway.forwarding.routed_target import RoutedTarget, TargetIdentity
from gateway.health.check import MonitoredUplink
from gateway.supervision.uplink import Uplink


class TargetSelector(Protocol):
    """Chooses the targets for new clients. A worker uses the targets that the main process has assigned to it."""

    def update(
        self, running: RunningBackend, uplinks: Mapping[str | None, MonitoredUplink], *, keep_results: bool
    ) -> None:
        """Start checks of the targets of `running.spec`, and stop the backend's previous checks.

        Args:
            running: The backend.
            uplinks: The uplinks that lead to the targets, by tunnel; None: the direct uplink.
            keep_results: Whether targets that were checked before keep their results. The roles and promotions in
                `running.records` stay known in any case.
        """

    def remove(self, running: RunningBackend) -> None:
        """Stop checking the targets."""

    def routes(self, running: RunningBackend) -> list[RoutedTarget]:
        """Return the ways to the targets to try for a new client, best first."""

    def on_failure(self, running: RunningBackend, routed: RoutedTarget) -> None:
        """Handle a failure of real traffic to a target."""

    def on_stall(self, running: RunningBackend, routed: RoutedTarget) -> None:
        """Handle a target that takes too long to respond."""

    def on_detour(self, running: RunningBackend, routed: RoutedTarget) -> None:
        """Handle a failed dial, after a dial through another way to the same target has succeeded."""


class Runtime:
    """The running tunnels, forwards and checks of a process.

    Args:
        components: Runs the uplinks and forwards.
        uplinks: The uplinks of this process.
        config: The first configuration that will be passed to `apply`.
        identity: Finds the consumer behind a source address, if Docker is configured.
        health: Chooses the targets for new clients.
        budgets: The handshake budgets of this process.
        workers: The workers of this process, already started.
        recorder: Records clients in the audit log.
        exporter: Receives the spans of client connections; None if traces are disabled.
    """

    def __init__(
        self,
        components: ComponentManager,
        uplinks: UplinkManager,
        config: Config,
        identity: ConsumerResolver,
        health: TargetSelector,
        budgets: HandshakeBudgets,
        workers: WorkerPool,
        recorder: AuditRecorder,
        exporter: TraceExporter | None = None,
    ) -> None:
        self.config = replace(config, tunnels={}, backends={})
        self.uplinks = uplinks
        self.backends: dict[str, RunningBackend] = {}
        self.listeners: dict[Endpoint, Listener] = {}
        self.workers = workers
        self.accepting = True
        """Whether the listeners accept clients; False after `stop_accepting`."""
        self.on_state_change: Callable[[], None] = lambda: None
        """Called when the state of a backend changes."""
        self.on_check_result: Callable[[RunningBackend], None] = lambda _: None
        """Called after each check."""
        self._components = components
        self._identity = identity
        self._health = health
        self._budgets = budgets
        self._recorder = recorder
        self._exporter = exporter

    def apply(self, config: Config, listeners: dict[Endpoint, Listener]) -> ConfigDiff:
        """Apply `config`. Components that are the same in both configurations continue to run.

        Args:
            config: The new configuration.
            listeners: The bound listeners of the configuration. The runtime takes ownership of them.

        Raises:
            UsageError: A key that requires a restart differs. Nothing was changed.
        """
        diff = diff_configs(self.config, config)
        drain = config.shutdown.drain
        self._budgets.update(config.backends.values())
        assigned = self.workers.apply(config, listeners)
        retired = self.uplinks.apply(config, config.backends.keys() - assigned.keys(), diff.tunnels_closed)
        moved = {name for name, running in self.backends.items() if running.worker is not assigned.get(name)}
        records = {name: self.backends[name].records for name in moved}
        for name in sorted((diff.backends_removed | moved) & self.backends.keys()):
            self._remove(self.backends.pop(name), drain)
        for name in diff.backends_changed - moved:
            _stop_removed_listeners(self.backends[name].local, config.backends[name])
        identity = self._identity if config.docker is not None else None
        for name in sorted(diff.backends_added | moved - diff.backends_removed):
            spec = config.backends[name]
            self._add(spec, build_admission(spec, identity), listeners, assigned.get(name), records.get(name, {}))
        for name in sorted(diff.backends_changed - moved):
            spec = config.backends[name]
            self._change(self.backends[name], spec, build_admission(spec, identity), listeners)
        self.uplinks.retire(retired, drain, self._has_clients)
        for address, listener in self.listeners.items():
            if address not in listeners:
                listener.close()
        self.listeners = listeners
        self.config = config
        self.review_forwards()
        return diff

    def review_forwards(self) -> None:
        """Let forwards adapt to changes outside their configuration; for example, if the audit log was enabled."""
        for each in self._local_forwards():
            each.review()

    def _add(
        self,
        spec: BackendSpec,
        admission: AdmissionRules,
        listeners: dict[Endpoint, Listener],
        worker: WorkerSupervisor | None,
        records: TargetRecords,
    ) -> None:
        if worker is not None:
            running = RunningBackend(spec, worker.forwards[spec.name], self._budgets, worker)
        else:
            route = Route((), list, lambda _: None, spec.hold)  # `_change` replaces it before the forward starts
            kind = spec.kind
            recorders = self._recorder, self._exporter
            forward = Forward(spec.name, [], admission, route, kind.tap, kind.prompt, kind.cancels, *recorders)
            running = RunningBackend(spec, forward, self._budgets, local=forward)
        running.records = records
        running.on_state_change = lambda: self.on_state_change()  # noqa: PLW0108 - the runtime's callback may change
        running.on_result = lambda: self.on_check_result(running)
        self.backends[spec.name] = running
        self._change(running, spec, admission, listeners)
        if running.local is not None:
            self._components.start(f"forward {spec.name}", running.local)

    def _change(
        self,
        running: RunningBackend,
        spec: BackendSpec,
        admission: AdmissionRules,
        listeners: dict[Endpoint, Listener],
    ) -> None:
        old = running.spec
        same = (old.kind, old.options) == (spec.kind, spec.options)
        running.spec = spec
        if running.local is not None:
            uplinks = self.uplinks.of_backend(spec.name)
            running.routes = {
                target: TargetIdentity(target, tuple(uplinks[way] for way in spec.ways(target) or (None,))).routes()
                for target in spec.targets
            }
        self._health.update(running, self._checked_uplinks(running), keep_results=same)
        if running.local is not None:
            bound = [listeners[address] for address in spec.listen if address in listeners]
            running.local.update(bound, admission, self._route(running))

    def _route(self, running: RunningBackend) -> Route:
        return Route(
            tuple({routed.uplink for routes in running.routes.values() for routed in routes}),
            partial(self._health.routes, running),
            partial(self._health.on_failure, running),
            running.spec.hold,
            lambda routed: running.budget(routed.target, routed.uplink.tunnel_name),
            partial(self._health.on_stall, running),
            partial(self._health.on_detour, running),
        )

    def _checked_uplinks(self, running: RunningBackend) -> Mapping[str | None, MonitoredUplink]:
        if running.worker is not None:
            return {tunnel: running.worker.path(tunnel) for tunnel in running.spec.tunnels or (None,)}
        return self.uplinks.of_backend(running.spec.name)

    def _remove(self, running: RunningBackend, drain: float) -> None:
        self._health.remove(running)
        if running.local is not None:  # a worker drains its own forwards
            for listener in running.local.listeners:
                listener.stop()
            running.local.listeners = []
            self._components.retire_forward(running.local, drain)

    def restart_checks(self, running: RunningBackend) -> None:
        """Restart the checks of a backend, so that they accept the current state of an export that has changed."""
        self._health.update(running, self._checked_uplinks(running), keep_results=True)

    def stop_accepting(self) -> None:
        """Close all listeners. Connections that are already open continue."""
        self.accepting = False
        for listener in self.listeners.values():
            listener.close()
        self.listeners = {}
        for worker in self.workers.supervisors:
            worker.stop_accepting()

    def forwards(self) -> list[Forward | ForwardStub]:
        """Return the configured forwards, and the removed ones that still drain."""
        return [*(running.forward for running in self.backends.values()), *self._components.retiring_forwards()]

    def _has_clients(self, uplink: Uplink) -> bool:
        return any(forward.active_on(uplink) for forward in self._local_forwards())

    @property
    def active(self) -> int:
        """Number of clients of all backends."""
        draining = sum(worker.report.draining for worker in self.workers.supervisors)
        return draining + sum(forward.active for forward in self.forwards())

    def abort_idle(self, seconds: float) -> None:
        """Reset clients, also in workers, that have sent nothing for `seconds` and do not wait for a response."""
        for each in self._local_forwards_and_workers():
            each.abort_idle(seconds)

    def abort_all(self) -> None:
        """Reset all clients, also in workers."""
        for each in self._local_forwards_and_workers():
            each.abort_all()

    def _local_forwards_and_workers(self) -> list[Forward | WorkerSupervisor]:
        return [*self._local_forwards(), *self.workers.supervisors]

    def _local_forwards(self) -> list[Forward]:
        """Return the forwards of this process, including draining ones."""
        local = [running.local for running in self.backends.values() if running.local is not None]
        return [*local, *self._components.retiring_forwards()]

    def renew(self, tunnel: str) -> None:
        """Make an open tunnel use keys or certificates that have changed on disk, without closing connections."""
        for uplink in self.uplinks.of_tunnel(tunnel):
            uplink.renew()
        self.workers.send(WorkerCommand(WorkerAction.RENEW, tunnel))

    def retry(self, tunnel: str) -> None:
        """Retry a tunnel if it is down, because its certificates were renewed on disk. An open tunnel stays open."""
        for uplink in self.uplinks.of_tunnel(tunnel):
            uplink.retry()
        self.workers.send(WorkerCommand(WorkerAction.RETRY, tunnel))

    def reconnect(self, tunnel: str) -> None:
        """Reopen an open tunnel; retry a tunnel in backoff immediately."""
        for uplink in self.uplinks.of_tunnel(tunnel):
            uplink.reconnect()
        self.workers.send(WorkerCommand(WorkerAction.RECONNECT, tunnel))


def _stop_removed_listeners(forward: Forward | None, spec: BackendSpec) -> None:
    """Stop the listeners that a backend loses, before another backend or process starts to use them."""
    for listener in forward.listeners if forward is not None else ():
        if listener.address not in spec.listen:
            listener.stop()
