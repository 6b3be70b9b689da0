"""What searching in SQL costs: ``python -m benchmarks.sql``.

The same rows and queries through dblink, through foreign tables, over HTTP, and in pgvector's HNSW
at the same recall: unfiltered, with a filter, and with a condition on a joined table.
benchmarks/README.md says what each figure is.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from pgsync.connections import connect
from server.spec import IndexSpec
from server.sql.install import Options, PortAddress, install_statements
from server.sql.install.database import look, run

from .filtered import ITERATIVE
from .http import parser, save_queries, wanted_vectors
from .loads import asked_vector, http_load, pgbench_load
from .report import machine
from .searched import (
    BUCKETS,
    EF_SEARCH,
    HITS,
    TRAIN_FROM_ROWS,
    Found,
    Searched,
    build_hnsw,
    exact_nearest,
    fill,
    found_by_http,
    recall,
    set_local,
)
from .sql_forms import BELOW, LABELS, SEARCHES, Form, forms, pgvector_form
from .stack import Stack
from .writer import vector_text

#: Queries asked one by one for the recall.
RECALL_QUERIES = 60
CONCURRENCY = (1, 8, 32)
#: What the figures are meant to reach.
AIMS = {"light_join_over_http_ms": 1.5, "join_filter_qps_over_pgvector": 3.0, "dblink_qps": 2_000}

Keep = NDArray[np.bool_]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table or, with --json, one object."""
    made = parser(__doc__ or "")
    made.set_defaults(concurrency=CONCURRENCY)
    options = made.parse_args(arguments)
    progress = Console(stderr=True, quiet=options.json, style="dim")
    vectors, port = wanted_vectors(options), _free_port()
    settings = {"VECMIRROR_SQL__ENABLED": "true", "VECMIRROR_SQL__PORT": str(port)}
    train_from = min(TRAIN_FROM_ROWS, len(vectors.rows))
    with Stack(settings, train_from) as stack, stack.connect() as conn:
        progress.print(f"filling and mirroring {len(vectors.rows):,} rows")
        searched = fill(stack, conn, vectors)
        labels = _label(conn, len(vectors.rows))
        _install(stack, searched.name, port)
        progress.print("building pgvector's HNSW")
        build_hnsw(conn, vectors.metric)
        keeps = dict(zip(SEARCHES, (None, searched.buckets < BELOW, labels < BELOW), strict=True))
        runs = _Runs(stack, conn, searched, keeps, options.concurrency, options.seconds, progress)
        result = {
            **{"set": vectors.name, "metric": vectors.metric, "rows": len(vectors.rows)},
            **{"dim": vectors.rows.shape[1], "k": HITS, "runs": runs.all()},
            "machine": machine(conn),
        }
    result["reached"] = reached(result["runs"])
    print(json.dumps(result)) if options.json else _print(Console(), result)


