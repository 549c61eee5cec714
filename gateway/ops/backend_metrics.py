"""Creates the Prometheus metrics of backends, of their checks, and of the containers that use the backends."""

from collections.abc import Iterator

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from gateway.contracts.states import HealthState
from gateway.errors import FailureReason
from gateway.ops.status_views import BackendView


def backend_metrics(backends: list[BackendView]) -> Iterator[Metric]:
    """Yield the metrics of backends and their clients."""
    up = GaugeMetricFamily("gateway_backend_up", "1 if new clients can reach the backend.", labels=["backend"])
    state = GaugeMetricFamily(
        "gateway_backend_state", "1 for the current state of the backend.", labels=["backend", "state"]
    )
    active = GaugeMetricFamily("gateway_connections_active", "Connected and waiting clients.", labels=["backend"])
    waiting = GaugeMetricFamily(
        "gateway_connections_waiting", "Clients that are not connected to a target yet.", labels=["backend"]
    )
    limit = GaugeMetricFamily(
        "gateway_connections_limit",
        "Maximum number of connected and waiting clients (max_connections).",
        labels=["backend"],
    )
    total = CounterMetricFamily("gateway_connections", "Accepted clients.", labels=["backend"])
    rejected = CounterMetricFamily(
        "gateway_connections_rejected",
        "Rejected clients, by reason: a rule or a limit (not_allowed, unprivileged_port, unknown_consumer,"
        " max_connections, consumer_quota), or the reason why no target could be reached.",
        labels=["backend", "reason"],
    )
    resets = CounterMetricFamily(
        "gateway_connections_reset",
        "Connections that ended with a reset, by reason: client_reset, backend_reset, link_lost (the tunnel failed),"
        " moved (the target lost its role), aborted (a stop, a reload or a command).",
        labels=["backend", "reason"],
    )
    moved = CounterMetricFamily("gateway_connection_bytes", "Bytes transferred.", labels=["backend", "direction"])
    latency = HistogramMetricFamily(
        "gateway_response_latency_seconds",
        "Time from the last byte of a request to the first byte of its response, in a sample of real traffic.",
        labels=["backend"],
    )
    for each in backends:
        up.add_metric([each.name], float(each.state.is_usable))
        for value in HealthState:
            state.add_metric([each.name, value], float(value is each.state))
        active.add_metric([each.name], each.connections)
        waiting.add_metric([each.name], each.waiting)
        limit.add_metric([each.name], each.max_connections)
        total.add_metric([each.name], each.connections_total)
        for reason, count in each.rejected.items():
            rejected.add_metric([each.name, reason], count)
        for reason, count in each.resets.items():
            resets.add_metric([each.name, reason], count)
        moved.add_metric([each.name, "to_backend"], each.to_backend)
        moved.add_metric([each.name, "from_backend"], each.from_backend)
        latency.add_metric([each.name], each.latency.cumulative(), each.latency.sum)
    yield from (up, state, active, waiting, limit, total, rejected, resets, moved, latency)


def path_metrics(backends: list[BackendView]) -> Iterator[Metric]:
    """Yield the metrics of the paths of each backend."""
    names = ["backend", "tunnel"]
    up = GaugeMetricFamily(
        "gateway_way_up",
        "1 if new clients of the backend can use the tunnel. 0 if the tunnel is down, or if the targets can be"
        " reached only through another tunnel. A target that fails through all tunnels does not change the value.",
        labels=names,
    )
    switches = CounterMetricFamily(
        "gateway_way_switches",
        "Number of times that new clients of the backend switched to the tunnel.",
        labels=names,
    )
    for each in backends:
        for path in each.paths:
            up.add_metric([each.name, path.tunnel], float(path.up))
            switches.add_metric([each.name, path.tunnel], path.switches)
    yield from (up, switches)


def consumer_metrics(backends: list[BackendView]) -> Iterator[Metric]:
    """Yield the metrics of consumers, which are the containers that use a backend."""
    names = ["backend", "consumer"]
    active = GaugeMetricFamily(
        "gateway_consumer_connections_active", "Connected and waiting clients of a container.", labels=names
    )
    total = CounterMetricFamily("gateway_consumer_connections", "Connections of a container.", labels=names)
    rejected = CounterMetricFamily(
        "gateway_consumer_connections_rejected",
        "Rejected connections of a container, by reason.",
        labels=[*names, "reason"],
    )
    moved = CounterMetricFamily(
        "gateway_consumer_bytes", "Bytes transferred for a container.", labels=[*names, "direction"]
    )
    latency = SummaryMetricFamily(
        "gateway_consumer_response_latency_seconds", "Response latency of a container's connections.", labels=names
    )
    for backend in backends:
        for name, usage in backend.consumers.items():
            labels = [backend.name, name]
            active.add_metric(labels, usage.active)
            total.add_metric(labels, usage.total)
            for reason, count in usage.rejected.items():
                rejected.add_metric([*labels, reason], count)
            moved.add_metric([*labels, "to_backend"], usage.to_backend)
            moved.add_metric([*labels, "from_backend"], usage.from_backend)
            latency.add_metric(labels, usage.latency.count, usage.latency.sum)
    yield from (active, total, rejected, moved, latency)


def check_metrics(backends: list[BackendView]) -> Iterator[Metric]:
    """Yield the metrics of checks."""
    names = ["backend", "target"]
    up = GaugeMetricFamily(
        "gateway_check_up", "1 if clients can use the target and the check can log in.", labels=names
    )
    attempts = CounterMetricFamily("gateway_check_attempts", "Probes of a target.", labels=names)
    failures = CounterMetricFamily(
        "gateway_check_failures", "Failed probes of a target, by reason.", labels=[*names, "reason"]
    )
    duration = HistogramMetricFamily("gateway_check_duration_seconds", "Duration of probes.", labels=names)
    phases = SummaryMetricFamily(
        "gateway_check_phase_duration_seconds",
        "Duration of each phase of a probe.",
        labels=[*names, "phase"],
    )
    last = GaugeMetricFamily(
        "gateway_check_last_success_timestamp_seconds", "Time of the last successful probe.", labels=names
    )
    for backend, target in ((each, target) for each in backends for target in each.targets):
        labels = [backend.name, target.target]
        if target.state is not HealthState.UNKNOWN:
            up.add_metric(labels, float(target.state.is_usable and target.reason != FailureReason.AUTH))
        attempts.add_metric(labels, target.attempts)
        for reason, count in target.failures.items():
            failures.add_metric([*labels, reason], count)
        duration.add_metric(labels, target.duration.cumulative(), target.duration.sum)
        for phase, (count, seconds) in target.phases.items():
            phases.add_metric([*labels, phase], count, seconds)
        if target.last_success is not None:
            last.add_metric(labels, target.last_success)
    yield from (up, attempts, failures, duration, phases, last)
