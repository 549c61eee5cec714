"""Adds the state changes of backends, targets and tunnels to the event log."""

from gateway.app.running_backend import RunningBackend
from gateway.app.running_components import RunningComponents
from gateway.app.tunnel_view_builder import worst_uplink
from gateway.config import Config
from gateway.contracts.states import HealthState, TunnelState
from gateway.ops.events import EventLog, EventSubject, SubjectType

_IGNORED = (
    TunnelState.IDLE, TunnelState.RESOLVING, TunnelState.CONNECTING, TunnelState.AUTHENTICATING, TunnelState.STOPPED,
)  # fmt: skip
"""Tunnel states for which no event is recorded. A configured tunnel has the state `STOPPED` only when the service
stops. The other four states last until an attempt to open the tunnel succeeds or fails. Until then, the last event
still applies."""


def is_configured(config: Config, subject: EventSubject) -> bool:
    """Return whether a configuration contains the backend, target or tunnel of an event."""
    if subject.type is SubjectType.TUNNEL:
        return subject.name in config.tunnels
    spec = config.backends.get(subject.name or "")
    return spec is not None and (subject.target is None or subject.target in map(str, spec.targets))


class StateChangeReporter:
    """Adds the state changes of the running gateway's backends, targets and tunnels to the event log.

    Args:
        runtime: The running gateway. It calls the reporter after each check, when checks are replaced, and when
            the state of a tunnel changes.
        events: The event log.
    """

    def __init__(self, runtime: RunningComponents, events: EventLog) -> None:
        self._runtime = runtime
        self._events = events
        runtime.on_check_result = self._observe_backend
        runtime.uplinks.on_change = self._observe_tunnel

    def close(self) -> None:
        """Stop reporting. Call this method before the tunnels close, so that the shutdown adds no events."""
        self._runtime.on_check_result = lambda _: None
        self._runtime.uplinks.on_change = lambda _: None

    def _observe_backend(self, running: RunningBackend) -> None:
        name = running.spec.name
        states = [(each, each.candidate()) for each in running.targets]
        checked = [state for target, state in states if target.is_checked or state.state is not HealthState.UNKNOWN]
        for state in checked:
            if state.state is HealthState.BLOCKED:
                continue  # the tunnel is down, and its event already reports the cause
            subject = EventSubject(SubjectType.TARGET, name, str(state.target))
            self._events.observe(subject, state.state, state.reason, state.detail)
        if len(checked) == len(states):  # until all targets are checked, the state of the backend is not final
            found = running.evaluate()
            self._events.observe(EventSubject(SubjectType.BACKEND, name), found.state, found.reason, found.detail)

    def _observe_tunnel(self, name: str) -> None:
        uplinks = self._runtime.uplinks.of_tunnel(name)
        worst = worst_uplink(uplinks) if uplinks else None  # a removed tunnel has no uplink
        if worst is not None and worst.state not in _IGNORED:
            self._events.observe(EventSubject(SubjectType.TUNNEL, name), worst.state, worst.reason, worst.detail)
