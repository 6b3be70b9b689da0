"""Key and filter columns: binary values of one type, all rows at once, to Arrow arrays.

COPY and pgoutput use the same binary forms, those of each type's send function (``bool`` one byte;
integers, floats, times and dates big-endian; ``uuid`` 16 bytes; ``text`` UTF-8; arrays as
``array_send`` in Postgres' arrayfuncs.c writes them).
"""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .changes import ARROW_TYPES
from .errors import DecodeError
from .fields import NULL, Fields, gather, join, row_starts_of

#: Wire form of the types whose values all have one width. Times stay Postgres' own integers.
_WIRE_DTYPES: dict[str, str] = {
    "bool": "u1",
    "int2": ">i2",
    "int4": ">i4",
    "int8": ">i8",
    "float4": ">f4",
    "float8": ">f8",
    "timestamptz": ">i8",
    "timestamp": ">i8",
    "date": ">i4",
    "uuid": "V16",
}

#: Element type oids that an array column's values may name: varchar and bpchar count as text.
_ELEMENT_OIDS: dict[str, frozenset[int]] = {
    "int2": frozenset({21}),
    "int4": frozenset({23}),
    "int8": frozenset({20}),
    "text": frozenset({25, 1042, 1043}),
}

_ARRAY_HEADER = Struct(">iiI")
_LENGTH = Struct(">i")
#: MAXDIM of Postgres.
_MOST_DIMENSIONS = 6
#: Arrow's utf8 and list types count in 32 bits.
_LARGEST_OFFSET = 2**31 - 1


def decode_column(type_name: str, fields: Fields) -> pa.Array[Any]:
    """Return the values of a column of a canonical type as an Arrow array of ARROW_TYPES[type].

    Rows without a value are null. Raises DecodeError for values that are not of the type.
    """
    if type_name.endswith("[]"):
        return _decode_arrays(type_name, fields)
    if type_name == "text":
        return _decode_text(fields)
    return _decode_fixed_width(type_name, fields)


def _decode_fixed_width(type_name: str, fields: Fields) -> pa.Array[Any]:
    values = fixed_width_values(type_name, fields)
    present = fields.present
    if type_name == "bool":
        flags: pa.Array[Any] = pa.array(values != 0, mask=~present)
        return flags
    if type_name == "uuid":
        buffers = [_bitmap(present), pa.py_buffer(values.data)]
        return pa.Array.from_buffers(ARROW_TYPES["uuid"], len(values), buffers)
    numbers: pa.Array[Any] = pa.array(values, mask=None if present.all() else ~present)
    return numbers


def fixed_width_values(type_name: str, fields: Fields) -> npt.NDArray[Any]:
    """Return the values as a new native array [n], zero where there is none."""
    wire = np.dtype(_WIRE_DTYPES[type_name])
    present = fields.present
    wrong = present & (fields.lengths != wire.itemsize)
    if wrong.any():
        raise fields.error(type_name, wrong, f"a value that is not {wire.itemsize} bytes long")
    if present.all():
        return gather(fields.data, fields.starts, wire).astype(wire.newbyteorder("="))
    values = np.zeros(len(present), wire.newbyteorder("="))
    values[present] = gather(fields.data, fields.starts[present], wire)
    return values


def _decode_text(fields: Fields) -> pa.Array[Any]:
    offsets = _offsets("text", fields, np.maximum(fields.lengths, 0))
    buffers = [_bitmap(fields.present), pa.py_buffer(offsets.data), pa.py_buffer(join(fields))]
    array = pa.Array.from_buffers(pa.utf8(), len(fields.lengths), buffers)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        at = int(fields.starts[0])
        raise DecodeError("text", at, "a value in these rows is not UTF-8") from error
    return array


def _offsets(
    type_name: str, fields: Fields, lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    offsets = row_starts_of(lengths)
    if offsets[-1] > _LARGEST_OFFSET:
        raise DecodeError(
            type_name, int(fields.starts[0]), "more than 2 GiB of values in one batch"
        )
    return offsets.astype(np.int32)


def _bitmap(present: npt.NDArray[np.bool_]) -> pa.Buffer | None:
    """Return Arrow's validity bitmap, or None when every row has a value."""
    if present.all():
        return None
    return pa.py_buffer(np.packbits(present, bitorder="little").data)


def _decode_arrays(type_name: str, fields: Fields) -> pa.Array[Any]:
    """Return lists of elements; arrays of several dimensions are flattened in storage order."""
    element_type = type_name.removesuffix("[]")
    counts, elements = _array_elements(type_name, fields)
    offsets = _offsets(type_name, fields, counts)
    buffers = [_bitmap(fields.present), pa.py_buffer(offsets.data)]
    children = [decode_column(element_type, elements)]
    return pa.Array.from_buffers(ARROW_TYPES[type_name], len(counts), buffers, children=children)


def _array_elements(type_name: str, fields: Fields) -> tuple[npt.NDArray[np.int64], Fields]:
    """Return the number of elements of each row, and the elements of all rows as fields."""
    octets = fields.octets
    oids = _ELEMENT_OIDS[type_name.removesuffix("[]")]
    counts = np.zeros(len(fields.lengths), np.int64)
    starts: list[int] = []
    lengths: list[int] = []
    for row in np.flatnonzero(fields.present).tolist():
        start, length = int(fields.starts[row]), int(fields.lengths[row])
        before = len(starts)
        walk_array(type_name, octets[start : start + length], start, oids, starts, lengths)
        counts[row] = len(starts) - before
    return counts, Fields(fields.data, np.array(starts, np.int64), np.array(lengths, np.int64))


def walk_array(
    type_name: str,
    value: memoryview,
    start: int,
    element_oids: frozenset[int],
    starts: list[int],
    lengths: list[int],
) -> tuple[int, ...]:
    """Append where the elements of one array value lie, and return the length of each dimension.

    ``start`` is the position of the value in its buffer. Raises DecodeError for anything that is
    not an array of elements with one of the oids.
    """
    dimensions, position = _read_array_header(type_name, value, start, element_oids)
    for _ in range(_count(dimensions)):
        if position + 4 > len(value):
            raise DecodeError(type_name, start + position, "the array ends too early")
        (length,) = _LENGTH.unpack_from(value, position)
        position += 4
        starts.append(start + position)
        lengths.append(length)
        if length < NULL:
            raise DecodeError(type_name, start + position, "an element of negative length")
        position += max(length, 0)
    if position != len(value):
        raise DecodeError(type_name, start, "an array longer or shorter than its elements")
    return dimensions


def _read_array_header(
    type_name: str, value: memoryview, start: int, element_oids: frozenset[int]
) -> tuple[tuple[int, ...], int]:
    if len(value) < _ARRAY_HEADER.size:
        raise DecodeError(type_name, start, "the array ends too early")
    n_dimensions, _has_nulls, element_oid = _ARRAY_HEADER.unpack_from(value)
    end = _ARRAY_HEADER.size + 8 * n_dimensions
    if not 0 <= n_dimensions <= _MOST_DIMENSIONS or end > len(value):
        raise DecodeError(type_name, start, "a wrong number of array dimensions")
    if element_oid not in element_oids:
        raise DecodeError(type_name, start, "an array of another element type")
    dimensions = tuple(
        _LENGTH.unpack_from(value, at)[0] for at in range(_ARRAY_HEADER.size, end, 8)
    )
    if any(length < 0 for length in dimensions):
        raise DecodeError(type_name, start, "an array dimension of negative length")
    return dimensions, end


def _count(dimensions: tuple[int, ...]) -> int:
    count = 1 if dimensions else 0
    for length in dimensions:
        count *= length
    return count
