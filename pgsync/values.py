"""RowDecoder: binary rows of one table, as Postgres writes them, to Arrow record batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .changes import ARROW_TYPES, Op, VectorState, change_schema
from .columns import decode_column
from .fields import Fields, as_octets
from .table import ColumnSpec, TableSpec
from .tuples import copy_row_starts, scan_copy_tuples
from .vectors import Vectors, decode_vectors

#: ``unchanged`` of a row is one bit per filter column.
MOST_FILTER_COLUMNS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeColumns:
    """The columns of n changes before they are decoded, all over the same bytes.

    ``old`` is the key before the change where the source sent it: it may equal ``key``.
    ``unchanged`` is u64[n], the bits of filter columns that were not sent.
    """

    op: npt.NDArray[np.uint8]
    commit_lsn: npt.NDArray[np.uint64]
    ordinal: npt.NDArray[np.uint32]
    unchanged: npt.NDArray[np.uint64]
    vector: Fields
    key: list[Fields]
    old: list[Fields] | None
    columns: list[Fields]


class RowDecoder:
    """Decodes rows of one table that carry its key columns, vector column and filter columns."""

    def __init__(self, table: TableSpec) -> None:
        if len(table.columns) > MOST_FILTER_COLUMNS:
            raise ValueError(f"at most {MOST_FILTER_COLUMNS} filter columns can be mirrored")
        self.table = table
        self.schema = change_schema(table)

    @property
    def copy_columns(self) -> tuple[str, ...]:
        """Return the column names in the order in which COPY must select them."""
        table = self.table
        return (
            *(column.name for column in table.key),
            table.vector_column,
            *(column.name for column in table.columns),
        )

    @property
    def vector_bytes(self) -> int:
        """Bytes of a decoded vector: what a row costs even if it is NULL or sparse on the wire."""
        return self.table.dim * (2 if self.table.vector_type == "halfvec" else 4)

    def decode_copy_rows(
        self,
        buffer: bytes | bytearray | memoryview,
        *,
        commit_lsn: int,
        first_ordinal: int = 0,
        row_starts: Sequence[int] | npt.NDArray[np.int64] | None = None,
    ) -> pa.RecordBatch:
        """Return COPY binary tuples as UPSERT rows in the schema of ``change_schema(table)``.

        ``buffer`` holds concatenated tuples without the COPY header and trailer. It may be reused
        as soon as this returns. ``row_starts`` are the byte offsets of the tuples, ascending from
        0; a COPY reader knows them, as each CopyData message is one tuple. Without them tuples of
        different lengths are walked one by one. Ordinals count up from ``first_ordinal``.
        Raises DecodeError for anything that is not such tuples.
        """
        data, n_columns = as_octets(buffer), len(self.copy_columns)
        if row_starts is None:
            bounds = copy_row_starts(data, n_columns)
        else:
            bounds = np.append(np.asarray(row_starts, np.int64), len(data))
        columns = scan_copy_tuples(data, bounds, n_columns)
        n_keys, n_rows = len(self.table.key), len(bounds) - 1
        return self.decode(
            ChangeColumns(
                op=np.full(n_rows, Op.UPSERT, np.uint8),
                commit_lsn=np.full(n_rows, commit_lsn, np.uint64),
                ordinal=np.arange(first_ordinal, first_ordinal + n_rows, dtype=np.uint32),
                unchanged=np.zeros(n_rows, np.uint64),
                vector=columns[n_keys],
                key=columns[:n_keys],
                old=None,
                columns=columns[n_keys + 1 :],
            )
        )

    def decode(self, changes: ChangeColumns) -> pa.RecordBatch:
        """Return the changes in the schema of ``change_schema(table)``; raise DecodeError."""
        table, n_rows = self.table, len(changes.op)
        _refuse_null_keys(changes)
        states, vectors = decode_vectors(table.vector_type, table.dim, changes.vector)
        key = _decode_all(table.key, changes.key)
        arrays = [
            pa.array(changes.op),
            pa.array(changes.commit_lsn),
            pa.array(changes.ordinal),
            pa.array(states),
            _vector_array(states, vectors),
            pa.array(changes.unchanged),
            *key,
            *(
                _nulls(table.key, n_rows)
                if changes.old is None
                else _changed_keys(_decode_all(table.key, changes.old), key)
            ),
            *_decode_all(table.columns, changes.columns),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _refuse_null_keys(changes: ChangeColumns) -> None:
    keyed = changes.op != Op.TRUNCATE
    for fields in changes.key:
        missing = keyed & ~fields.present
        if missing.any():
            raise fields.error("key", missing, "a row whose key is NULL")


def _decode_all(specs: tuple[ColumnSpec, ...], columns: list[Fields]) -> list[pa.Array[Any]]:
    return [decode_column(c.type, fields) for c, fields in zip(specs, columns, strict=True)]


def _nulls(specs: tuple[ColumnSpec, ...], n_rows: int) -> list[pa.Array[Any]]:
    return [pa.nulls(n_rows, cast(Any, ARROW_TYPES[spec.type])) for spec in specs]


def _changed_keys(old: list[pa.Array[Any]], key: list[pa.Array[Any]]) -> list[pa.Array[Any]]:
    """Return the old keys of the rows whose key changed, null elsewhere.

    The source also sends the old row when the identity is FULL or a key value is TOASTed.
    """
    changed = np.zeros(len(key[0]), np.bool_)
    for before, now in zip(old, key, strict=True):
        differs = cast(Any, pc.not_equal(before, cast(Any, now)))
        changed |= differs.fill_null(False).to_numpy(zero_copy_only=False)
    return [pc.if_else(pa.array(changed), before, pa.scalar(None, before.type)) for before in old]


def _vector_array(states: npt.NDArray[np.uint8], vectors: Vectors) -> pa.Array[Any]:
    missing = states != VectorState.PRESENT
    return pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1)),
        vectors.shape[1],
        mask=pa.array(missing) if missing.any() else None,
    )
