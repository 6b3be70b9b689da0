"""The table of types: what is written is read back, and any bytes are a value or an SqlError."""

from __future__ import annotations

import contextlib
import math
import struct
import uuid
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.sql import types
from server.sql.errors import SqlError
from server.sql.types import BY_OID, TYPES, SqlType, from_text, to_text, type_named, type_of

_TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
_DAYS = st.integers(-2_451_545, 2_000_000_000)


def _integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _vectors(width: Literal[16, 32]) -> st.SearchStrategy[Any]:
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False)
    return st.lists(floats, min_size=1, max_size=9).map(lambda v: np.array(v, f"f{width // 8}"))


STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int2": _integers(16),
    "int4": _integers(32),
    "int8": _integers(64),
    "float4": st.floats(width=32),
    "float8": st.floats(),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=7)
    | st.integers(-(10**40), 10**40).map(Decimal),
    "oid": st.integers(0, 2**32 - 1),
    "pg_lsn": st.integers(0, 2**64 - 1),
    "date": _DAYS | st.sampled_from([2**31 - 1, -(2**31)]),
    "timestamp": _DAYS.filter(lambda d: d < 10**8).map(lambda d: d * 86_400_000_000 + d % 86_399)
    | st.sampled_from([2**63 - 1, -(2**63)]),
    "uuid": st.uuids(),
    "vector": _vectors(32),
    "halfvec": _vectors(16),
}
STRATEGIES["timestamptz"] = STRATEGIES["timestamp"]
for _name in ("text", "varchar", "bpchar", "name", "char", "unknown"):
    STRATEGIES[_name] = _TEXT


def _values(known: SqlType) -> st.SearchStrategy[Any]:
    if known.element_oid:
        item = STRATEGIES[BY_OID[known.element_oid].name]
        return st.lists(st.none() | item, max_size=5).map(tuple)
    return STRATEGIES[known.name]


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, np.ndarray):
        return bool(left.dtype == right.dtype and left.tobytes() == right.tobytes())
    if isinstance(left, float):
        same_bits = struct.pack("!d", left) == struct.pack("!d", right)
        return same_bits or (math.isnan(left) and math.isnan(right))
    return type(left) is type(right) and bool(left == right)


VALUED = [known for known in TYPES if known.name != "void"]


@settings(max_examples=600)
@given(known=st.sampled_from(VALUED), data=st.data())
def test_what_is_written_is_read_back(known: SqlType, data: st.DataObject) -> None:
    value = data.draw(_values(known))
    assert _same(value, known.read_text(known.write_text(value)))
    assert _same(value, known.read_binary(known.write_binary(value)))


@settings(max_examples=600)
@given(known=st.sampled_from(TYPES), noise=st.binary(max_size=60))
def test_any_bytes_are_a_value_or_an_error(known: SqlType, noise: bytes) -> None:
    for read in (known.read_text, known.read_binary):
        with contextlib.suppress(SqlError):
            read(noise)


@settings(max_examples=600)
@given(known=st.sampled_from(VALUED), data=st.data())
def test_damaged_binary_is_a_value_or_an_error(known: SqlType, data: st.DataObject) -> None:
    good = bytearray(known.write_binary(data.draw(_values(known))))
    for _ in range(data.draw(st.integers(1, 3))):
        if good:
            good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SqlError):
        known.read_binary(bytes(good))


def test_types_are_found_by_all_their_names() -> None:
    for name in ("integer", "int", "int4"):
        assert type_named(name) is BY_OID[types.INT4]
    for name in ("_int4", "int4[]", "integer[]", "int[]"):
        found = type_named(name)
        assert found is not None
        assert (found.element_oid, found.oid) == (types.INT4, 1007)
    assert type_named("nonsense") is None
    assert type_of(1) is None
    assert len(BY_OID) == len(TYPES)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (1e15, "1e+15"),
        (123456789012345.0, "123456789012345"),
        (1234567890123456.0, "1.234567890123456e+15"),
        (1e-5, "1e-05"),
        (1e300, "1e+300"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
        (0.30000000000000004, "0.30000000000000004"),
    ],
)
def test_floats_are_written_as_postgres_writes_them(value: float, text: str) -> None:
    assert to_text(types.FLOAT8, value) == text


def test_vectors_are_written_as_pgvector_writes_them() -> None:
    vector = np.array([1, -0.0, 2.5, 1e-5, 123456, 1e6, 3.4e38, 1e-45, 0.1], np.float32)
    text = "[1,-0,2.5,1e-05,123456,1e+06,3.4e+38,1e-45,0.1]"
    assert to_text(types.VECTOR, vector) == text


@pytest.mark.parametrize(
    "text", ["[1,2.5,-3e2]", " [ 1 ,2.5, -300 ] ", "[+1,2.50,-.3e+3]", "[1.,2.5,-300.]"]
)
def test_vectors_are_read_as_pgvector_reads_them(text: str) -> None:
    assert from_text(types.VECTOR, text).tolist() == [1.0, 2.5, -300.0]


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "[ ]", "1,2", "[1,2", "[1,,2]", "[1,2,]", "[true]", "[null]", '["1"]', "[[1]]"),
        *("[1,2]x", "[nan]", "[inf]", "[1e400]", "[1e39]", "{1,2}", "[1 2]", "[1;2]", "[0x1]"),
    ],
)
def test_what_is_no_vector_is_refused(text: str) -> None:
    with pytest.raises(SqlError):
        from_text(types.VECTOR, text)


def test_a_vector_has_as_many_components_as_pgvector_allows() -> None:
    assert len(from_text(types.VECTOR, "[" + "1," * 15_999 + "1]")) == 16_000
    with pytest.raises(SqlError, match="16000"):
        from_text(types.VECTOR, "[" + "1," * 16_000 + "1]")


def test_long_arrays_of_integers_are_read_like_short_ones() -> None:
    oid = BY_OID[types.INT8].array_oid
    ends = [-(2**63), 2**63 - 1]
    assert from_text(oid, f"{{{ends[0]}, {ends[1]},1}}") == (*ends, 1)
    assert from_text(oid, "{}") == ()
    assert from_text(oid, "{1,NULL}") == (1, None)
    for text in (f"{{{2**63}}}", f"{{{-(2**63) - 1}}}", "{1,}", "{1 2}", "{--1}", "{1}{2}", "{1"):
        with pytest.raises(SqlError):
            from_text(oid, text)


def test_arrays_of_more_dimensions_or_another_start_are_refused() -> None:
    known = BY_OID[1007]
    good = known.write_binary((1, 2))
    for at, word in ((0, 2), (16, 0), (8, types.INT8), (12, 3), (12, -1), (20, 5)):
        bad = good[:at] + struct.pack("!i", word) + good[at + 4 :]
        with pytest.raises(SqlError):
            known.read_binary(bad)


def test_an_array_header_alone_cannot_ask_for_memory() -> None:
    header = struct.pack("!iiIii", 1, 0, types.TEXT, 2**31 - 1, 1)
    with pytest.raises(SqlError):
        BY_OID[1009].read_binary(header)


def test_uuids_are_values_of_python() -> None:
    value = uuid.UUID("8d9b8e8c-0c3e-4c1b-9a50-3f8f2f4f7a11")
    assert from_text(types.UUID, "{8D9B8E8C0C3E4C1B9A503F8F2F4F7A11}") == value
