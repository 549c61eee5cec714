"""Prometheus metrics, made from a view at each scrape: what is gone from the configuration is gone here too."""

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
from gateway.ops.view import (
    ATTACHMENT_STATES,
    DEAD_CAUSES,
    BackendView,
    CredentialView,
    DockerView,
    ServiceView,
    TargetView,
    TunnelView,
)

disable_created_metrics()  # type: ignore[no-untyped-call]

_SAMPLES_PER_TURN = 100
_TURN = 0.001
"""Seconds; rendering a hundred samples takes about half of it."""
_USABLE = (State.UP, State.DEGRADED)


def render(view: ServiceView, accept: str) -> tuple[bytes, str]:
    """The whole exposition and its content type, in the format that `accept` asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ViewCollector(view))
    encoder, kind = choose_encoder(accept)
    return encoder(registry), kind


def content_type(accept: str) -> str:
    """The content type that `render` answers with."""
    return choose_encoder(accept)[1]


def families(view: ServiceView) -> Iterator[Metric]:
    """Return every metric, with its samples; of kinds, the metrics of those in the view."""
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
            family.samples = _Unhurried(family.samples)
            yield family


class _Unhurried(list[Sample]):
    """Samples whose rendering lets go of the interpreter again and again, so that the event loop gets its turns."""

    def __iter__(self) -> Iterator[Sample]:
        for number, sample in enumerate(super().__iter__()):
            if number % _SAMPLES_PER_TURN == _SAMPLES_PER_TURN - 1:
                time.sleep(_TURN)
            yield sample


def _service(view: ServiceView) -> Iterator[Metric]:
    build = GaugeMetricFamily("gateway_build_info", "What is running.", labels=["version", "python_version"])
    build.add_metric([view.version, view.python_version], 1)
    yield build
    yield GaugeMetricFamily(
        "gateway_config_last_reload_successful",
        "Whether the last attempt to load the configuration worked.",
        value=float(view.reload_successful),
    )
    yield GaugeMetricFamily(
        "gateway_config_last_reload_success_timestamp_seconds",
        "When the configuration was last loaded.",
        value=view.reload_success_at,
    )
    yield CounterMetricFamily(
        "gateway_audit_dropped", "Events that are missing in the audit log.", value=view.audit_dropped
    )
    yield GaugeMetricFamily("gateway_tasks", "Tasks of the event loop: it grows with clients only.", value=view.tasks)
    lag = HistogramMetricFamily("gateway_event_loop_lag_seconds", "How late the event loop runs its timers.")
    lag.add_metric([], view.loop_lag.cumulative(), view.loop_lag.sum)
    yield lag


def _tunnels(tunnels: list[TunnelView]) -> Iterator[Metric]:
    up = GaugeMetricFamily("gateway_tunnel_up", "Whether the tunnel is open.", labels=["tunnel"])
    state = GaugeMetricFamily("gateway_tunnel_state", "1 for what the tunnel is doing.", labels=["tunnel", "state"])
    connects = CounterMetricFamily("gateway_tunnel_connects", "Times the tunnel was opened.", labels=["tunnel"])
    failures = CounterMetricFamily(
        "gateway_tunnel_failures",
        "Times the tunnel failed or was lost, by reason.",
        labels=["tunnel", "reason"],
    )
    rtt = GaugeMetricFamily(
        "gateway_tunnel_rtt_seconds", "Last round trip to the far side of the tunnel.", labels=["tunnel"]
    )
    opened = HistogramMetricFamily(
        "gateway_channel_open_duration_seconds",
        "From dialling a target to a usable channel.",
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
    up = GaugeMetricFamily("gateway_backend_up", "Whether new clients reach the backend.", labels=["backend"])
    state = GaugeMetricFamily("gateway_backend_state", "1 for the backend's state.", labels=["backend", "state"])
    active = GaugeMetricFamily(
        "gateway_connections_active", "Clients that are connected or waiting.", labels=["backend"]
    )
    total = CounterMetricFamily("gateway_connections", "Clients accepted.", labels=["backend"])
    rejected = CounterMetricFamily(
        "gateway_connections_rejected", "Clients turned away, by reason.", labels=["backend", "reason"]
    )
    resets = CounterMetricFamily(
        "gateway_connections_reset",
        "Connections that ended in a reset, by reason.",
        labels=["backend", "reason"],
    )
    moved = CounterMetricFamily("gateway_connection_bytes", "Bytes moved.", labels=["backend", "direction"])
    latency = HistogramMetricFamily(
        "gateway_response_latency_seconds",
        "From a request's last byte to its answer's first, in a sample of the real traffic.",
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
    active = GaugeMetricFamily("gateway_consumer_connections_active", "Connections of one container.", labels=names)
    total = CounterMetricFamily("gateway_consumer_connections", "Connections of one container so far.", labels=names)
    rejected = CounterMetricFamily(
        "gateway_consumer_connections_rejected", "Those that it was refused, by reason.", labels=[*names, "reason"]
    )
    moved = CounterMetricFamily(
        "gateway_consumer_bytes", "Bytes moved for one container.", labels=[*names, "direction"]
    )
    latency = SummaryMetricFamily(
        "gateway_consumer_response_latency_seconds", "Response latency that one container sees.", labels=names
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
    up = GaugeMetricFamily("gateway_docker_up", "Whether the engine answers.")
    attachment = GaugeMetricFamily(
        "gateway_attachment_state",
        "1 for what a container's attachment to a network is.",
        labels=["network", "container", "state"],
    )
    writes = CounterMetricFamily("gateway_docker_writes", "Changes made in Docker, by action.", labels=["action"])
    errors = CounterMetricFamily(
        "gateway_docker_errors", "What the engine did not do, by action and reason.", labels=["action", "reason"]
    )
    dead = GaugeMetricFamily(
        "gateway_containers_dead",
        "Containers that do not run because a volume, a network or a network namespace was missing.",
        labels=["reason"],
    )
    revived = CounterMetricFamily(
        "gateway_containers_revived", "Containers that the gateway started, by what they lacked.", labels=["reason"]
    )
    if view is not None:
        for cause in DEAD_CAUSES:
            dead.add_metric([cause], sum(each.cause == cause for each in view.dead))
            revived.add_metric([cause], view.revived.get(cause, 0))
        up.add_metric([], float(view.trouble is None and view.looked_at is not None))
        for each in view.attachments:
            for state in ATTACHMENT_STATES:
                attachment.add_metric([each.network, each.container, state], float(state == each.state))
        for action, count in view.writes.items():
            writes.add_metric([action], count)
        for (action, reason), count in view.errors.items():
            errors.add_metric([action, reason], count)
    yield from (up, attachment, writes, errors, dead, revived)


def _credentials(credentials: list[CredentialView]) -> Iterator[Metric]:
    expiry = GaugeMetricFamily(
        "gateway_credential_expiry_timestamp_seconds",
        "When the first certificate expires that a tunnel, a backend or docker depends on.",
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
        "gateway_check_up", "Whether the target can be used, and the check can log in.", labels=names
    )
    attempts = CounterMetricFamily("gateway_check_attempts", "Checks made.", labels=names)
    failures = CounterMetricFamily(
        "gateway_check_failures", "Checks that failed, by reason.", labels=[*names, "reason"]
    )
    duration = HistogramMetricFamily("gateway_check_duration_seconds", "How long checks took.", labels=names)
    phases = SummaryMetricFamily(
        "gateway_check_phase_duration_seconds",
        "How long each part of a check took.",
        labels=[*names, "phase"],
    )
    last = GaugeMetricFamily(
        "gateway_check_last_success_timestamp_seconds", "When a check last succeeded.", labels=names
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
