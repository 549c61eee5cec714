"""Prometheus metrics, created from a view at each scrape, so that they have only what the configuration has."""

import time
from collections.abc import Iterable, Iterator
from itertools import chain, product

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from gateway.contracts import State, TunnelState
from gateway.errors import Reason
from gateway.facts import Fact
from gateway.ops.status_views import (
    ATTACHMENT_STATES,
    BackendView,
    CredentialView,
    DockerView,
    ServiceView,
    TargetView,
    TunnelView,
)

disable_created_metrics()  # type: ignore[no-untyped-call]

_SAMPLES_PER_TURN = 100
_PAUSE = 0.001
"""Seconds. Rendering a hundred samples takes about half of that."""
_USABLE = (State.UP, State.DEGRADED)


def render(view: ServiceView, accept: str) -> tuple[bytes, str]:
    """Return all metrics and their content type.

    Args:
        view: The state of the service.
        accept: The Accept header of the request, which selects the format.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ViewCollector(view))
    encoder, kind = choose_encoder(accept)
    return encoder(registry), kind


def content_type(accept: str) -> str:
    """Return the content type that `render` selects for an Accept header."""
    return choose_encoder(accept)[1]


def families(view: ServiceView) -> Iterator[Metric]:
    """Yield every metric with its samples; of the kinds' metrics, only those of kinds in the view."""
    checks = [(backend, target) for backend in view.backends for target in backend.targets]
    return chain(
        _service(view),
        _tunnels(view.tunnels),
        _tunnel_facts(view.tunnels),
        _backends(view.backends),
        _consumers(view.backends),
        _checks(checks),
        _target_facts(view.backends),
        _docker(view.docker),
        _credentials(view.credentials),
    )


class _ViewCollector(Collector):
    def __init__(self, view: ServiceView) -> None:
        self._view = view

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for family in families(self._view):
            family.samples = _YieldingSamples(family.samples)
            yield family


class _YieldingSamples(list[Sample]):
    """Samples that release the GIL regularly while they are rendered, so that the event loop can run."""

    def __iter__(self) -> Iterator[Sample]:
        for number, sample in enumerate(super().__iter__()):
            if number % _SAMPLES_PER_TURN == _SAMPLES_PER_TURN - 1:
                time.sleep(_PAUSE)
            yield sample


def _service(view: ServiceView) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "gateway_build_info", "Version of the gateway and of Python.", labels=["version", "python_version"]
    )
    build.add_metric([view.version, view.python_version], 1)
    yield build
    yield GaugeMetricFamily(
        "gateway_config_last_reload_successful",
        "1 if the last load of the configuration succeeded.",
        value=float(view.reload_successful),
    )
    yield GaugeMetricFamily(
        "gateway_config_last_reload_success_timestamp_seconds",
        "Time of the last successful load of the configuration.",
        value=view.reload_success_at,
    )
    yield CounterMetricFamily("gateway_audit_dropped", "Events dropped from the audit log.", value=view.audit_dropped)
    yield GaugeMetricFamily("gateway_tasks", "Tasks of the event loop; grows only with clients.", value=view.tasks)
    lag = HistogramMetricFamily("gateway_event_loop_lag_seconds", "Delay of timers in the event loop.")
    lag.add_metric([], view.loop_lag.cumulative(), view.loop_lag.sum)
    yield lag


def _tunnels(tunnels: list[TunnelView]) -> Iterator[Metric]:
    up = GaugeMetricFamily("gateway_tunnel_up", "1 if the tunnel is open.", labels=["tunnel"])
    state = GaugeMetricFamily(
        "gateway_tunnel_state", "1 for the current state of the tunnel.", labels=["tunnel", "state"]
    )
    connects = CounterMetricFamily("gateway_tunnel_connects", "Successful connects of the tunnel.", labels=["tunnel"])
    failures = CounterMetricFamily(
        "gateway_tunnel_failures",
        "Failed connects and losses of the tunnel, by reason.",
        labels=["tunnel", "reason"],
    )
    rtt = GaugeMetricFamily(
        "gateway_tunnel_rtt_seconds", "Last round trip to the far side of the tunnel.", labels=["tunnel"]
    )
    opened = HistogramMetricFamily(
        "gateway_channel_open_duration_seconds",
        "Time from dialing a target to an open channel.",
        labels=["tunnel"],
    )
    for each in tunnels:
        up.add_metric([each.name], float(each.state is TunnelState.UP))
        for value in TunnelState:
            state.add_metric([each.name, value], float(value is each.state))
        connects.add_metric([each.name], each.connects)
        for reason, count in each.failures.items():
            failures.add_metric([each.name, reason], count)
        if each.rtt is not None:
            rtt.add_metric([each.name], each.rtt)
        opened.add_metric([each.name], each.channel_open.cumulative(), each.channel_open.sum)
    yield from (up, state, connects, failures, rtt, opened)


def fact_families(facts: Iterable[Fact], *labels: str) -> dict[str, GaugeMetricFamily]:
    """Return an empty metric for each fact that has one, by name.

    Args:
        facts: The facts.
        labels: The labels beside the fact's own.
    """
    return {
        fact.metric: GaugeMetricFamily(fact.metric, fact.help, labels=[*labels, *filter(None, [fact.label])])
        for fact in facts
        if fact.metric
    }


