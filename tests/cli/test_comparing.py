"""Comparing an index with its table: what is missing, extra or different is found, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pgsync.changes import Op, VectorState, change_schema
from pgsync.table import ColumnSpec, TableSpec
from server.cli.comparing import KEYS_NAMED, compare, table_hashes
from server.spec import IndexSpec

SPEC = IndexSpec(
    name="docs",
    table=TableSpec(
        schema="public",
        table="docs",
        relation_id=1,
        vector_column="embedding",
        vector_type="vector",
        dim=2,
        key=(ColumnSpec("id", "int8"),),
        columns=(ColumnSpec("title", "text"),),
    ),
)
Rows = dict[int, int]  # key -> hash


def hashed(rows: Rows) -> pa.Table:
    keys, hashes = pa.array(list(rows), pa.int64()), pa.array(list(rows.values()), pa.uint64())
    return pa.table({"key:id": keys, "hash": hashes})


@given(
    table=st.dictionaries(st.integers(0, 60), st.integers(0, 3)),
    index=st.dictionaries(st.integers(0, 60), st.integers(0, 3)),
)
def test_finds_exactly_the_rows_that_differ(table: Rows, index: Rows) -> None:
    found = compare(hashed(table), hashed(index), not_indexable=4)
    missing, extra = table.keys() - index.keys(), index.keys() - table.keys()
    differing = {key for key in table.keys() & index.keys() if table[key] != index[key]}
    assert (found.missing, found.extra, found.differing) == (
        len(missing),
        len(extra),
        len(differing),
    )
    assert found.total == len(missing) + len(extra) + len(differing)
    assert (found.rows, found.not_indexable) == (len(table), 4)
    for named, true in (
        (found.missing_keys, missing),
        (found.extra_keys, extra),
        (found.differing_keys, differing),
    ):
        assert set(named) <= true
        assert len(named) == min(len(true), KEYS_NAMED)


def test_keys_of_several_columns_are_named_as_lists() -> None:
    names = ["key:tenant", "key:id", "hash"]
    types = [pa.string(), pa.int32(), pa.uint64()]

    def rows(*values: tuple[str, int, int]) -> pa.Table:
        columns: list[Any] = [list(column) for column in zip(*values, strict=True)]
        arrays = [pa.array(c, t) for c, t in zip(columns, types, strict=True)]
        return pa.Table.from_arrays(arrays, names=names)

    found = compare(rows(("a", 1, 5), ("a", 2, 5)), rows(("a", 1, 5), ("b", 2, 5)), 0)
    assert (found.missing_keys, found.extra_keys) == ([["a", 2]], [["b", 2]])


def change_rows(vectors: list[list[float] | None], titles: list[str | None]) -> pa.RecordBatch:
    n = len(vectors)
    states = [VectorState.NULL if vector is None else VectorState.PRESENT for vector in vectors]
    values: dict[str, Any] = {
        "op": [Op.UPSERT] * n,
        "commit_lsn": [7] * n,
        "ordinal": list(range(n)),
        "vector_state": states,
        "vector": vectors,
        "unchanged": [0] * n,
        "key:id": list(range(n)),
        "old:id": [None] * n,
        "col:title": titles,
    }
    schema = change_schema(SPEC.table)
    arrays = [pa.array(values[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def test_rows_without_a_vector_are_left_out_and_counted() -> None:
    batches = [change_rows([[1, 2], None, [3, 4]], ["a", "b", "c"])]
    table, left_out = table_hashes(batches, SPEC)
    assert (table.column("key:id").to_pylist(), left_out) == ([0, 2], 1)


def test_hash_depends_on_vector_and_filter_columns() -> None:
    batches = [change_rows([[1, 2], [1, 2], [2, 1], [1, 2]], ["a", "b", "a", "a"])]
    hashes = table_hashes(batches, SPEC)[0].column("hash").to_numpy()
    assert hashes[0] == hashes[3]
    assert len(np.unique(hashes)) == 3


def test_an_empty_table_has_its_columns() -> None:
    table, left_out = table_hashes([], SPEC)
    assert (table.schema.names, table.num_rows, left_out) == (["key:id", "hash"], 0, 0)
