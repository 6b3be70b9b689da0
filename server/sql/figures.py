"""The SQL port's figures in /metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

CONNECTIONS = "vecmirror_sql_connections"
LOGINS = "vecmirror_sql_logins"
STATEMENTS = "vecmirror_sql_statements"
DURATION = "vecmirror_sql_statement_duration_seconds"

#: From a FETCH of rows at hand to the longest a statement may take by default.
_DURATION_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 10, 120)


class SqlFigures:
    """What happens on the SQL port, in the server's registry; counted on the event loop."""

    def __init__(self, registry: CollectorRegistry, n_connections: Callable[[], int]) -> None:
        Gauge(CONNECTIONS, "Clients connected to the SQL port.", registry=registry).set_function(
            n_connections
        )
        self._logins = prometheus_client.Counter(
            LOGINS,
            "Logins on the SQL port, by outcome: ok or SQLSTATE.",
            ("outcome",),
            registry=registry,
        )
        self._statements = _Statements()
        registry.register(self._statements)

    def ran(self, outcome: str, seconds: float) -> None:
        """Count a statement."""
        self._statements.ran(outcome, seconds)

    def logged_in(self, outcome: str) -> None:
        """Count a login."""
        self._logins.labels(outcome).inc()


class _Statements(Collector):
    """Counts of statements and of their times.

    A search in SQL is five statements: they are plain numbers that become metrics when asked for.
    """

    def __init__(self) -> None:
        self._outcomes: Counter[str] = Counter({"ok": 0})
        self._buckets = [0] * (len(_DURATION_BUCKETS) + 1)
        self._total_s = 0.0

    def ran(self, outcome: str, seconds: float) -> None:
        """Count one."""
        self._outcomes[outcome] += 1
        self._buckets[bisect_left(_DURATION_BUCKETS, seconds)] += 1
        self._total_s += seconds

    def describe(self) -> Iterable[Metric]:
        """Return the families without their values."""
        return (self._counts({}), self._times([0] * len(self._buckets), 0.0))

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return (self._counts(dict(self._outcomes)), self._times(self._buckets, self._total_s))

    @staticmethod
    def _counts(outcomes: dict[str, int]) -> Metric:
        text = "Statements on the SQL port, by outcome: ok, lost (the client) or SQLSTATE."
        family = CounterMetricFamily(STATEMENTS, text, labels=("outcome",))
        for outcome, count in outcomes.items():
            family.add_metric((outcome,), count)
        return family

    @staticmethod
    def _times(buckets: list[int], total_s: float) -> Metric:
        text = "Time of a statement, sending its rows included, in seconds."
        family = HistogramMetricFamily(DURATION, text)
        ends = [*map(str, map(float, _DURATION_BUCKETS)), "+Inf"]
        counts = accumulate(buckets)
        family.add_metric((), list(zip(ends, counts, strict=True)), total_s)
        return family
