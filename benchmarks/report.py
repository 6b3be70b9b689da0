"""What was measured, where, and with which versions; as tables and as one JSON object."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from .latency import Latency
from .throughput import Throughput

LIBRARIES = ("vecmirror", "numpy", "pyarrow", "psycopg", "fastapi", "uvicorn")

#: What the project aims at: rows a second by kind and dimension, milliseconds by percentile.
ROWS_PER_S_AIMS = {("copy", 128): 100_000, ("stream", 768): 20_000}
LATENCY_AIMS_MS = {"p50": 5, "p99": 50}

ROLES = ("postgres", "walsender", "sidecar", "server", "writer")

#: kind of measurement -> dimension -> what was measured
Measured = Mapping[str, Mapping[int, Throughput]]


def machine(conn: psycopg.Connection) -> dict[str, Any]:
    """Return the processor, memory and versions; never a name of the machine."""
    row = conn.execute(
        "SELECT current_setting('server_version'),"
        " (SELECT extversion FROM pg_extension WHERE extname = 'vector')"
    ).fetchone()
    assert row is not None
    return {**host(), "postgres": row[0], "pgvector": row[1]}


def host() -> dict[str, Any]:
    """Return the processor, memory and versions of what runs in this process."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "system": platform.platform(aliased=True, terse=True),
        "python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def summary(measured: Measured, latency: Latency, where: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object: the headline figures, then all of the detail."""
    rows_per_s = {
        f"{kind}_rows_per_s": {str(dim): one.rows_per_s for dim, one in by_dim.items()}
        for kind, by_dim in measured.items()
    }
    detail = {
        kind: {str(dim): one.to_json() for dim, one in by_dim.items()}
        for kind, by_dim in measured.items()
    }
    return {
        **rows_per_s,
        "copy_mb_per_s": {str(dim): one.mb_per_s for dim, one in measured["copy"].items()},
        "commit_to_searchable_ms": latency.commit_to_searchable,
        "detail": {**detail, "latency": latency.to_json()},
        "machine": dict(where),
    }


def print_tables(
    console: Console,
    measured: Measured,
    latency: Latency,
    where: Mapping[str, Any],
) -> None:
    """Print throughput, latency and the machine."""
    console.print(_throughput_table(measured))
    console.print(_cpu_table(measured, latency))
    console.print(_latency_table(latency))
    console.print(", ".join(f"{name} {value}" for name, value in where.items()), style="dim")


def _throughput_table(measured: Measured) -> Table:
    table = Table(title="Into the searchable index")
    for heading in ("", "dims", "rows", "seconds", "rows/s", "MB/s", "aim"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, dim, one in _each(measured):
        aim = ROWS_PER_S_AIMS.get((kind, dim))
        table.add_row(
            kind,
            str(dim),
            f"{one.rows:,}",
            f"{one.seconds:.2f}",
            f"{one.rows_per_s:,}",
            f"{one.mb_per_s:,.0f}",
            f">= {aim:,}" if aim else "",
        )
    return table


def _cpu_table(measured: Measured, latency: Latency) -> Table:
    table = Table(title="CPU time in µs a row (walsender is part of postgres)")
    for heading in ("", "dims", *ROLES):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, dim, one in _each(measured):
        table.add_row(kind, str(dim), *_cpu_cells(one.cpu_us_per_row))
    table.add_row("single commits", str(latency.dim), *_cpu_cells(latency.cpu_us_per_row))
    return table


def _each(measured: Measured) -> Iterator[tuple[str, int, Throughput]]:
    for kind, by_dim in measured.items():
        for dim, one in by_dim.items():
            yield kind, dim, one


def _cpu_cells(cpu_us_per_row: Mapping[str, float]) -> list[str]:
    return [f"{cpu_us_per_row[role]:.1f}" if role in cpu_us_per_row else "" for role in ROLES]


def _latency_table(latency: Latency) -> Table:
    table = Table(
        title=f"Commit to searchable: {latency.rows_per_s:,} single-row commits/s, "
        f"{latency.dim} dims, {latency.samples:,} samples"
    )
    for heading in ("milliseconds", "p50", "p99"):
        table.add_column(heading, justify="left" if heading == "milliseconds" else "right")
    rows = {"commit to searchable": latency.commit_to_searchable, **latency.parts}
    for part, values in rows.items():
        table.add_row(part.replace("_", " "), f"{values['p50']:.2f}", f"{values['p99']:.2f}")
    table.add_row("aim", *(f"<= {aim}" for aim in LATENCY_AIMS_MS.values()), style="dim")
    return table


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
