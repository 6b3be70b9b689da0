"""Vector and array values: the exact wire forms, what is no vector, and what is malformed."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pyarrow as pa
import pytest

from pgsync.changes import ARROW_TYPES, VectorState
from pgsync.columns import decode_column
from pgsync.errors import DecodeError
from pgsync.fields import NULL, UNCHANGED, Fields, as_octets
from pgsync.table import VectorType
from pgsync.vectors import decode_vectors
from tests.pgoutput_writer import array_bytes, sized, sparsevec_bytes, vector_bytes


def _fields(*values: bytes | int) -> Fields:
    """Lay values out with gaps; a number stands for a length without value."""
    data, starts, lengths = b"??", [], []
    for value in values:
        starts.append(len(data))
        lengths.append(value if isinstance(value, int) else len(value))
        data += b"" if isinstance(value, int) else value + b"?" * (len(starts) % 3)
    return Fields(as_octets(data), np.array(starts, np.int64), np.array(lengths, np.int64))


@pytest.mark.parametrize(
    ("vector_type", "wire", "components"),
    [
        ("vector", "0003 0000 3f800000 c0200000 3300d959", [1, -2.5, 3e-8]),
        ("halfvec", "0003 0000 3c00 c100 7bff", [1, -2.5, 65504]),
        (
            "sparsevec",
            "00000006 00000002 00000000 00000000 00000004 3fc00000 c0000000",
            [1.5, 0, 0, 0, -2, 0],
        ),
    ],
)
def test_the_wire_form_is_the_one_that_pgvector_writes(
    vector_type: VectorType, wire: str, components: list[float]
) -> None:
    states, vectors = decode_vectors(
        vector_type, len(components), _fields(bytes.fromhex(wire), bytes.fromhex(wire))
    )
    assert states.tolist() == [VectorState.PRESENT] * 2
    assert vectors.tolist() == [np.asarray(components, vectors.dtype).tolist()] * 2
    assert vectors.dtype == (np.float16 if vector_type == "halfvec" else np.float32)


def test_rows_keep_their_places_beside_rows_without_a_vector() -> None:
    fields = _fields(
        NULL,
        vector_bytes([1, 2]),
        UNCHANGED,
        vector_bytes([1, 2, 3]),
        vector_bytes([np.nan, 0]),
        vector_bytes([3, 4]),
    )
    states, vectors = decode_vectors("vector", 2, fields)
    assert [VectorState(state).name for state in states.tolist()] == [
        "NULL",
        "PRESENT",
        "UNCHANGED",
        "WRONG_DIMENSION",
        "NOT_FINITE",
        "PRESENT",
    ]
    assert vectors.tolist() == [[0, 0], [1, 2], [0, 0], [0, 0], [0, 0], [3, 4]]


def test_a_float8_beyond_float32_is_not_finite() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        states, _ = decode_vectors("float8[]", 1, _fields(array_bytes("float8", [1e300], (1,))))
    assert states.tolist() == [VectorState.NOT_FINITE]


def test_an_array_with_another_lower_bound_is_a_vector() -> None:
    wire = bytearray(array_bytes("float4", [1.0, 2.0], (2,)))
    wire[16:20] = struct.pack(">i", 5)
    states, vectors = decode_vectors("float4[]", 2, _fields(bytes(wire)))
    assert (states.tolist(), vectors.tolist()) == ([VectorState.PRESENT], [[1, 2]])


_VECTOR, _SPARSE = vector_bytes([1, 2]), sparsevec_bytes([0, 2])
_ARRAY = array_bytes("float4", [1.0, None], (2,))


@pytest.mark.parametrize(
    ("vector_type", "wire", "reason"),
    [
        ("vector", b"", "without a header"),
        ("vector", _VECTOR[:-1], "does not match the dimension"),
        ("vector", _VECTOR + b"?", "does not match the dimension"),
        ("vector", _VECTOR[:2] + b"\0\1" + _VECTOR[4:], "does not match the dimension"),
        ("halfvec", _VECTOR, "does not match the dimension"),
        ("sparsevec", b"", "without a header"),
        ("sparsevec", _SPARSE[:-1], "does not match the element count"),
        ("sparsevec", _SPARSE[:4] + struct.pack(">i", -1) + _SPARSE[8:], "element count"),
        ("sparsevec", _SPARSE[:8] + struct.pack(">i", 1) + _SPARSE[12:], "element count"),
        ("sparsevec", _SPARSE[:12] + struct.pack(">i", 2) + _SPARSE[16:], "index outside"),
        ("sparsevec", _SPARSE[:12] + struct.pack(">i", -1) + _SPARSE[16:], "index outside"),
        ("float4[]", b"", "ends too early"),
        ("float4[]", _ARRAY[:-1], "ends too early"),
        ("float4[]", _ARRAY + b"?", "longer or shorter"),
        ("float4[]", struct.pack(">iiI", 7, 0, 700) + bytes(56), "number of array dimensions"),
        ("float4[]", struct.pack(">iiI", -1, 0, 700), "number of array dimensions"),
        ("float4[]", struct.pack(">iiI", 1, 0, 700), "number of array dimensions"),
        ("float4[]", struct.pack(">iiIii", 1, 0, 700, -1, 1), "negative length"),
        ("float4[]", struct.pack(">iiIiii", 1, 0, 700, 1, 1, -2), "negative length"),
        ("float4[]", array_bytes("float8", [1.0], (1,)), "another element type"),
        ("float8[]", array_bytes("float4", [1.0], (1,)), "another element type"),
        (
            "float4[]",
            struct.pack(">iiIii", 1, 0, 700, 1, 1) + sized("int2", 1),
            "an element that is not 4 bytes long",
        ),
    ],
)
def test_malformed_vectors_raise_decode_error(
    vector_type: VectorType, wire: bytes, reason: str
) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_vectors(vector_type, 2, _fields(_good(vector_type), wire))


def _good(vector_type: VectorType) -> bytes:
    if vector_type.endswith("[]"):
        return array_bytes(vector_type.removesuffix("[]"), [1.0, 2.0], (2,))
    return {"vector": _VECTOR, "halfvec": b"\0\2\0\0" + bytes(4), "sparsevec": _SPARSE}[vector_type]


def test_huge_array_dimensions_cost_nothing() -> None:
    wire = struct.pack(">iiI", 6, 0, 700) + struct.pack(">ii", 2**31 - 1, 1) * 6
    with pytest.raises(DecodeError, match="ends too early"):
        decode_vectors("float4[]", 2, _fields(wire))


# Filter columns


@pytest.mark.parametrize("oid", [25, 1042, 1043])
def test_text_arrays_may_hold_varchar_and_bpchar(oid: int) -> None:
    wire = bytearray(array_bytes("text", ["a", None], (2,)))
    wire[8:12] = struct.pack(">I", oid)
    assert decode_column("text[]", _fields(bytes(wire))).to_pylist() == [["a", None]]


def test_arrays_of_several_dimensions_are_flattened() -> None:
    wire = array_bytes("int4", [1, 2, 3, None], (2, 2))
    array = decode_column("int4[]", _fields(NULL, wire, array_bytes("int4", [], ())))
    assert array.to_pylist() == [None, [1, 2, 3, None], []]


@pytest.mark.parametrize("type_name", sorted(ARROW_TYPES))
def test_a_column_without_any_value_has_its_type(type_name: str) -> None:
    array = decode_column(type_name, _fields(NULL, UNCHANGED))
    array.validate(full=True)
    assert array.type == ARROW_TYPES[type_name]
    assert array.null_count == 2
    assert decode_column(type_name, _fields()).type == ARROW_TYPES[type_name]


def test_floats_that_are_not_finite_stay_as_they_are_in_filter_columns() -> None:
    wire = [struct.pack(">f", value) for value in (np.inf, -np.inf)]
    assert decode_column("float4", _fields(*wire)).to_pylist() == [np.inf, -np.inf]
    nan = decode_column("float8", _fields(struct.pack(">d", np.nan)))
    assert nan.equals(pa.array([np.nan])) is False
    assert np.isnan(nan.to_numpy()).all()


@pytest.mark.parametrize(
    ("type_name", "wire", "reason"),
    [
        ("int4", b"\0\0\0", "not 4 bytes long"),
        ("uuid", bytes(17), "not 16 bytes long"),
        ("bool", b"", "not 1 bytes long"),
        ("text", b"\xff", "not UTF-8"),
        ("text[]", array_bytes("int4", [1], (1,)), "another element type"),
        ("int4[]", struct.pack(">iiIii", 1, 0, 23, 1, 1) + sized("int2", 1), "not 4 bytes long"),
    ],
)
def test_malformed_filter_values_raise_decode_error(
    type_name: str, wire: bytes, reason: str
) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_column(type_name, _fields(wire))
