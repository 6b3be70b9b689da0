"""Columns give back the Arrow values they were made of, whatever is taken or joined."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync.changes import ARROW_TYPES
from pgsync.table import ColumnSpec
from server.columns import ColumnCodec, ColumnStore, concat, find_column, same_rows
from server.errors import UnknownColumn
from server.growing import GrowingArray

TEXTS = st.text(st.characters(codec="utf-8"), max_size=3)


def integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int2": integers(16),
    "int4": integers(32),
    "int8": integers(64),
    "float4": st.floats(width=32, allow_nan=False),
    "float8": st.floats(allow_nan=False),
    "text": TEXTS,
    "timestamptz": integers(64),
    "timestamp": integers(64),
    "date": integers(32),
    "uuid": st.binary(min_size=16, max_size=16),
}


def values_of(column_type: str) -> st.SearchStrategy[Any]:
    element = ELEMENTS[column_type.removesuffix("[]")]
    if column_type.endswith("[]"):
        return st.none() | st.lists(st.none() | element, max_size=4)
    return st.none() | element


@st.composite
def columns(draw: st.DrawFn) -> tuple[str, list[Any], list[Any]]:
    """Return a type and two lists of its values; long ones take the codec's other path."""
    column_type = draw(st.sampled_from(sorted(ARROW_TYPES)))
    few = st.lists(values_of(column_type), max_size=6)
    repeat = draw(st.sampled_from([1, 1, 30]))
    return column_type, draw(few) * repeat, draw(few)


def arrow(column_type: str, values: list[Any]) -> pa.Array[Any]:
    """Return an array that starts somewhere inside of another one."""
    return pa.array([None, *values], ARROW_TYPES[column_type]).slice(1)


@given(columns())
def test_values_come_back(drawn: tuple[str, list[Any], list[Any]]) -> None:
    column_type, first, second = drawn
    codec = ColumnCodec(ColumnSpec("c", column_type))
    store = ColumnStore([codec])
    for values in (first, second):
        store.extend([codec.decode(arrow(column_type, values))])
    view = store.views()["c"]
    assert len(view) == len(first) + len(second)
    assert view.to_arrow().type == ARROW_TYPES[column_type]
    assert view.to_arrow().to_pylist() == first + second


@given(columns(), st.randoms(use_true_random=False))
def test_taken_and_joined_rows_are_the_same_values(
    drawn: tuple[str, list[Any], list[Any]], random: Any
) -> None:
    column_type, first, second = drawn
    codec = ColumnCodec(ColumnSpec("c", column_type))
    joined = concat([codec.decode(arrow(column_type, values)) for values in (first, second)])
    together = first + second
    rows = [random.randrange(len(together)) for _ in range(9)] if together else []
    taken = joined.take(np.array(rows, np.int64))
    assert taken.to_arrow().to_pylist() == [together[row] for row in rows]


@given(columns(), st.randoms(use_true_random=False))
def test_rows_are_the_same_when_their_values_are(
    drawn: tuple[str, list[Any], list[Any]], random: Any
) -> None:
    column_type, first, _ = drawn
    other = [random.choice(first) for _ in first]
    codec = ColumnCodec(ColumnSpec("c", column_type))
    left, right = (codec.decode(arrow(column_type, values)) for values in (first, other))
    expected = [_bits(a) == _bits(b) for a, b in zip(first, other, strict=True)]
    assert same_rows(left, right).tolist() == expected


def test_a_view_does_not_show_later_rows() -> None:
    codec = ColumnCodec(ColumnSpec("c", "text[]"))
    store = ColumnStore([codec])
    store.extend([codec.decode(arrow("text[]", [["a"], None]))])
    view = store.views()["c"]
    for _ in range(500):
        store.extend([codec.decode(arrow("text[]", [["b", None]]))])
    assert view.to_arrow().to_pylist() == [["a"], None]


def test_a_missing_text_has_a_code_that_exists() -> None:
    codec = ColumnCodec(ColumnSpec("c", "text"))
    view = codec.decode(arrow("text", [None, None]))
    assert view.dictionary is not None
    assert [view.dictionary[code] for code in view.values.tolist()] == ["", ""]
    assert view.valid.tolist() == [False, False]


def test_a_code_keeps_its_meaning() -> None:
    codec = ColumnCodec(ColumnSpec("c", "text"))
    before = codec.decode(arrow("text", ["x", "y"]))
    after = codec.decode(arrow("text", ["z", "y"] * 100))
    assert before.values[1] == after.values[1]
    assert before.to_arrow().to_pylist() == ["x", "y"]


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(UnknownColumn, match="'nowhere'"):
        find_column({}, "nowhere")


@given(st.lists(st.lists(st.integers(0, 9), max_size=300), max_size=6))
def test_a_growing_array_keeps_its_prefixes(parts: list[list[int]]) -> None:
    array, views, whole = GrowingArray("<i8"), [], []
    for part in parts:
        array.extend(np.array(part, np.int64))
        whole += part
        views.append((array.view(), list(whole)))
    assert all(view.tolist() == expected for view, expected in views)
    assert len(array) == len(whole)


def _bits(value: Any) -> Any:
    if isinstance(value, list):
        return [_bits(element) for element in value]
    return struct.pack("<d", value) if isinstance(value, float) else value
