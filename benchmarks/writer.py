"""A steady load: single-row commits at a given rate, from a process of its own.

    python -m benchmarks.writer DSN TABLE DIM RATE SECONDS FIRST_ID

The rate is kept by the clock, not by the answers (an open loop): a slow commit delays none that is
due on another connection. Prints the number of rows and the seconds they took, as JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import numpy as np
import psycopg
from psycopg import sql

from .rows import random_vectors

CONNECTIONS = 8

#: Different vectors written; formatting one costs as much as committing it.
VECTORS = 64


def vector_text(vector: np.ndarray[tuple[int], np.dtype[np.float32]]) -> str:
    """Return pgvector's text form."""
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def insert_query(table: str) -> sql.Composed:
    """Return the INSERT of one row (id, embedding)."""
    return sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(sql.Identifier(table))


def _write(dsn: str, table: str, due_s: list[float], first_id: int, texts: list[str]) -> None:
    """Commit one row at each time of ``due_s`` (time.perf_counter), or at once when it is late."""
    query = insert_query(table)
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=1) as conn:
        for number, due in enumerate(due_s):
            time.sleep(max(0.0, due - time.perf_counter()))
            conn.execute(query, (first_id + number, texts[number % len(texts)]))


def write_steadily(
    dsn: str, table: str, dim: int, rate: float, seconds: float, first_id: int
) -> dict[str, float]:
    """Write ``rate`` rows a second for ``seconds``; return rows and the seconds they took."""
    texts = [vector_text(v) for v in random_vectors(np.random.default_rng(1), VECTORS, dim)]
    rows, began = int(rate * seconds), time.perf_counter() + 0.2
    due = [began + number / rate for number in range(rows)]
    threads = [
        threading.Thread(
            target=_write,
            args=(dsn, table, due[start::CONNECTIONS], first_id + start * rows, texts),
        )
        for start in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"rows": rows, "seconds": time.perf_counter() - began}


def main(arguments: list[str]) -> None:
    """Read the command line, write, and print what was done."""
    dsn, table, dim, rate, seconds, first_id = arguments
    done = write_steadily(dsn, table, int(dim), float(rate), float(seconds), int(first_id))
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1:])
