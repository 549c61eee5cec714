"""Builds the status of tunnels, for the status page, the JSON API and the metrics."""

from collections import Counter
from functools import reduce
from typing import Any

from gateway.app.running_components import RunningComponents
from gateway.config import TunnelSpec
from gateway.contracts.link import LinkStatus
from gateway.contracts.states import TunnelState
from gateway.facts import FactDefinition
from gateway.metric_types import Histogram
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.status_views import TunnelView
from gateway.supervision.uplink import Uplink


def tunnel_views(runtime: RunningComponents, events: EventLog) -> list[TunnelView]:
    """Return the status of the configured tunnels, and of the removed tunnels that still drain.

    Args:
        runtime: The running gateway.
        events: The event log. It shows when a failure began, even if the service has restarted since then.
    """
    configured = [
        _tunnel(spec, runtime.uplinks.of_tunnel(spec.name), events) for spec in runtime.config.tunnels.values()
    ]
    draining: dict[str, tuple[TunnelSpec, list[Uplink]]] = {}
    for spec, uplink in runtime.uplinks.draining():
        draining.setdefault(spec.name, (spec, []))[1].append(uplink)
    return configured + [_tunnel(spec, uplinks, events) for spec, uplinks in draining.values()]


def _tunnel(spec: TunnelSpec, uplinks: list[Uplink], events: EventLog) -> TunnelView:
    """Combine the states of all uplinks of a tunnel into one status. The tunnel is up if all its uplinks are up."""
    worst, statuses = worst_uplink(uplinks), {each: _link_status(each) for each in uplinks}
    return TunnelView(
        name=spec.name,
        kind=spec.kind.name,
        via=spec.via,
        via_in_use=worst.via_in_use,
        far_side=spec.kind.create(spec.options).far_side,
        state=worst.state,
        reason=worst.reason,
        detail=worst.describe() if worst.state is TunnelState.WAITING else worst.detail,
        since=events.began(EventSubject(SubjectType.TUNNEL, spec.name), worst.state, worst.since),
        connects=sum(each.connects for each in uplinks),
        failures=dict(sum((Counter(each.failures) for each in uplinks), Counter())),
        rtt=statuses[worst].rtt,
        channel_open=reduce(Histogram.plus, (each.channel_open for each in uplinks), Histogram()),
        details=_details([each.details for each in statuses.values() if each.details], spec.kind.facts),
        facts=spec.kind.facts,
    )


def worst_uplink(uplinks: list[Uplink]) -> Uplink:
    """Return the uplink that determines the state of a tunnel.

    This is the first uplink that is not up. If all uplinks are up, it is the first uplink.

    Args:
        uplinks: All uplinks of the tunnel; at least one.
    """
    return min(uplinks, key=lambda each: each.link is not None)


def _link_status(uplink: Uplink) -> LinkStatus:
    return uplink.opened.status() if uplink.opened else LinkStatus()


def _details(all_details: list[dict[str, Any]], facts: tuple[FactDefinition, ...]) -> dict[str, Any]:
    """Combine the details of a tunnel's uplinks into the details of the tunnel.

    Sum the additive facts, such as the number of open channels, over all uplinks. For all other details, return the
    value of the first uplink.
    """
    combined = dict(all_details[0]) if all_details else {}
    for key in (fact.key for fact in facts if fact.additive):
        if key in combined:
            combined[key] = sum(each.get(key, 0) for each in all_details)
    return combined
