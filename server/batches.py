"""Change batches as the writer wants them: checked against the index, as NumPy arrays.

Invariants of the changes this module lets through:

- rows have the Arrow schema of the index's table, no missing key, and a vector where they say so;
- changes of a CHANGES batch rise strictly by (commit_lsn, ordinal);
- a vector that is PRESENT is finite, whatever the sender said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pgsync.changes import BatchKind, ChangeBatch, Op, VectorState, change_schema
from pgsync.table import TableSpec

from .columns import ArrowArray
from .errors import BadBatch
from .spec import IndexSpec

#: A change's place in the stream: (commit_lsn, ordinal).
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Changes:
    """n change rows in stream order; slices share memory.

    ``vectors`` f32 or f16 [n, d] has arbitrary content where ``vector_states`` is not PRESENT.
    """

    ops: NDArray[np.uint8]
    commit_lsns: NDArray[np.uint64]
    ordinals: NDArray[np.uint32]
    vector_states: NDArray[np.uint8]
    unchanged: NDArray[np.uint64]
    vectors: NDArray[Any]
    rows: pa.RecordBatch

    def __len__(self) -> int:
        return len(self.ops)

    def slice(self, start: int, stop: int) -> Changes:
        """Return the changes [start, stop)."""
        part = slice(start, stop)
        return Changes(
            self.ops[part],
            self.commit_lsns[part],
            self.ordinals[part],
            self.vector_states[part],
            self.unchanged[part],
            self.vectors[part],
            self.rows.slice(start, stop - start),
        )

    def after(self, position: Position) -> Changes:
        """Return the changes beyond ``position``; what is left out was seen before."""
        lsn, ordinal = position
        seen = (self.commit_lsns < lsn) | ((self.commit_lsns == lsn) & (self.ordinals <= ordinal))
        return self.slice(int(np.count_nonzero(seen)), len(self))

    def split(self, lsn: int) -> tuple[Changes, Changes]:
        """Return the changes that committed before ``lsn`` and the others."""
        count = int(np.count_nonzero(self.commit_lsns < lsn))
        return self.slice(0, count), self.slice(count, len(self))

    @property
    def last(self) -> Position:
        """Position of the last change; there must be one."""
        return int(self.commit_lsns[-1]), int(self.ordinals[-1])


def read_batch(body: bytes | memoryview, schema: pa.Schema) -> ChangeBatch:
    """Read a batch and check its schema (``change_schema`` of the table); raise BadBatch."""
    try:
        batch = ChangeBatch.from_ipc(body)
    except ValueError as error:
        raise BadBatch("the body is not a Vecmirror change batch") from error
    if batch.rows.schema != schema:
        raise BadBatch("the batch has other columns than the index: attach the column anew")
    if batch.epoch < 1 or not batch.system_id:
        raise BadBatch("a batch has an epoch of at least 1 and a system identifier")
    if batch.kind in (BatchKind.COPY_BEGIN, BatchKind.COPY_END) and batch.rows.num_rows:
        raise BadBatch("the begin and the end of a copy carry no rows")
    return batch


def read_changes(batch: ChangeBatch, spec: IndexSpec) -> Changes:
    """Return the rows of a batch as checked arrays; raise BadBatch."""
    rows = batch.rows
    vectors = _vectors(rows.column("vector"), spec.table.dim)
    states = _numpy(rows, "vector_state").copy()
    changes = Changes(
        _numpy(rows, "op"),
        _numpy(rows, "commit_lsn"),
        _numpy(rows, "ordinal"),
        states,
        _numpy(rows, "unchanged"),
        vectors,
        rows,
    )
    _check_rows(changes, spec.table)
    present = states == VectorState.PRESENT
    states[present & ~_finite_rows(vectors)] = VectorState.NOT_FINITE
    if spec.raw_dtype == "float16" and vectors.dtype == np.float32:
        states[present & _overflowing_rows(vectors)] = VectorState.NOT_FINITE
    if batch.kind is BatchKind.CHANGES:
        _check_order(changes)
    elif np.any(changes.ops != Op.UPSERT) or np.any(states == VectorState.UNCHANGED):
        raise BadBatch("a copied row is an upsert with a vector of its own")
    return changes


def no_changes(table: TableSpec) -> pa.RecordBatch:
    """Return the rows of a batch that has none."""
    return pa.RecordBatch.from_pylist([], schema=change_schema(table))


def _numpy(rows: pa.RecordBatch, name: str) -> NDArray[Any]:
    return np.asarray(rows.column(name).to_numpy())


def _vectors(column: ArrowArray, dim: int) -> NDArray[Any]:
    elements = column.values.slice(column.offset * dim, len(column) * dim)
    # Components of null vectors may be null themselves; they become NaN and nobody reads them.
    return np.asarray(elements.to_numpy(zero_copy_only=False)).reshape(len(column), dim)


def _finite_rows(vectors: NDArray[Any]) -> NDArray[np.bool_]:
    """Return bool[n]. A sum is finite only if its parts are; few rows need the closer look."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(vectors.sum(axis=1, dtype=np.float32))
    doubtful = np.flatnonzero(~finite)
    finite[doubtful] = np.isfinite(vectors[doubtful]).all(axis=1)
    return np.asarray(finite)


def _overflowing_rows(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows (bool[n]) have a component that float16 cannot hold."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(~np.isfinite(vectors.astype(np.float16)).all(axis=1))


def _check_rows(changes: Changes, table: TableSpec) -> None:
    rows, ops, states = changes.rows, changes.ops, changes.vector_states
    if np.any((ops < Op.UPSERT) | (ops > Op.TRUNCATE)) or np.any(states > VectorState.NOT_FINITE):
        raise BadBatch("a change has an unknown op or vector_state")
    keyed = ops != Op.TRUNCATE
    for column in table.key:
        key = rows.column(f"key:{column.name}")
        if key.null_count and np.any(keyed & key.is_null().to_numpy(zero_copy_only=False)):
            raise BadBatch("a change has no key")
    vector = rows.column("vector")
    if vector.null_count:
        missing = vector.is_null().to_numpy(zero_copy_only=False)
        if np.any(missing & (ops == Op.UPSERT) & (states == VectorState.PRESENT)):
            raise BadBatch("a vector that should be present is null")


def _check_order(changes: Changes) -> None:
    lsns, ordinals = changes.commit_lsns, changes.ordinals
    risen = (lsns[1:] > lsns[:-1]) | ((lsns[1:] == lsns[:-1]) & (ordinals[1:] > ordinals[:-1]))
    if not risen.all():
        raise BadBatch("changes rise by commit_lsn and ordinal")
