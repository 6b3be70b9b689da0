"""Hypothesis strategies for rows of a mirrored table, with what they must decode to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pgsync.changes import VectorState
from pgsync.table import FILTER_TYPES, KEY_TYPES, ColumnSpec, TableSpec, VectorType
from tests.pgoutput_writer import array_bytes, value_bytes

VECTOR_TYPES: tuple[VectorType, ...] = ("vector", "halfvec", "sparsevec", "float4[]", "float8[]")
DIM = 3


def table(
    vector_type: VectorType = "vector",
    *,
    dim: int = DIM,
    key: tuple[str, ...] = ("int8",),
    columns: tuple[str, ...] = (),
) -> TableSpec:
    """Return a table ``shop.items`` with columns k0, k1, ... and c0, c1, ... of these types."""
    return TableSpec(
        schema="shop",
        table="items",
        relation_id=77,
        vector_column="v",
        vector_type=vector_type,
        dim=dim,
        key=tuple(ColumnSpec(f"k{i}", name) for i, name in enumerate(key)),
        columns=tuple(ColumnSpec(f"c{i}", name) for i, name in enumerate(columns)),
    )


def _ints(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)

_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int2": _ints(16),
    "int4": _ints(32),
    "int8": _ints(64),
    "float4": st.floats(allow_nan=False, width=32),
    "float8": st.floats(allow_nan=False),
    "text": _texts,
    "timestamptz": _ints(64),
    "timestamp": _ints(64),
    "date": _ints(32),
    "uuid": st.uuids().map(lambda value: value.bytes),
}


def values(type_name: str) -> st.SearchStrategy[Any]:
    """Return values of a column type, none of them NULL; arrays may have NULL elements."""
    if type_name.endswith("[]"):
        element = _SCALARS[type_name.removesuffix("[]")]
        return st.lists(st.none() | element, max_size=4)
    return _SCALARS[type_name]


@dataclass(frozen=True)
class Vector:
    """The wire form of a vector column's value, and what it decodes to."""

    wire: bytes | None
    state: VectorState
    components: list[float] | None = None


_finite = st.floats(-60000, 60000, width=16).map(lambda x: x + 0.0)


@st.composite
def vectors(draw: st.DrawFn, vector_type: VectorType, dim: int = DIM) -> Vector:
    """Return a value of the type: mostly right, else NULL, of another dimension, not finite."""
    state = draw(st.sampled_from([s for s in VectorState if s is not VectorState.UNCHANGED]))
    if state is VectorState.NULL:
        return Vector(None, state)
    length = dim if state is not VectorState.WRONG_DIMENSION else draw(_other_dimension(dim))
    components = draw(st.lists(_finite, min_size=length, max_size=length))
    if state is VectorState.NOT_FINITE:
        at = draw(st.integers(0, dim - 1))
        components[at] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    elif (
        state is VectorState.WRONG_DIMENSION and vector_type.endswith("[]") and draw(st.booleans())
    ):
        return Vector(draw(_arrays_that_are_no_vectors(vector_type, dim)), state)
    wire = value_bytes(vector_type, components)
    return Vector(wire, state, components if state is VectorState.PRESENT else None)


def _other_dimension(dim: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2 * dim).filter(lambda n: n != dim)


@st.composite
def _arrays_that_are_no_vectors(draw: st.DrawFn, vector_type: VectorType, dim: int) -> bytes:
    """Return an array with a NULL among its dim elements, or a matrix of dim elements."""
    element_type = vector_type.removesuffix("[]")
    elements: list[float | None] = list(draw(st.lists(_finite, min_size=dim, max_size=dim)))
    if draw(st.booleans()):
        return array_bytes(element_type, elements, (1, dim))
    elements[draw(st.integers(0, dim - 1))] = None
    return array_bytes(element_type, elements, (dim,))


@st.composite
def tables(draw: st.DrawFn) -> TableSpec:
    """Return a table with any vector type, key and filter columns."""
    key = draw(st.lists(st.sampled_from(sorted(KEY_TYPES)), min_size=1, max_size=2))
    columns = draw(st.lists(st.sampled_from(sorted(FILTER_TYPES)), max_size=4))
    vector_type = draw(st.sampled_from(VECTOR_TYPES))
    return table(vector_type, key=tuple(key), columns=tuple(columns))


@dataclass(frozen=True)
class Row:
    """One row: key values, vector, filter values (None for NULL)."""

    key: list[Any]
    vector: Vector
    columns: list[Any]


@st.composite
def rows(draw: st.DrawFn, spec: TableSpec) -> Row:
    """Return a row of the table."""
    return Row(
        key=[draw(values(column.type)) for column in spec.key],
        vector=draw(vectors(spec.vector_type, spec.dim)),
        columns=[draw(st.none() | values(column.type)) for column in spec.columns],
    )
