"""Rows a second into the searchable index: the initial copy, the stream, and a backlog."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .cpu import cpu_seconds, per_row_us, spent
from .rows import blocks, copy_in, create_table, fill, random_vectors
from .stack import BenchmarkFailed, Stack, flush_lsn

#: Rows of one transaction of the bulk writer.
TRANSACTION_ROWS = 1_000

#: Slower than this is a failure, not a figure.
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """One measurement. ``mb_per_s`` counts the floats of the vectors only (4 bytes each, 10^6).

    ``cpu_us_per_row`` is CPU time by process; ``walsender`` is contained in ``postgres``.
    """

    rows: int
    dim: int
    seconds: float
    rows_per_s: float
    mb_per_s: float
    cpu_us_per_row: dict[str, float]
    extra: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the plain form, rounded for reading."""
        return asdict(self)


def measure_copy(stack: Stack, dim: int, rows: int) -> Throughput:
    """Fill a table, mirror it, and measure from the copy's first sign until the index is live."""
    table = f"copy_{dim}"
    with stack.connect() as conn:
        create_table(conn, table, dim)
        fill(conn, table, rows, dim)
    before, attached = stack.cpu(), time.perf_counter()
    name = stack.attach(table)
    began = stack.wait_for(name, "copying", TIMEOUT_S)
    ended = stack.wait_for(name, "live", TIMEOUT_S)
    cpu = spent(before, stack.cpu())
    _check_rows(stack, name, rows)
    extra = {"attach_to_live_s": round(ended - attached, 3)}
    result = _throughput(rows, dim, ended - began, cpu, extra)
    stack.drop(name)
    return result


def measure_stream(stack: Stack, dim: int, rows: int) -> Throughput:
    """Write bulk transactions as fast as Postgres takes them, into an index that is live.

    Measured from the first commit until a search that must not miss the last one is answered.
    """
    table, bodies, query = _prepare(stack, "stream", dim, rows)
    name = stack.attach(table)
    stack.wait_for(name, "live", TIMEOUT_S)
    before, own = stack.cpu(), cpu_seconds(os.getpid())
    with stack.connect() as conn:
        copy_in(conn, table, next(bodies))
        began = time.perf_counter()
        for body in bodies:
            copy_in(conn, table, body)
        written, lsn = time.perf_counter(), flush_lsn(conn)
    ended = stack.wait_applied(name, lsn, query, TIMEOUT_S)
    cpu = spent(before, stack.cpu()) | {"writer": cpu_seconds(os.getpid()) - own}
    _check_rows(stack, name, rows)
    timed_rows = max(rows - TRANSACTION_ROWS, 1)
    extra = {
        "writer_rows_per_s": round(timed_rows / (written - began)),
        "behind_the_writer_s": round(ended - written, 3),
    }
    result = _throughput(timed_rows, dim, ended - began, cpu, extra)
    stack.drop(name)
    return result


def measure_backlog(stack: Stack, dim: int, rows: int) -> Throughput:
    """Let the same transactions pile up while the sidecar is halted; measure how they drain.

    Without the writer beside it this is the capacity of walsender, sidecar and server.
    """
    table, bodies, query = _prepare(stack, "backlog", dim, rows)
    name = stack.attach(table)
    stack.wait_for(name, "live", TIMEOUT_S)
    os.kill(stack.sidecar.pid, signal.SIGSTOP)
    try:
        with stack.connect() as conn:
            for body in bodies:
                copy_in(conn, table, body)
            lsn = flush_lsn(conn)
        before, began = stack.cpu(), time.perf_counter()
    finally:
        os.kill(stack.sidecar.pid, signal.SIGCONT)
    ended = stack.wait_applied(name, lsn, query, TIMEOUT_S)
    cpu = spent(before, stack.cpu())
    _check_rows(stack, name, rows)
    result = _throughput(rows, dim, ended - began, cpu, {})
    stack.drop(name)
    return result


def _prepare(stack: Stack, kind: str, dim: int, rows: int) -> tuple[str, Any, list[float]]:
    """Create an empty table; build the transactions before any clock runs, and a query."""
    table = f"{kind}_{dim}"
    with stack.connect() as conn:
        create_table(conn, table, dim)
    bodies = iter(list(blocks(rows, dim, TRANSACTION_ROWS, seed=dim)))
    query = random_vectors(np.random.default_rng(0), 1, dim)[0].tolist()
    return table, bodies, query


def _check_rows(stack: Stack, name: str, rows: int) -> None:
    found = stack.live_rows(name)
    if found != rows:
        raise BenchmarkFailed(f"index {name} holds {found} rows, not {rows}")


def _throughput(
    rows: int, dim: int, seconds: float, cpu: dict[str, float], extra: dict[str, float]
) -> Throughput:
    return Throughput(
        rows=rows,
        dim=dim,
        seconds=round(seconds, 3),
        rows_per_s=round(rows / seconds),
        mb_per_s=round(rows * dim * 4 / 1e6 / seconds, 1),
        cpu_us_per_row=per_row_us(cpu, rows),
        extra=extra,
    )
