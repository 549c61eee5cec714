"""Creates the Prometheus metrics at each scrape, only for tunnels and backends that still exist."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from gateway.contracts.states import TunnelState
from gateway.ops.backend_metrics import backend_metrics, check_metrics, consumer_metrics, path_metrics
from gateway.ops.docker_views import ATTACHMENT_STATES, UNAVAILABLE_CAUSES, DockerView
from gateway.ops.kind_specific_metrics import target_fact_metrics, tunnel_fact_metrics
from gateway.ops.status_views import CertificateView, ServiceView, TunnelView

disable_created_metrics()  # type: ignore[no-untyped-call]

_PROCESS = ProcessCollector(registry=None)
"""Reads the CPU time, memory and file descriptors of this process from /proc."""
_SAMPLES_PER_TURN = 100
_PAUSE = 0.001
"""Seconds to sleep after every `_SAMPLES_PER_TURN` samples, so that the thread of the event loop gets the GIL.
Rendering this number of samples takes about half of `_PAUSE`."""


def render(view: ServiceView, accept: str) -> tuple[bytes, str]:
    """Return all metrics and their content type.

    Args:
        view: The state of the service.
        accept: The Accept header of the request, which selects the format.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_StatusMetricsCollector(view))
    encoder, kind = _encoder(accept)
    return encoder(registry), kind


def content_type(accept: str) -> str:
    """Return the content type that `render` selects for an Accept header."""
    return _encoder(accept)[1]


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # for example, the version in `accept` is not a number
        return choose_encoder("")


def families(view: ServiceView) -> Iterator[Metric]:
    """Yield every metric with its samples.

    Omit the metric of a fact if no tunnel or backend has the fact.
    """
    return chain(
        _service(view),
        _tunnels(view.tunnels),
        tunnel_fact_metrics(view.tunnels),
        backend_metrics(view.backends),
        path_metrics(view.backends),
        consumer_metrics(view.backends),
        check_metrics(view.backends),
        target_fact_metrics(view.backends),
        _docker(view.docker),
        _credentials(view.credentials),
        _PROCESS.collect(),
    )


class _StatusMetricsCollector(Collector):
    """A `prometheus_client` collector that returns the metrics of one view of the service's state."""

    def __init__(self, view: ServiceView) -> None:
        self._view = view

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for family in families(self._view):
            family.samples = _YieldingSampleList(family.samples)
            yield family


class _YieldingSampleList(list[Sample]):
    """A list of samples. Its iterator sleeps regularly, so that the thread of the event loop can run."""

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
    yield CounterMetricFamily("gateway_audit_dropped", "Audit events that were dropped.", value=view.audit_dropped)
    yield GaugeMetricFamily(
        "gateway_tasks",
        "Number of asyncio tasks. With the same configuration, it depends mainly on the number of clients and of"
        " fleet members.",
        value=view.tasks,
    )
    lag = HistogramMetricFamily("gateway_event_loop_lag_seconds", "Delay of timers in the event loop.")
    lag.add_metric([], view.loop_lag.cumulative(), view.loop_lag.sum)
    yield lag


def _tunnels(tunnels: list[TunnelView]) -> Iterator[Metric]:
    up = GaugeMetricFamily("gateway_tunnel_up", "1 if the state of the tunnel is up.", labels=["tunnel"])
    state = GaugeMetricFamily(
        "gateway_tunnel_state", "1 for the current state of the tunnel.", labels=["tunnel", "state"]
    )
    connects = CounterMetricFamily(
        "gateway_tunnel_connects", "Successful connection attempts of the tunnel.", labels=["tunnel"]
    )
    failures = CounterMetricFamily(
        "gateway_tunnel_failures",
        "Failed connection attempts and lost connections of the tunnel, by reason. The reason `tunnel` means that the"
        " outer tunnel was lost while this tunnel was open or opening.",
        labels=["tunnel", "reason"],
    )
    rtt = GaugeMetricFamily(
        "gateway_tunnel_rtt_seconds", "Last round-trip time to the far side of the tunnel.", labels=["tunnel"]
    )
    opened = HistogramMetricFamily(
        "gateway_channel_open_duration_seconds",
        "Time to open a connection, such as an SSH channel, to a target through the tunnel.",
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
    unavailable = GaugeMetricFamily(
        "gateway_containers_dead",
        "Containers that are unavailable because a volume, a network or a network namespace was missing.",
        labels=["reason"],
    )
    revived = CounterMetricFamily(
        "gateway_containers_revived",
        "Containers that the gateway started after a missing volume, network or network namespace became available.",
        labels=["reason"],
    )
    if view is not None:
        for cause in UNAVAILABLE_CAUSES:
            unavailable.add_metric(
                [cause], sum(each.cause == cause and not each.is_excluded for each in view.unavailable)
            )
            revived.add_metric([cause], view.revived.get(cause, 0))
        up.add_metric([], float(view.problem is None and view.observed_at is not None))
        for each in view.attachments:
            for state in ATTACHMENT_STATES:
                attachment.add_metric([each.network, each.container, state], float(state == each.state))
        for action, count in view.writes.items():
            writes.add_metric([action], count)
        for (action, reason), count in view.errors.items():
            errors.add_metric([action, reason], count)
    yield from (up, attachment, writes, errors, unavailable, revived)


def _credentials(credentials: list[CertificateView]) -> Iterator[Metric]:
    expiry = GaugeMetricFamily(
        "gateway_credential_expiry_timestamp_seconds",
        "Earliest expiry of the certificates of a tunnel, a backend or a configuration section (docker, fleet, ops,"
        " traces).",
        labels=["kind", "name"],
    )
    first: dict[tuple[str, str], float] = {}
    for each in credentials:
        first[each.kind, each.name] = min(each.expires, first.get((each.kind, each.name), each.expires))
    for labels, expires in first.items():
        expiry.add_metric(labels, expires)
    yield expiry
