"""Owns all running tunnels, backends and checks, and changes them when a new configuration is applied."""

from collections.abc import Callable
from dataclasses import replace

from gateway.app.aborted_handshake_budgets import AbortedHandshakeBudgets
from gateway.app.admission_rules import build_admission
from gateway.app.check_manager import CheckManager
from gateway.app.component_manager import ComponentManager
from gateway.app.config_diff import ConfigDiff, diff_configs
from gateway.app.native_engine_policy import uses_native_engine
from gateway.app.running_backend import RunningBackend
from gateway.app.uplink_manager import UplinkManager
from gateway.audit_log.recorder import AuditLogRecorder
from gateway.config import BackendSpec, Config
from gateway.contracts.config_types import HostPort
from gateway.contracts.tracing import TraceExporter
from gateway.forwarding.admission import AdmissionRules
from gateway.forwarding.backend_route import BackendRoute
from gateway.forwarding.client_identity import ConsumerResolver
from gateway.forwarding.forward import Forward
from gateway.forwarding.listener import Listener
from gateway.forwarding.target_path import TargetIdentity
from gateway.relay.native_engine_selection import use_native_engine
from gateway.supervision.uplink import Uplink


class RunningComponents:
    """Owns all running tunnels, backends and checks.

    Args:
        components: Runs the uplinks and forwards.
        uplinks: The uplinks, which keep tunnels open.
        config: The first configuration. The caller must also pass it to `apply`.
        identity: Finds a client's container by the client's source address, if Docker is configured.
        checks: Starts and stops the checks of the targets.
        budgets: The handshake budgets.
        recorder: Records clients in the audit log.
        exporter: Receives the spans of client connections; None if traces are disabled.
    """

    def __init__(
        self,
        components: ComponentManager,
        uplinks: UplinkManager,
        config: Config,
        identity: ConsumerResolver,
        checks: CheckManager,
        budgets: AbortedHandshakeBudgets,
        recorder: AuditLogRecorder,
        exporter: TraceExporter | None = None,
    ) -> None:
        self.config = replace(config, tunnels={}, backends={})
        self.uplinks = uplinks
        self.backends: dict[str, RunningBackend] = {}
        self.listeners: dict[HostPort, Listener] = {}
        self.accepting = True
        """Whether the listeners accept clients; False after `stop_accepting`."""
        self.on_state_change: Callable[[], None] = lambda: None
        """Called when the state of a backend changes."""
        self.on_check_result: Callable[[RunningBackend], None] = lambda _: None
        """Called with a backend after each probe of its targets, and after its checks are started or replaced."""
        self._components = components
        self._identity = identity
        self._checks = checks
        self._budgets = budgets
        self._recorder = recorder
        self._exporter = exporter

    def apply(self, config: Config, listeners: dict[HostPort, Listener]) -> ConfigDiff:
        """Apply `config`. Components with the same configuration as before continue to run.

        Args:
            config: The new configuration.
            listeners: The bound listeners of the configuration. `RunningComponents` takes ownership of them.

        Raises:
            UsageError: `config` changes a key that requires a restart. Nothing was changed.
        """
        diff = diff_configs(self.config, config)
        drain = config.shutdown.drain
        use_native_engine(enabled=uses_native_engine(config))
        self._budgets.update(config.backends.values())
        retired = self.uplinks.apply(config, diff.tunnels_closed)
        for name in sorted(diff.backends_removed):
            self._remove(self.backends.pop(name), drain)
        for name in diff.backends_changed:
            _stop_removed_listeners(self.backends[name].forward, config.backends[name])
        identity = self._identity if config.docker is not None else None
        for name in sorted(diff.backends_added):
            spec = config.backends[name]
            self._add(spec, build_admission(spec, identity), listeners)
        for name in sorted(diff.backends_changed):
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
        """If the native engine can no longer handle the clients of a forward, let Python code accept them again.

        Call this method after each change of the configuration or the audit log.
        """
        for forward in self.forwards():
            forward.review()

    def _add(self, spec: BackendSpec, admission: AdmissionRules, listeners: dict[HostPort, Listener]) -> None:
        # Create the forward with an empty route. `_change` sets the actual route before the forward starts.
        route = BackendRoute((), list, lambda _: None, spec.hold)
        kind = spec.kind
        recorders = self._recorder, self._exporter
        forward = Forward(spec.name, [], admission, route, kind.tap, kind.response_timeout, kind.cancels, *recorders)
        running = RunningBackend(spec, forward, self._budgets)
        running.on_state_change = lambda: self.on_state_change()  # noqa: PLW0108 - `self.on_state_change` can be replaced later
        running.on_result = lambda: self.on_check_result(running)
        self.backends[spec.name] = running
        self._change(running, spec, admission, listeners)
        self._components.start(f"forward {spec.name}", forward)

    def _change(
        self,
        running: RunningBackend,
        spec: BackendSpec,
        admission: AdmissionRules,
        listeners: dict[HostPort, Listener],
    ) -> None:
        old = running.spec
        same = (old.kind, old.options) == (spec.kind, spec.options)
        running.spec = spec
        uplinks = self.uplinks.of_backend(spec.name)
        running.paths = {
            target: TargetIdentity(target, tuple(uplinks[tunnel] for tunnel in spec.paths(target) or (None,))).paths()
            for target in spec.targets
        }
        self._checks.update(running, uplinks, keep_results=same)
        bound = [listeners[address] for address in spec.listen if address in listeners]
        running.forward.update(bound, admission, self._route(running))

    def _route(self, running: RunningBackend) -> BackendRoute:
        return BackendRoute(
            tuple({target_path.uplink for paths in running.paths.values() for target_path in paths}),
            running.ordered_paths,
            lambda target_path: running.on_failure(target_path.target),
            running.spec.hold,
            lambda target_path: running.budget(target_path.target, target_path.uplink.tunnel_name),
            lambda target_path: running.on_stall(target_path.target, target_path.uplink.tunnel_name),
            lambda target_path: running.on_detour(target_path.target, target_path.uplink.tunnel_name),
        )

    def _remove(self, running: RunningBackend, drain: float) -> None:
        self._checks.remove(running)
        for listener in running.forward.listeners:
            listener.stop()
        running.forward.listeners = []
        self._components.retire_forward(running.forward, drain)

    def restart_checks(self, running: RunningBackend) -> None:
        """Restart the checks of a backend. The new checks keep the previous results.

        A restart is necessary after the file system of an NFS export was replaced. The previous check reports the
        target as degraded, because existing mounts are stale. The new check accepts the new file system.
        """
        self._checks.update(running, self.uplinks.of_backend(running.spec.name), keep_results=True)

    def stop_accepting(self) -> None:
        """Close all listeners. Connections that are already open continue."""
        self.accepting = False
        for listener in self.listeners.values():
            listener.close()
        self.listeners = {}

    def forwards(self) -> list[Forward]:
        """Return the configured forwards, and the removed forwards that still drain."""
        return [*(running.forward for running in self.backends.values()), *self._components.retiring_forwards()]

    def _has_clients(self, uplink: Uplink) -> bool:
        return any(forward.active_on(uplink) for forward in self.forwards())

    @property
    def active(self) -> int:
        """Number of clients of all backends."""
        return sum(forward.active for forward in self.forwards())

    def abort_idle(self, seconds: float) -> None:
        """Reset the connections of clients that have sent nothing for `seconds` and do not wait for a response."""
        for forward in self.forwards():
            forward.abort_idle(seconds)

    def abort_all(self) -> None:
        """Reset all client connections."""
        for forward in self.forwards():
            forward.abort_all()

    def renew(self, tunnel: str) -> None:
        """Make a tunnel use credentials that have changed on disk. See `Uplink.renew`."""
        for uplink in self.uplinks.of_tunnel(tunnel):
            uplink.renew()

    def retry(self, tunnel: str) -> None:
        """If a tunnel is down, retry it immediately.

        Call this method after a certificate was renewed with the same key. An open tunnel does not need the new
        certificate until its next login.
        """
        for uplink in self.uplinks.of_tunnel(tunnel):
            uplink.retry()

    def reconnect(self, tunnel: str) -> None:
        """Close and reopen a tunnel. If it is down, retry it immediately."""
        for uplink in self.uplinks.of_tunnel(tunnel):
            uplink.reconnect()


def _stop_removed_listeners(forward: Forward, spec: BackendSpec) -> None:
    """Stop the listeners that the backend no longer has, so that another backend can use their addresses."""
    for listener in forward.listeners:
        if listener.address not in spec.listen:
            listener.stop()