def reached(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the figures that have aims, by their names in AIMS."""

    def best(search: str, who: str, figure: str, concurrency: int | None = None) -> float:
        found = [
            float(run[figure])
            for run in runs
            if (run["search"], run["who"]) == (search, who)
            and concurrency in (None, run["concurrency"])
        ]
        return min(found) if figure.endswith("_ms") else max(found)

    plain, _, join = SEARCHES
    first = runs[0]["concurrency"]
    over = best(plain, "fdw light + join", "p50_ms", first) - best(plain, "http", "p50_ms", first)
    ours = max(best(join, who, "qps") for who in ("fdw join", "fdw id set"))
    return {
        "light_join_over_http_ms": round(over, 3),
        "join_filter_qps_over_pgvector": round(ours / best(join, "pgvector", "qps"), 2),
        "dblink_qps": best(plain, "dblink", "qps"),
    }


class _Runs:
    """All measurements over one table; ``keeps``: the rows (bool[n]) of each search, None all."""

    def __init__(
        self,
        stack: Stack,
        conn: psycopg.Connection,
        searched: Searched,
        keeps: dict[str, Keep | None],
        concurrency: Sequence[int],
        seconds: float,
        progress: Console,
    ) -> None:
        self._stack, self._conn, self._searched = stack, conn, searched
        self._concurrency, self._seconds, self._progress = concurrency, seconds, progress
        self._asked = searched.vectors.queries[:RECALL_QUERIES]
        self._truth = {search: self._exact(keep) for search, keep in keeps.items()}
        self._queries = save_queries(stack, searched.vectors)

    def all(self) -> list[dict[str, Any]]:
        """Measure HTTP, every form, and pgvector brought to HTTP's recall."""
        rows = self._http(SEARCHES[0], None) + self._http(SEARCHES[1], f"bucket < {BELOW}")
        for form in forms():
            set_local(self._conn, form.settings)
            rows += self._form(form, self._recall(form))
        goals = {row["search"]: row[f"recall_at_{HITS}"] for row in rows if row["who"] != "http"}
        for search in SEARCHES:
            rows += self._pgvector(pgvector_form(search, self._searched.vectors.metric), goals)
        return rows

    def _http(self, search: str, condition: str | None) -> list[dict[str, Any]]:
        below = None if condition is None else BELOW
        found = found_by_http(self._stack, self._searched.name, self._asked, below)
        said = self._said(search, "http", recall(self._truth[search], found))
        more = {} if condition is None else {"filter": condition}
        return [
            said
            | http_load(
                self._stack,
                self._searched.name,
                self._queries,
                form="json",
                concurrency=concurrency,
                seconds=self._seconds,
                options=more,
            )
            for concurrency in self._concurrency
        ]

    def _form(self, form: Form, reached: float) -> list[dict[str, Any]]:
        said = self._said(form.search, form.who, reached)
        query = form.query.replace("{v}", asked_vector())
        return [
            said
            | pgbench_load(
                self._stack,
                query,
                len(self._searched.vectors.queries),
                form.settings,
                concurrency=concurrency,
                seconds=self._seconds,
            )
            for concurrency in self._concurrency
        ]

    def _pgvector(self, form: Form, goals: dict[str, float]) -> list[dict[str, Any]]:
        """Take the least hnsw.ef_search that reaches our recall, or its largest."""
        reached, settings = 0.0, {}
        for value in EF_SEARCH:
            settings = {**ITERATIVE, "hnsw.ef_search": str(value)}
            set_local(self._conn, settings)
            reached = self._recall(form)
            if reached >= goals[form.search]:
                break
        return self._form(Form(form.search, form.who, form.query, settings), reached)

    def _recall(self, form: Form) -> float:
        query = form.query.replace("{v}", "%(v)s::vector").replace(" % ", " %% ").encode()
        found = [
            {row[0] for row in self._conn.execute(query, {"v": vector_text(vector)}).fetchall()}
            for vector in self._asked
        ]
        return recall(self._truth[form.search], found)

    def _exact(self, keep: Keep | None) -> Found:
        rows, metric = self._searched.vectors.rows, self._searched.vectors.metric
        kept = np.arange(len(rows)) if keep is None else np.flatnonzero(keep)
        return [
            set((kept[near] + 1).tolist())
            for near in exact_nearest(rows[kept], self._asked, metric)
        ]

    def _said(self, search: str, who: str, found: float) -> dict[str, Any]:
        self._progress.print(f"{search}: {who}, recall {found:.3f}")
        return {"search": search, "who": who, f"recall_at_{HITS}": round(found, 4)}


def _label(conn: psycopg.Connection, rows: int) -> NDArray[np.int32]:
    """Make the table of labels that the index does not mirror; return them by id."""
    conn.execute(f"CREATE TABLE {LABELS} (id int8 PRIMARY KEY, label int4 NOT NULL)")
    conn.execute(
        f"INSERT INTO {LABELS} SELECT i, floor(random() * {BUCKETS})"
        f" FROM generate_series(1, {rows}) AS i"
    )
    conn.execute(f"VACUUM (FREEZE, ANALYZE) {LABELS}")
    found = conn.execute(f"SELECT label FROM {LABELS} ORDER BY id").fetchall()
    return np.array(found, np.int32)[:, 0]


def _install(stack: Stack, name: str, port: int) -> None:
    """Do what sql-install does."""
    spec = IndexSpec.from_json(stack.client.describe(name)["spec"])
    wanted, address = Options(), PortAddress(host="127.0.0.1", port=port)
    with connect(stack.dsn) as conn:
        run(conn, install_statements(spec, address, wanted, look(conn, spec, wanted)))


def _print(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=f"{result['rows']:,} rows of {result['dim']} dimensions, k = {HITS}")
    figures = ("concurrency", "qps", "p50_ms", "p99_ms", f"recall_at_{HITS}")
    for name in ("search", "who", *figures):
        table.add_column(
            name.replace("_", " "), justify="left" if name == "who" else "right", no_wrap=True
        )
    for row in result["runs"]:
        table.add_row(row["search"], row["who"], *(str(row[name]) for name in figures))
    console.print(table)
    for name, aim in AIMS.items():
        console.print(f"{name.replace('_', ' ')}: {result['reached'][name]}, aim {aim}")
    where = result["machine"].items()
    console.print(", ".join(f"{name} {value}" for name, value in where), style="dim")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
