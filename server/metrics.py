"""The figures of /metrics: every name with its unit and its sentence, in one place.

Labels stay few: index names, outcomes and positions; never keys, filters or addresses. Figures of
an index are read from its mirror when Prometheus asks, so they are never older than the question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from .freshness import Freshness

SEARCH_DURATION = "vecmirror_search_duration_seconds"
SEARCHES = "vecmirror_searches"
BATCH_QUERIES = "vecmirror_batch_queries"
SEARCHES_QUEUED = "vecmirror_searches_queued"
SEARCHES_WAITING = "vecmirror_searches_waiting"
REQUESTS = "vecmirror_requests"
CHANGE_BATCHES = "vecmirror_change_batches"
CHANGE_BYTES = "vecmirror_change_bytes"
CHANGE_DURATION = "vecmirror_change_batch_duration_seconds"
LSN = "vecmirror_replication_lsn_bytes"
LAG_BYTES = "vecmirror_replication_lag_bytes"
SILENCE = "vecmirror_replication_silence_seconds"
ROWS = "vecmirror_index_rows"
DRIFT = "vecmirror_index_drift_ratio"
PHASE = "vecmirror_index_phase"

SENTENCES: Mapping[str, str] = {
    SEARCH_DURATION: "Time of a search in the server, waiting included, in seconds.",
    SEARCHES: "Searches answered, by outcome: ok or the problem's code.",
    BATCH_QUERIES: "Query vectors that were searched together.",
    SEARCHES_QUEUED: "Searches that wait for a thread or run.",
    SEARCHES_WAITING: "Searches that wait for an LSN.",
    REQUESTS: "HTTP requests answered, by method and status.",
    CHANGE_BATCHES: "Change batches received, by outcome: ok or the problem's code.",
    CHANGE_BYTES: "Bytes of change batches received.",
    CHANGE_DURATION: "Time to journal and apply a change batch, in seconds.",
    LSN: "Position in the source's log that the index has reached, in bytes.",
    LAG_BYTES: "How far the index is behind the source's log, in bytes.",
    SILENCE: "Time since the sidecar was last heard, in seconds.",
    ROWS: "Rows of the index, by state: live, encoded (in lists), dead, or dead_in_lists.",
    DRIFT: "Error of new rows' lists, and imbalance of lists, over the same at training time.",
    PHASE: "1 for the phase the index is in.",
}

PHASES = ("new", "copying", "live", "resync", "failed")

#: From a warm single query on a small index to the longest search timeout that is allowed.
_DURATION_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The figures of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[MetricWrapperBase, tuple[str, ...]], Any] = {}
        self.search_duration = self._histogram(SEARCH_DURATION, ("index",), _DURATION_BUCKETS)
        self.searches = self._counter(SEARCHES, ("index", "outcome"))
        self.batch_queries = self._histogram(BATCH_QUERIES, (), _BATCH_BUCKETS)
        self.requests = self._counter(REQUESTS, ("method", "status"))
        self.change_batches = self._counter(CHANGE_BATCHES, ("index", "outcome"))
        self.change_bytes = self._counter(CHANGE_BYTES, ("index",))
        self.change_duration = self._histogram(CHANGE_DURATION, ("index",), _DURATION_BUCKETS)
        Info("vecmirror_build", "Version of the server.", registry=self.registry).info(
            {"version": version("vecmirror")}
        )

    def searched(self, index: str, outcome: str, took_s: float) -> None:
        """Count one search of ``index`` and its time."""
        self._child(self.searches, index, outcome).inc()
        self._child(self.search_duration, index).observe(took_s)

    def answered(self, method: str, status: int) -> None:
        """Count one request."""
        self._child(self.requests, method, str(status)).inc()

    def watch(self, name: str, read: Callable[[], int]) -> None:
        """Show what ``read`` returns when asked as the gauge ``name``."""
        Gauge(name, SENTENCES[name], registry=self.registry).set_function(read)

    def watch_indexes(self, read: Callable[[], Iterable[IndexFigures]]) -> None:
        """Show the figures of every index that ``read`` returns when asked."""
        self.registry.register(_IndexCollector(read))

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _child(self, figure: MetricWrapperBase, *labels: str) -> Any:
        """Return ``figure.labels(*labels)``, which takes longer to find than to count."""
        child = self._children.get((figure, labels))
        if child is None:
            child = self._children[figure, labels] = figure.labels(*labels)
        return child

    def _counter(self, name: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, SENTENCES[name], labels, registry=self.registry)

    def _histogram(
        self, name: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, SENTENCES[name], labels, buckets=buckets, registry=self.registry)


@dataclass(frozen=True, slots=True)
class IndexFigures:
    """What /metrics shows of one index; ``freshness`` None: its feed was never heard."""

    name: str
    phase: str
    rows: Mapping[str, int]
    drift: Mapping[str, float]
    applied_lsn: int
    freshness: Freshness | None


class _IndexCollector(Collector):
    """Reads the figures of all indexes when Prometheus asks."""

    def __init__(self, read: Callable[[], Iterable[IndexFigures]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what is collected depends on the indexes there are."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each figure."""
        rows, phase = _gauge(ROWS, "state"), _gauge(PHASE, "phase")
        drift = _gauge(DRIFT, "figure")
        lsn, lag, silence = _gauge(LSN, "position"), _gauge(LAG_BYTES), _gauge(SILENCE)
        for index in self._read():
            for state, count in index.rows.items():
                rows.add_metric((index.name, state), count)
            for figure, ratio in index.drift.items():
                drift.add_metric((index.name, figure), ratio)
            for name in PHASES:
                phase.add_metric((index.name, name), float(name == index.phase))
            lsn.add_metric((index.name, "applied"), index.applied_lsn)
            if index.freshness is not None:
                lsn.add_metric((index.name, "durable"), index.freshness.durable_lsn)
                lsn.add_metric((index.name, "source"), index.freshness.source_lsn)
                lag.add_metric((index.name,), index.freshness.lag_bytes)
                silence.add_metric((index.name,), index.freshness.silence_s)
        yield from (rows, drift, phase, lsn, lag, silence)


def _gauge(name: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, SENTENCES[name], labels=("index", *labels))
