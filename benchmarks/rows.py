"""Tables of random vectors, written with binary COPY: (id int8, embedding vector(d))."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

Vectors = NDArray[np.float32]

#: Rows of one COPY message: large enough to cost nothing per message, small enough for memory.
BLOCK_ROWS = 10_000

#: File header and trailer of COPY's binary format (Postgres docs, "COPY", File Formats).
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"


def random_vectors(rng: np.random.Generator, rows: int, dim: int) -> Vectors:
    """Return f32[rows, dim], uniform in [-0.5, 0.5)."""
    return rng.random((rows, dim), dtype=np.float32) - np.float32(0.5)


def copy_body(first_id: int, vectors: Vectors) -> bytes:
    """Return the whole input of one binary COPY of rows ``first_id``, ``first_id`` + 1, ..."""
    rows, dim = vectors.shape
    record = np.zeros(
        rows,
        dtype=[
            *(("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i8")),
            *(("vector_bytes", ">i4"), ("dim", ">i2"), ("unused", ">i2"), ("v", ">f4", (dim,))),
        ],
    )
    record["fields"], record["id_bytes"] = 2, 8
    record["id"] = np.arange(first_id, first_id + rows)
    record["vector_bytes"], record["dim"] = 4 + 4 * dim, dim
    record["v"] = vectors
    return _HEADER + record.tobytes() + _TRAILER


def create_table(conn: psycopg.Connection, table: str, dim: int) -> None:
    """Create the table, empty."""
    query = sql.SQL("CREATE TABLE {} (id int8 PRIMARY KEY, embedding vector({}) NOT NULL)")
    conn.execute(query.format(sql.Identifier(table), sql.Literal(dim)))


def copy_in(conn: psycopg.Connection, table: str, body: bytes) -> None:
    """Run one COPY; with autocommit it is one transaction."""
    query = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(sql.Identifier(table))
    with conn.cursor() as cursor, cursor.copy(query) as copy:
        copy.write(body)


def blocks(rows: int, dim: int, block_rows: int, seed: int) -> Iterator[bytes]:
    """Yield the COPY inputs of ``rows`` random rows, ids from 1 on."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, block_rows):
        size = min(block_rows, rows - start)
        yield copy_body(start + 1, random_vectors(rng, size, dim))


def fill(conn: psycopg.Connection, table: str, rows: int, dim: int) -> None:
    """Fill the table, and leave nothing for later: no hint bits to set, no dirty pages to write."""
    for body in blocks(rows, dim, BLOCK_ROWS, seed=dim):
        copy_in(conn, table, body)
    conn.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(sql.Identifier(table)))
    conn.execute("CHECKPOINT")
