"""Describes the reasons of failures in a few words, and what to do about them."""

from gateway.backends import target_remedy
from gateway.contracts.states import HealthState, TunnelState
from gateway.errors import Reason
from gateway.tunnels import tunnel_remedy

CAUSES: dict[str, str] = {
    Reason.TIMEOUT: "no response in time",
    Reason.REFUSED: "connection refused",
    Reason.RESET: "connection lost",
    Reason.DNS: "host name not found",
    Reason.HOST_KEY: "host key not accepted",
    Reason.AUTH: "login refused",
    Reason.UNAUTHENTICATED: "login possible without a password",
    Reason.CHANNEL_PROHIBITED: "forwarding prohibited",
    Reason.CHANNEL_FAILED: "target not reachable from the tunnel's server",
    Reason.TLS: "TLS failed",
    Reason.TOO_MANY_CONNECTIONS: "too many connections",
    Reason.HOST_BLOCKED: "this host is blocked by the server",
    Reason.STARTING: "the server is starting",
    Reason.ROLE: "no target has the required role",
    Reason.LAG: "the replica lags",
    Reason.QUERY: "query failed",
    Reason.PROTOCOL: "unexpected response",
    Reason.EXPORT: "export missing",
    Reason.PERMISSION: "access denied",
    Reason.READ_ONLY: "read-only",
    Reason.NO_SPACE: "no space left",
    Reason.TUNNEL: "a tunnel is down",
}
_NAMES: dict[str, str] = {TunnelState.BACKOFF: "down", TunnelState.QUARANTINED: "down (quarantined)"}
_STATES: dict[str, str] = {
    HealthState.UNKNOWN: "set check.user, so that the gateway can check the target",
    HealthState.PAUSED: "run `gateway resume {name}` to check the backend again",
    TunnelState.QUARANTINED: "then run `gateway reconnect {name}`, because the gateway rarely retries",
}


def state_name(state: str) -> str:
    """Return the name of a state on the page."""
    return _NAMES.get(state, state)


def cause(reason: str | None, state: str) -> str:
    """Return why a part has its state, in a few words.

    Args:
        reason: The reason; None if the state has no reason.
        state: The state.
    """
    return CAUSES.get(reason or "", reason or state)


def remedy(name: str, kind: str, state: str, reason: str | None, *, is_tunnel: bool) -> str:
    """Return what to do about the state of a tunnel, backend or target; empty if there is nothing to do.

    Args:
        name: The name of the tunnel or backend.
        kind: Its kind.
        state: The state.
        reason: The reason; None if the state has no reason.
        is_tunnel: Whether the part is a tunnel.
    """
    found = (tunnel_remedy if is_tunnel else target_remedy)(kind, reason)
    return "; ".join(filter(None, (found, _STATES.get(state, "").format(name=name))))