def _tunnel_facts(tunnels: list[TunnelView]) -> Iterator[Metric]:
    found = fact_families((fact for tunnel in tunnels for fact in tunnel.facts), "tunnel")
    for tunnel in tunnels:
        for fact in tunnel.facts:
            for labels, number in fact.samples(tunnel.details.get(fact.key)) if fact.metric else ():
                found[fact.metric].add_metric([tunnel.name, *labels], number)
    yield from found.values()


def _target_facts(backends: list[BackendView]) -> Iterator[Metric]:
    found = fact_families((fact for backend in backends for fact in backend.facts), "backend", "target")
    for backend in backends:
        for target, fact in product(backend.targets, backend.facts):
            for labels, number in fact.samples(target.facts.get(fact)) if fact.metric else ():
                found[fact.metric].add_metric([backend.name, target.target, *labels], number)
    yield from found.values()


def _backends(backends: list[BackendView]) -> Iterator[Metric]:
    up = GaugeMetricFamily("gateway_backend_up", "1 if new clients can reach the backend.", labels=["backend"])
    state = GaugeMetricFamily(
        "gateway_backend_state", "1 for the current state of the backend.", labels=["backend", "state"]
    )
    active = GaugeMetricFamily("gateway_connections_active", "Connected and waiting clients.", labels=["backend"])
    total = CounterMetricFamily("gateway_connections", "Accepted clients.", labels=["backend"])
    rejected = CounterMetricFamily(
        "gateway_connections_rejected", "Rejected clients, by reason.", labels=["backend", "reason"]
    )
    resets = CounterMetricFamily(
        "gateway_connections_reset",
        "Connections that ended with a reset, by reason.",
        labels=["backend", "reason"],
    )
    moved = CounterMetricFamily("gateway_connection_bytes", "Bytes transferred.", labels=["backend", "direction"])
    latency = HistogramMetricFamily(
        "gateway_response_latency_seconds",
        "Time from the last byte of a request to the first byte of its response, in a sample of real traffic.",
        labels=["backend"],
    )
    for each in backends:
        up.add_metric([each.name], float(each.state in _USABLE))
        for value in State:
            state.add_metric([each.name, value], float(value is each.state))
        active.add_metric([each.name], each.connections)
        total.add_metric([each.name], each.connections_total)
        for reason, count in each.rejected.items():
            rejected.add_metric([each.name, reason], count)
        for reason, count in each.resets.items():
            resets.add_metric([each.name, reason], count)
        moved.add_metric([each.name, "to_backend"], each.to_backend)
        moved.add_metric([each.name, "from_backend"], each.from_backend)
        latency.add_metric([each.name], each.latency.cumulative(), each.latency.sum)
    yield from (up, state, active, total, rejected, resets, moved, latency)


def _consumers(backends: list[BackendView]) -> Iterator[Metric]:
    names = ["backend", "consumer"]
    active = GaugeMetricFamily(
        "gateway_consumer_connections_active", "Open connections of a container.", labels=names
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


def _docker(view: DockerView | None) -> Iterator[Metric]:
    up = GaugeMetricFamily("gateway_docker_up", "1 if the engine responds.")
    attachment = GaugeMetricFamily(
        "gateway_attachment_state",
        "1 for the current state of a container's attachment to a network.",
        labels=["network", "container", "state"],
    )
    writes = CounterMetricFamily("gateway_docker_writes", "Changes made in Docker, by action.", labels=["action"])
    errors = CounterMetricFamily(
        "gateway_docker_errors", "Failed changes in Docker, by action and reason.", labels=["action", "reason"]
    )
    if view is not None:
        up.add_metric([], float(view.trouble is None and view.looked_at is not None))
        for each in view.attachments:
            for state in ATTACHMENT_STATES:
                attachment.add_metric([each.network, each.container, state], float(state == each.state))
        for action, count in view.writes.items():
            writes.add_metric([action], count)
        for (action, reason), count in view.errors.items():
            errors.add_metric([action, reason], count)
    yield from (up, attachment, writes, errors)


def _credentials(credentials: list[CredentialView]) -> Iterator[Metric]:
    expiry = GaugeMetricFamily(
        "gateway_credential_expiry_timestamp_seconds",
        "Earliest expiry of the certificates that a tunnel, a backend, docker or ops uses.",
        labels=["kind", "name"],
    )
    first: dict[tuple[str, str], float] = {}
    for each in credentials:
        first[each.kind, each.name] = min(each.expires, first.get((each.kind, each.name), each.expires))
    for labels, expires in first.items():
        expiry.add_metric(labels, expires)
    yield expiry


def _checks(checks: list[tuple[BackendView, TargetView]]) -> Iterator[Metric]:
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
    for backend, target in checks:
        labels = [backend.name, target.target]
        if target.state is not State.UNKNOWN:
            up.add_metric(labels, float(target.state in _USABLE and target.reason != Reason.AUTH))
        attempts.add_metric(labels, target.attempts)
        for reason, count in target.failures.items():
            failures.add_metric([*labels, reason], count)
        duration.add_metric(labels, target.duration.cumulative(), target.duration.sum)
        for phase, (count, seconds) in target.phases.items():
            phases.add_metric([*labels, phase], count, seconds)
        if target.last_success is not None:
            last.add_metric(labels, target.last_success)
    yield from (up, attempts, failures, duration, phases, last)
