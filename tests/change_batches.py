"""Change batches written by hand, and a plain-dict model of what they mean."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pgsync.changes import BatchKind, ChangeBatch, Op, VectorState, change_schema
from pgsync.table import ColumnSpec, TableSpec
from server.spec import BuildParams, IndexSpec

SYSTEM_ID = "7300000000000000001"
DIM = 3

COLUMNS = (
    ColumnSpec("name", "text"),
    ColumnSpec("tags", "text[]"),
    ColumnSpec("price", "float8"),
    ColumnSpec("owner", "uuid"),
    ColumnSpec("sizes", "int4[]"),
    ColumnSpec("fine", "bool"),
)


def make_spec(
    name: str = "docs",
    key: Sequence[ColumnSpec] = (ColumnSpec("id", "int8"),),
    columns: Sequence[ColumnSpec] = COLUMNS,
    dim: int = DIM,
    **params: Any,
) -> IndexSpec:
    """Return the spec of an index over a table that no database has."""
    table = TableSpec(
        schema="public",
        table="docs",
        relation_id=16384,
        vector_column="embedding",
        vector_type="vector",
        dim=dim,
        key=tuple(key),
        columns=tuple(columns),
    )
    return IndexSpec(name=name, table=table, params=BuildParams(**params))


@dataclass(frozen=True)
class Change:
    """One row change. ``columns`` leaves out what the source did not send."""

    op: Op
    key: Any = None
    old: Any = None
    state: VectorState = VectorState.PRESENT
    vector: tuple[float, ...] | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    lsn: int = 0
    ordinal: int = 0


def change_batch(
    spec: IndexSpec,
    kind: BatchKind,
    changes: Sequence[Change] = (),
    *,
    watermark: int = 0,
    epoch: int = 1,
    system_id: str = SYSTEM_ID,
    source: int | None = None,
) -> bytes:
    """Return the body of a batch."""
    batch = ChangeBatch(
        kind=kind,
        epoch=epoch,
        watermark_lsn=watermark,
        source_lsn=watermark if source is None else source,
        system_id=system_id,
        rows=change_rows(spec.table, changes),
    )
    return batch.to_ipc()


def change_rows(table: TableSpec, changes: Sequence[Change]) -> pa.RecordBatch:
    """Return changes as the rows of a batch."""
    schema = change_schema(table)
    data: dict[str, list[Any]] = {
        "op": [change.op for change in changes],
        "commit_lsn": [change.lsn for change in changes],
        "ordinal": [change.ordinal for change in changes],
        "vector_state": [change.state for change in changes],
        "vector": [_vector(table, change) for change in changes],
        "unchanged": [_unchanged(table, change) for change in changes],
    }
    for number, column in enumerate(table.key):
        data[f"key:{column.name}"] = [_part(change.key, number) for change in changes]
        data[f"old:{column.name}"] = [_part(change.old, number) for change in changes]
    for column in table.columns:
        data[f"col:{column.name}"] = [change.columns.get(column.name) for change in changes]
    arrays = [pa.array(data[name], schema.field(name).type) for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def bulk_batch(
    spec: IndexSpec,
    kind: BatchKind,
    keys: np.ndarray[Any, Any],
    vectors: np.ndarray[Any, Any],
    *,
    watermark: int = 0,
    lsn: int = 0,
    epoch: int = 1,
) -> bytes:
    """Return upserts of many rows without filter values; made of arrays."""
    n, schema = len(keys), change_schema(spec.table)
    arrays: dict[str, Any] = {
        "op": pa.array(np.full(n, Op.UPSERT, np.uint8)),
        "commit_lsn": pa.array(np.full(n, lsn, np.uint64)),
        "ordinal": pa.array(np.arange(n, dtype=np.uint32)),
        "vector_state": pa.array(np.zeros(n, np.uint8)),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), spec.table.dim),
        "unchanged": pa.array(np.zeros(n, np.uint64)),
        f"key:{spec.table.key[0].name}": pa.array(keys, schema.field(6).type),
    }
    columns = [arrays.get(f.name, pa.nulls(n, f.type)) for f in schema]
    rows = pa.RecordBatch.from_arrays(columns, schema=schema)
    return ChangeBatch(
        kind=kind,
        epoch=epoch,
        watermark_lsn=watermark,
        source_lsn=watermark,
        system_id=SYSTEM_ID,
        rows=rows,
    ).to_ipc()


def _vector(table: TableSpec, change: Change) -> Any:
    return None if change.vector is None else list(change.vector)


def _unchanged(table: TableSpec, change: Change) -> int:
    if change.op is not Op.UPSERT:
        return 0
    names = [column.name for column in table.columns]
    return sum(1 << bit for bit, name in enumerate(names) if name not in change.columns)


def _part(key: Any, number: int) -> Any:
    part = key[number] if isinstance(key, tuple) else key
    return part.bytes if isinstance(part, uuid.UUID) else part


@dataclass
class Row:
    """A row of the model: a vector, or why there is none."""

    state: VectorState
    vector: tuple[float, ...] | None
    columns: dict[str, Any]


class Table:
    """The table as Postgres has it: the model that an index is compared with."""

    def __init__(self) -> None:
        self.rows: dict[Any, Row] = {}

    def apply(self, change: Change) -> None:
        """Do what a change says, plainly."""
        if change.op is Op.TRUNCATE:
            self.rows.clear()
        elif change.op is Op.DELETE:
            del self.rows[change.key]
        else:
            before = self.rows.get(change.key if change.old is None else change.old)
            row = Row(change.state, change.vector, dict(change.columns))
            if before is not None:
                row.columns = {**before.columns, **change.columns}
                if change.state is VectorState.UNCHANGED:
                    row.state, row.vector = before.state, before.vector
            if change.old is not None:
                del self.rows[change.old]
            self.rows[change.key] = row

    def indexed(self) -> dict[Any, tuple[tuple[float, ...] | None, dict[str, Any]]]:
        """Return what the index must hold: vector and columns by key."""
        present = VectorState.PRESENT
        return {k: (r.vector, r.columns) for k, r in self.rows.items() if r.state is present}

    def excluded(self) -> dict[str, int]:
        """Return how many rows the index must not hold, by reason."""
        states = [row.state for row in self.rows.values()]
        return {
            "null_vector": states.count(VectorState.NULL),
            "wrong_dimension": states.count(VectorState.WRONG_DIMENSION),
            "not_finite": states.count(VectorState.NOT_FINITE),
        }


def contents(state: Any) -> dict[Any, tuple[tuple[float, ...], dict[str, Any]]]:
    """Return what a published state holds, in the form of ``Table.indexed``."""
    rows = np.flatnonzero(state.index.alive())
    keys = state.keys(rows)
    assert len(set(keys)) == len(keys), "a key has two living rows"
    names = list(state.columns)
    columns = [state.column(name).take(rows).to_arrow().to_pylist() for name in names]
    vectors = [tuple(vector) for vector in state.vectors(rows).tolist()]
    values = zip(*columns, strict=True) if names else [()] * len(rows)
    return {
        key: (vector, dict(zip(names, value, strict=True)))
        for key, vector, value in zip(keys, vectors, values, strict=True)
    }
