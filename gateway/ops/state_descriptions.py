"""Describes the state of a tunnel or backend for users: a word for the state, the cause, and what to do."""

from gateway.contracts.states import HealthState, TunnelState
from gateway.errors import FailureReason
from gateway.ops.status_views import BackendView, TunnelView
from gateway.tunnels import tunnel_remedy

CAUSES: dict[str, str] = {
    FailureReason.TIMEOUT: "no response in time",
    FailureReason.REFUSED: "connection refused",
    FailureReason.RESET: "connection lost",
    FailureReason.DNS: "host name not found",
    FailureReason.HOST_KEY: "host key not accepted",
    FailureReason.AUTH: "login rejected",
    FailureReason.UNAUTHENTICATED: "login possible without a password",
    FailureReason.CHANNEL_PROHIBITED: "forwarding prohibited",
    FailureReason.CHANNEL_FAILED: "target not reachable from the tunnel's server",
    FailureReason.TLS: "TLS failed",
    FailureReason.TOO_MANY_CONNECTIONS: "too many connections",
    FailureReason.HOST_BLOCKED: "this host is blocked by the server",
    FailureReason.STARTING: "still starting",
    FailureReason.ROLE: "no target has the required role",
    FailureReason.LAG: "the replica lags",
    FailureReason.QUERY: "query failed",
    FailureReason.PROTOCOL: "unexpected response",
    FailureReason.EXPORT: "export missing",
    FailureReason.PERMISSION: "access denied",
    FailureReason.READ_ONLY: "read-only",
    FailureReason.NO_SPACE: "no space left",
    FailureReason.TUNNEL: "a tunnel is down",
}
_NAMES: dict[str, str] = {TunnelState.BACKOFF: "down", TunnelState.QUARANTINED: "down (quarantined)"}
_STATES: dict[str, str] = {
    HealthState.PAUSED: "run `gateway resume {name}` to check the backend again",
    TunnelState.QUARANTINED: "then run `gateway reconnect {name}`, because the gateway rarely retries",
}


def state_name(state: str) -> str:
    """Return the word that users see for a state. For example, a tunnel in the state `backoff` is shown as `down`."""
    return _NAMES.get(state, state)


def cause(reason: str | None, state: str) -> str:
    """Return the cause of the state of a tunnel or backend, in a few words.

    Args:
        reason: The reason, such as `timeout`; None if the state has no reason.
        state: The state. If the state has no reason, the result is the state itself.
    """
    return CAUSES.get(reason or "", reason or state)


def without_remedy(detail: str, remedy: str) -> str:
    """Remove the remedy from the end of an error detail, because pages and commands show the remedy separately.

    Args:
        detail: The error detail of a target or backend. For some failures, the error detail ends with the remedy.
        remedy: The remedy; empty if there is none.
    """
    return detail.removesuffix(f": {remedy}") if remedy else detail


def remedy(part: TunnelView | BackendView) -> str:
    """Return the recommended action for the state of a tunnel or backend; empty if there is none."""
    found = tunnel_remedy(part.kind, part.reason) if isinstance(part, TunnelView) else part.remedy
    return "; ".join(filter(None, (found, _STATES.get(part.state, "").format(name=part.name))))
