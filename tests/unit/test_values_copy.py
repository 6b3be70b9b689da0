"""RowDecoder over COPY: any row of any table becomes the row that was written."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync.changes import Op, VectorState, change_schema
from pgsync.errors import DecodeError
from pgsync.table import TableSpec
from pgsync.values import MOST_FILTER_COLUMNS, RowDecoder
from tests.pgoutput_writer import copy_tuple, vector_bytes
from tests.table_strategies import Row, rows, table, tables


def _written(spec: TableSpec, row: Row) -> bytes:
    types = [c.type for c in spec.key] + [spec.vector_type] + [c.type for c in spec.columns]
    return copy_tuple(types, [*row.key, row.vector.wire, *row.columns])


def _expected(spec: TableSpec, row: Row, ordinal: int) -> dict[str, Any]:
    return {
        "op": Op.UPSERT,
        "commit_lsn": 99,
        "ordinal": ordinal,
        "vector_state": row.vector.state,
        "vector": row.vector.components,
        "unchanged": 0,
        **{f"key:{c.name}": value for c, value in zip(spec.key, row.key, strict=True)},
        **{f"old:{c.name}": None for c in spec.key},
        **{f"col:{c.name}": value for c, value in zip(spec.columns, row.columns, strict=True)},
    }


@st.composite
def _tables_with_rows(draw: st.DrawFn) -> tuple[TableSpec, list[Row]]:
    spec = draw(tables())
    return spec, draw(st.lists(rows(spec), max_size=6))


@given(_tables_with_rows(), st.booleans())
def test_rows_are_what_was_written(case: tuple[TableSpec, list[Row]], with_starts: bool) -> None:
    spec, written = case
    parts = [_written(spec, row) for row in written]
    starts = np.cumsum([0, *map(len, parts)])[:-1] if with_starts else None
    batch = RowDecoder(spec).decode_copy_rows(
        b"".join(parts), commit_lsn=99, first_ordinal=7, row_starts=starts
    )
    batch.validate(full=True)
    assert batch.schema == change_schema(spec)
    assert batch.to_pylist() == [_expected(spec, row, i) for i, row in enumerate(written, 7)]


@given(_tables_with_rows(), st.data())
def test_changed_and_cut_rows_raise_nothing_but_decode_error(
    case: tuple[TableSpec, list[Row]], data: st.DataObject
) -> None:
    spec, written = case
    octets = bytearray(b"".join(_written(spec, row) for row in written))
    for _ in range(data.draw(st.integers(0, 4))):
        if octets:
            octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    octets = octets[: data.draw(st.integers(0, len(octets)))]
    starts = data.draw(st.none() | _starts(len(octets)))
    with contextlib.suppress(DecodeError):
        batch = RowDecoder(spec).decode_copy_rows(octets, commit_lsn=1, row_starts=starts)
        batch.validate(full=True)


def _starts(length: int) -> st.SearchStrategy[list[int]]:
    positions = st.lists(st.integers(0, length), max_size=4, unique=True)
    return positions.map(lambda inner: sorted({0, *inner}))


@given(_tables_with_rows(), st.integers(1, 8))
def test_a_last_row_cut_short_raises_decode_error(
    case: tuple[TableSpec, list[Row]], missing: int
) -> None:
    spec, written = case
    octets = b"".join(_written(spec, row) for row in written)
    if not written:
        return
    with pytest.raises(DecodeError):
        RowDecoder(spec).decode_copy_rows(octets[:-missing], commit_lsn=1)


def test_the_buffer_may_be_reused_once_rows_are_decoded() -> None:
    spec = table(key=("int8", "uuid"), columns=("text", "int4[]", "bool"))
    row = [1, bytes(range(16)), vector_bytes([1, 2, 3]), "text", [4, None], True]
    types = ["int8", "uuid", "vector", "text", "int4[]", "bool"]
    buffer = bytearray(copy_tuple(types, row) * 3)
    batch = RowDecoder(spec).decode_copy_rows(buffer, commit_lsn=1)
    before = batch.to_pylist()
    buffer[:] = bytes(len(buffer))
    assert batch.to_pylist() == before
    buffer.clear()  # no array may hold on to it


def test_copy_selects_key_then_vector_then_filter_columns() -> None:
    spec = table(key=("int8", "text"), columns=("bool", "date"))
    assert RowDecoder(spec).copy_columns == ("k0", "k1", "v", "c0", "c1")


def test_more_filter_columns_than_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="64 filter columns"):
        RowDecoder(table(columns=("bool",) * (MOST_FILTER_COLUMNS + 1)))


def test_a_decoded_vector_costs_its_full_size() -> None:
    assert RowDecoder(table("sparsevec", dim=100)).vector_bytes == 400
    assert RowDecoder(table("halfvec", dim=100)).vector_bytes == 200


def _decode(data: bytes, **kwargs: Any) -> None:
    RowDecoder(table(columns=("text",))).decode_copy_rows(data, commit_lsn=1, **kwargs)


_GOOD = copy_tuple(["int8", "vector", "text"], [1, vector_bytes([1, 2, 3]), "a"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (copy_tuple(["int8", "vector"], [1, vector_bytes([1, 2, 3])]), "too early"),
        (copy_tuple(["int8"] * 4, [1, 1, 1, 1]), "longer or shorter|exactly 3 columns|too early"),
        (struct.pack(">h", -1), "too early"),
        (_GOOD + struct.pack(">h", -1), "too early"),
        (_GOOD[:2] + struct.pack(">i", -2) + _GOOD[14:], "negative length"),
        (_GOOD[:-1] + b"\xff", "UTF-8"),
        (copy_tuple(["int8", "vector", "text"], [None, None, None]), "key is NULL"),
        (copy_tuple(["int4", "vector", "text"], [1, None, None]), "not 8 bytes long"),
    ],
)
def test_what_is_no_copy_row_of_the_table_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        _decode(data)


def test_row_starts_that_miss_the_rows_are_refused() -> None:
    with pytest.raises(DecodeError):
        _decode(_GOOD * 2, row_starts=[0, len(_GOOD) + 1])
    with pytest.raises(DecodeError):
        _decode(_GOOD * 2, row_starts=[0])


def test_no_rows_are_an_empty_batch() -> None:
    batch = RowDecoder(table()).decode_copy_rows(b"", commit_lsn=1)
    assert batch.num_rows == 0
    assert batch.schema == change_schema(table())


def test_rows_of_one_length_and_rows_of_many_give_the_same() -> None:
    spec = table(columns=("text",))
    parts = [
        copy_tuple(["int8", "vector", "text"], [i, vector_bytes([i, 0, 1]), "x" * (i % 3)])
        for i in range(9)
    ]
    whole = RowDecoder(spec).decode_copy_rows(b"".join(parts), commit_lsn=1).to_pylist()
    for i, part in enumerate(parts):
        alone = RowDecoder(spec).decode_copy_rows(part, commit_lsn=1, first_ordinal=i)
        assert alone.to_pylist() == [whole[i]]
    assert [row["vector_state"] for row in whole] == [VectorState.PRESENT] * 9
