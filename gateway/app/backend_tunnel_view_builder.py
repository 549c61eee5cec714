"""Builds the view of a backend's tunnels for the status page: whether each tunnel works and, if not, why."""

from gateway.app.monitored_target import MonitoredTarget
from gateway.app.running_backend import RunningBackend
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason
from gateway.health.path_selection import working_paths
from gateway.ops.status_views import BackendTunnelView


def backend_tunnel_views(running: RunningBackend) -> list[BackendTunnelView]:
    """Return the status of each tunnel that leads to a target of the backend, in the order of the configuration."""
    in_use = {each.checks[each.choose()].tunnel for each in running.targets}
    found = []
    for tunnel in running.spec.tunnels:
        targets = [each for each in running.targets if tunnel in each.choice.names]
        problems = [_problem(each, each.choice.names.index(tunnel)) for each in targets]
        up = not targets or None in problems
        reason, detail = (None, "") if up else next(problem for problem in problems if problem is not None)
        found.append(
            BackendTunnelView(
                tunnel=tunnel,
                up=up,
                reason=reason,
                detail=detail,
                in_use=tunnel in in_use,
                clients=_clients(running, tunnel),
                switches=sum(each.choice.switches[tunnel] for each in targets),
            )
        )
    return found


def _problem(monitored: MonitoredTarget, at: int) -> tuple[FailureReason | None, str] | None:
    """Return why new clients cannot use a path to a target, as a reason and details; None if they can.

    Args:
        monitored: The target.
        at: The index of the path in `monitored.checks`.
    """
    check = monitored.checks[at]
    if at in working_paths(monitored.health()):
        return None
    if check.uplink.link is None:
        return FailureReason.TUNNEL, check.uplink.describe()
    if check.verdict.state is HealthState.BLOCKED:
        return FailureReason.TUNNEL, f"no check of {monitored.target} has finished since tunnel {check.tunnel} opened"
    if check.verdict.reason is not None:
        return check.verdict.reason, check.verdict.detail
    return FailureReason.TIMEOUT, f"a client could not reach {monitored.target} through this tunnel"


def _clients(running: RunningBackend, tunnel: str) -> int:
    uplinks = {each.uplink for paths in running.paths.values() for each in paths if each.uplink.tunnel_name == tunnel}
    return sum(running.forward.active_on(uplink) for uplink in uplinks)
