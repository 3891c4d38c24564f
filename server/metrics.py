"""Prometheus metrics of this process."""

from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Histogram, generate_latest, multiprocess, values

CALLS = Histogram(
    "thecloud_calls_seconds",
    "Calls by method and outcome.",
    ["method", "outcome"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
RUNS = Histogram("thecloud_reconcile_seconds", "Reconciler runs by kind and outcome.", ["kind", "outcome"])


class Observer(Protocol):
    """One series of a histogram."""

    def observe(self, amount: float) -> None: ...


def exposition() -> bytes:
    """All metrics in Prometheus' text format; of all processes, when there are several."""
    if values.ValueClass.__name__ == "MmapedValue":
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest(REGISTRY)
