"""The demonstration's own table in Postgres, as an application would have it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import psycopg

from .entries import DIM, Entries

CREATE = f"""
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE words (
    id        bigint PRIMARY KEY,
    word      text NOT NULL,
    gloss     text NOT NULL,
    letters   int NOT NULL,
    embedding vector({DIM})
)
"""

#: Rows between two calls of ``progress``.
PROGRESS_ROWS = 500


def create_and_load(
    connection: psycopg.Connection, entries: Entries, progress: Callable[[int], None]
) -> None:
    """Create ``words`` and fill it with one binary COPY; ``progress`` gets the rows written."""
    connection.execute(CREATE.encode())
    columns = "id, word, gloss, letters, embedding"
    with (
        connection.transaction(),
        connection.cursor() as cursor,
        cursor.copy(f"COPY words ({columns}) FROM STDIN (FORMAT binary)".encode()) as copy,
    ):
        # COPY does not look at the name of a binary type, so pgvector's bytes may travel as bytea.
        copy.set_types(["int8", "text", "text", "int4", "bytea"])
        for position in range(len(entries)):
            copy.write_row(row_of(entries, position))
            if position % PROGRESS_ROWS == PROGRESS_ROWS - 1:
                progress(position + 1)
    connection.execute("ANALYZE words")


def row_of(entries: Entries, position: int) -> tuple[int, str, str, int, bytes]:
    """Return one entry as a row of the table, the vector in pgvector's binary form."""
    word = entries.words[position]
    return (
        entries.first_id + position,
        word,
        entries.glosses[position],
        len(word.split(",", 1)[0]),
        vector_bytes(entries.vectors[position]),
    )


def vector_bytes(vector: npt.NDArray[np.float32]) -> bytes:
    """Return pgvector's binary form: int16 d, int16 0, d big-endian float32."""
    return struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes()


def vector_text(vector: npt.NDArray[np.float32]) -> str:
    """Return pgvector's text form, with every digit a float32 needs."""
    return "[" + ",".join(np.format_float_positional(x, unique=True) for x in vector) + "]"


def texts_of(connection: psycopg.Connection, ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Return id -> (word, gloss) of rows, from Postgres, where the rows live."""
    rows = connection.execute(
        "SELECT id, word, gloss FROM words WHERE id = ANY(%s)", [list(ids)]
    ).fetchall()
    return {row_id: (word, gloss) for row_id, word, gloss in rows}


def exact_neighbours(
    connection: psycopg.Connection, query: npt.NDArray[np.float32], k: int
) -> list[int]:
    """Return the ids of the k nearest rows by cosine distance, computed by pgvector itself."""
    rows = connection.execute(
        "SELECT id FROM words ORDER BY embedding <=> %s::vector LIMIT %s",
        [vector_text(query), k],
    ).fetchall()
    return [row_id for (row_id,) in rows]
