"""Creates the metrics that only some kinds of tunnels and backends have, such as the replication lag of databases.

A kind declares these values as facts (`gateway.facts`).
"""

from collections.abc import Iterable, Iterator
from itertools import product

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from gateway.facts import FactDefinition
from gateway.ops.status_views import BackendView, TunnelView


def fact_families(facts: Iterable[FactDefinition], *labels: str) -> dict[str, GaugeMetricFamily]:
    """Return the metrics of facts, by metric name. The metrics do not contain samples yet.

    Args:
        facts: The facts. A fact without a metric name has no metric.
        labels: The label names of each metric. If a fact declares an additional label, that label comes last.
    """
    return {
        fact.metric: GaugeMetricFamily(fact.metric, fact.help, labels=[*labels, *filter(None, [fact.label])])
        for fact in facts
        if fact.metric
    }


def tunnel_fact_metrics(tunnels: list[TunnelView]) -> Iterator[Metric]:
    """Yield the metrics of facts about tunnels. A fact is a value that only some kinds of tunnels have."""
    found = fact_families((fact for tunnel in tunnels for fact in tunnel.facts), "tunnel")
    for tunnel in tunnels:
        for fact, value in tunnel.fact_values.items():
            for labels, number in fact.samples(value) if fact.metric else ():
                found[fact.metric].add_metric([tunnel.name, *labels], number)
    yield from found.values()


def target_fact_metrics(backends: list[BackendView]) -> Iterator[Metric]:
    """Yield the metrics of facts about targets. A fact is a value that only some kinds of backends have."""
    found = fact_families((fact for backend in backends for fact in backend.facts), "backend", "target")
    for backend in backends:
        for target, fact in product(backend.targets, backend.facts):
            for labels, number in fact.samples(target.facts.get(fact)) if fact.metric else ():
                found[fact.metric].add_metric([backend.name, target.target, *labels], number)
    yield from found.values()
