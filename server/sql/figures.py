"""The SQL port's figures in /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

CONNECTIONS = "vecmirror_sql_connections"
LOGINS = "vecmirror_sql_logins"
STATEMENTS = "vecmirror_sql_statements"
DURATION = "vecmirror_sql_statement_duration_seconds"

#: From a FETCH of rows at hand to the longest a statement may take by default.
_DURATION_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 10, 120)


class SqlFigures:
    """What happens on the SQL port, in the server's registry."""

    def __init__(self, registry: CollectorRegistry, n_connections: Callable[[], int]) -> None:
        Gauge(CONNECTIONS, "Clients connected to the SQL port.", registry=registry).set_function(
            n_connections
        )
        self._logins = Counter(
            LOGINS,
            "Logins on the SQL port, by outcome: ok or SQLSTATE.",
            ("outcome",),
            registry=registry,
        )
        self._statements = Counter(
            STATEMENTS,
            "Statements on the SQL port, by outcome: ok, lost (the client) or SQLSTATE.",
            ("outcome",),
            registry=registry,
        )
        self._ok = self._statements.labels("ok")
        self._duration = Histogram(
            DURATION,
            "Time of a statement, sending its rows included, in seconds.",
            registry=registry,
            buckets=_DURATION_BUCKETS,
        )

    def ran(self, outcome: str, seconds: float) -> None:
        """Count a statement."""
        (self._ok if outcome == "ok" else self._statements.labels(outcome)).inc()
        self._duration.observe(seconds)

    def logged_in(self, outcome: str) -> None:
        """Count a login."""
        self._logins.labels(outcome).inc()
