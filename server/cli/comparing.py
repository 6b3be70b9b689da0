"""Comparing an index with its table: two sets of (key, hash) rows in, the differences out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pgsync.changes import VectorState, change_schema
from server.spec import IndexSpec
from server.verifying import row_hashes

Mask = NDArray[np.bool_]

#: Keys named for each kind of difference; a broken mirror may differ in every row.
KEYS_NAMED = 10


@dataclass(frozen=True, slots=True)
class Differences:
    """What differs between an index and its table at one LSN; keys are the first KEYS_NAMED.

    ``missing`` rows are in the table only, ``extra`` ones in the index only, ``differing`` ones in
    both with other content. ``not_indexable`` rows of the table have no valid vector, so they must
    not be in the index.
    """

    rows: int
    not_indexable: int
    missing: int
    extra: int
    differing: int
    missing_keys: list[Any]
    extra_keys: list[Any]
    differing_keys: list[Any]

    @property
    def total(self) -> int:
        """How many rows are wrong."""
        return self.missing + self.extra + self.differing


def table_hashes(batches: Iterable[pa.RecordBatch], spec: IndexSpec) -> tuple[pa.Table, int]:
    """Return the table's rows as ``key:<name>`` columns and ``hash``, and the rows left out.

    ``batches`` are rows of a change batch. Rows without a valid vector are left out and counted.
    """
    parts, left_out = [], 0
    empty = pa.RecordBatch.from_pylist([], schema=change_schema(spec.table))
    for batch in chain([empty], batches):
        present = pc.equal(
            batch.column("vector_state"), pa.scalar(int(VectorState.PRESENT), pa.uint8())
        )
        kept = batch.filter(present)
        left_out += batch.num_rows - kept.num_rows
        keys = [name for name in kept.schema.names if name.startswith("key:")]
        hashes = pa.array(row_hashes(kept, spec.raw_dtype), pa.uint64())
        columns = [*(kept.column(name) for name in keys), hashes]
        parts.append(pa.RecordBatch.from_arrays(columns, names=[*keys, "hash"]))
    return pa.Table.from_batches(parts), left_out


def compare(table: pa.Table, index: pa.Table, not_indexable: int) -> Differences:
    """Compare two tables of ``key:<name>`` columns and ``hash``; keys are unique in each."""
    keys = [name for name in table.schema.names if name.startswith("key:")]
    index = index.select([*keys, "hash"]).rename_columns([*keys, "hash_index"])
    joined = table.join(index, keys, join_type="full outer").combine_chunks()
    in_table, of_table = _column(joined, "hash")
    in_index, of_index = _column(joined, "hash_index")
    missing, extra = in_table & ~in_index, in_index & ~in_table
    differing = in_table & in_index & (of_table != of_index)
    return Differences(
        rows=table.num_rows,
        not_indexable=not_indexable,
        missing=int(missing.sum()),
        extra=int(extra.sum()),
        differing=int(differing.sum()),
        missing_keys=_keys(joined, keys, missing),
        extra_keys=_keys(joined, keys, extra),
        differing_keys=_keys(joined, keys, differing),
    )


def _column(rows: pa.Table, name: str) -> tuple[Mask, NDArray[np.uint64]]:
    """Return whether each row has a hash, and the hash (0 where there is none)."""
    hashes: Any = rows.column(name)
    known = np.asarray(hashes.is_valid().to_numpy(), np.bool_)
    return known, np.asarray(hashes.fill_null(0).to_numpy(), np.uint64)


def _keys(rows: pa.Table, names: Sequence[str], mask: Mask) -> list[Any]:
    """Return the first keys of the rows in ``mask``; those of several columns as lists."""
    found = rows.take(np.flatnonzero(mask)[:KEYS_NAMED])
    columns = [found.column(name).to_pylist() for name in names]
    keys = [list(values) for values in zip(*columns, strict=True)]
    return keys if len(names) > 1 else [key for (key,) in keys]
