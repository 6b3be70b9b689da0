"""What a sidecar sends: change batches of a small table, made from arrays.

items (id bigint PRIMARY KEY, embedding vector(8), category text, price float8, tags text[],
       seen timestamptz)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pgsync.changes import BatchKind, ChangeBatch, Op, VectorState, change_schema
from pgsync.table import ColumnSpec, TableSpec

ITEMS = TableSpec(
    schema="public",
    table="items",
    relation_id=16_384,
    vector_column="embedding",
    vector_type="vector",
    dim=8,
    key=(ColumnSpec("id", "int8"),),
    columns=(
        ColumnSpec("category", "text"),
        ColumnSpec("price", "float8"),
        ColumnSpec("tags", "text[]"),
        ColumnSpec("seen", "timestamptz"),
    ),
)

NO_ROWS = pa.RecordBatch.from_pylist([], change_schema(ITEMS))
SYSTEM_ID = "7000000000000000001"
COPY_LSN = 0x1000
CATEGORIES = ("tea", "coffee", None, "water")


class ItemFeed:
    """The table's rows and the log position; every method returns bodies to send in order."""

    def __init__(self, n_rows: int, epoch: int = 1) -> None:
        self.epoch, self.lsn = epoch, COPY_LSN
        rng = np.random.default_rng(n_rows)
        self.ids = np.arange(n_rows, dtype=np.int64) * 10
        self.vectors = rng.standard_normal((n_rows, ITEMS.dim)).astype(np.float32)

    def copy(self) -> Iterator[bytes]:
        """Copy the whole table."""
        rows = item_rows(self.ids, self.vectors, COPY_LSN)
        yield self._batch(BatchKind.COPY_BEGIN, None)
        yield self._batch(BatchKind.COPY, rows)
        yield self._batch(BatchKind.COPY_END, None)

    def upsert(self, ids: Sequence[int], vectors: NDArray[np.float32]) -> bytes:
        """Commit one transaction that inserts or updates rows."""
        self.lsn += 0x100
        rows = item_rows(np.asarray(ids, np.int64), vectors, self.lsn - 0x80)
        return self._batch(BatchKind.CHANGES, rows)

    def delete(self, ids: Sequence[int]) -> bytes:
        """Commit one transaction that deletes rows."""
        self.lsn += 0x100
        nothing = np.zeros((len(ids), ITEMS.dim), np.float32)
        rows = item_rows(np.asarray(ids, np.int64), nothing, self.lsn - 0x80, Op.DELETE)
        return self._batch(BatchKind.CHANGES, rows)

    def heartbeat(self, behind_bytes: int = 0) -> bytes:
        """Say how far the log is, without changes."""
        self.lsn += 0x100
        return self._batch(BatchKind.CHANGES, None, behind_bytes)

    def _batch(self, kind: BatchKind, rows: pa.RecordBatch | None, behind_bytes: int = 0) -> bytes:
        return ChangeBatch(
            kind=kind,
            epoch=self.epoch,
            watermark_lsn=self.lsn,
            source_lsn=self.lsn + behind_bytes,
            system_id=SYSTEM_ID,
            rows=NO_ROWS if rows is None else rows,
        ).to_ipc()


def item_rows(
    ids: NDArray[np.int64], vectors: NDArray[np.float32], commit_lsn: int, op: Op = Op.UPSERT
) -> pa.RecordBatch:
    """Return changes of one transaction: n ids and vectors f32[n, 8]."""
    there = op is Op.UPSERT
    state = VectorState.PRESENT if there else VectorState.NULL
    rows = [
        {
            "op": int(op),
            "commit_lsn": commit_lsn,
            "ordinal": ordinal,
            "vector_state": int(state),
            "vector": vector.tolist() if there else None,
            "unchanged": 0,
            "key:id": key,
            "old:id": None,
            **(
                {f"col:{name}": value for name, value in item_columns(key).items()} if there else {}
            ),
        }
        for ordinal, (key, vector) in enumerate(zip(ids.tolist(), vectors, strict=True))
    ]
    return pa.RecordBatch.from_pylist(rows, change_schema(ITEMS))


def item_columns(key: int) -> dict[str, Any]:
    """Return the filter columns that the row with ``key`` has."""
    number = key // 10
    category = CATEGORIES[number % len(CATEGORIES)]
    return {
        "category": category,
        "price": number / 2,
        "tags": [category, f"t{number % 3}"],
        "seen": number * 1_000_000,
    }
