"""Verifying: what an index holds, row by row, in a form that a table's rows can be put into too.

A row's hash is xxh64 over its canonical bytes, all little-endian:

    vector       its d components in the index's raw type (float32 or float16)
    each column  in spec order: 1 byte, 0 for NULL, else 1 and the value:
                 numbers, times, bool   as they lie in Arrow (bool: 1 byte)
                 uuid                   16 bytes
                 text                   u32 length in bytes · UTF-8
                 arrays                 u32 count · each element like a column

``row_hashes`` is the one definition; the index's rows and the table's rows both go through it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from .columns import ArrowArray
from .state import MirrorState

_LENGTH = struct.Struct("<I")
_NULL, _VALUE = b"\0", b"\1"
_PREFIX = "col:"
DEFAULT_BATCH_ROWS = 10_000


def row_hashes(rows: pa.RecordBatch, raw_dtype: str | None = None) -> NDArray[np.uint64]:
    """Return the hash u64[n] of n rows.

    ``rows`` has a column ``vector`` (fixed_size_list of float32 or float16) and the filter columns
    as ``col:<name>`` in spec order, like a change batch; other columns are ignored. ``raw_dtype``
    ("float32" or "float16") is the type in which the index keeps vectors: the components are
    rounded to it first. A null vector counts as no bytes.
    """
    vectors = _vector_bytes(rows.column("vector"), raw_dtype)
    columns = [
        _encoded(rows.column(number))
        for number, name in enumerate(rows.schema.names)
        if name.startswith(_PREFIX)
    ]
    hashes = (
        xxhash.xxh64_intdigest(b"".join(parts)) for parts in zip(vectors, *columns, strict=True)
    )
    return np.fromiter(hashes, np.uint64, rows.num_rows)


def hashed_rows(
    state: MirrorState, batch_rows: int = DEFAULT_BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield (``key:<name>`` columns, ``hash`` uint64) of every row in the index, in row id order.

    There is at least one batch, so that the schema is known.
    """
    living = np.flatnonzero(state.index.alive())
    names = [f"key:{spec.name}" for spec in state.key_view.specs]
    for start in range(0, max(1, len(living)), batch_rows):
        row_ids = living[start : start + batch_rows]
        hashes = pa.array(row_hashes(_rows(state, row_ids)), pa.uint64())
        keys = state.key_view.to_arrow(row_ids)
        yield pa.RecordBatch.from_arrays([*keys, hashes], names=[*names, "hash"])


def _rows(state: MirrorState, row_ids: NDArray[np.int64]) -> pa.RecordBatch:
    """Return rows of the index like those of a change batch."""
    dtype = np.dtype(state.index.params.raw_dtype)
    vectors = state.vectors(row_ids).astype(dtype, copy=False)
    flat = pa.array(vectors.reshape(-1))
    arrays: list[ArrowArray] = [pa.FixedSizeListArray.from_arrays(flat, state.index.params.dim)]
    arrays += [view.take(row_ids).to_arrow() for view in state.columns.values()]
    names = ["vector", *(f"{_PREFIX}{name}" for name in state.columns)]
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _vector_bytes(column: Any, raw_dtype: str | None) -> list[bytes]:
    dim = column.type.list_size
    flat = column.values.slice(column.offset * dim, len(column) * dim)
    vectors = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(column), dim)
    dtype = np.dtype(raw_dtype or vectors.dtype).newbyteorder("<")
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors.astype(dtype, copy=False))
    data, size = vectors.tobytes(), dim * dtype.itemsize
    rows = [data[start : start + size] for start in range(0, len(data), size)]
    if column.null_count:
        present = column.is_valid().to_pylist()
        rows = [row if there else b"" for row, there in zip(rows, present, strict=True)]
    return rows


def _encoded(column: Any) -> list[bytes]:
    """Return the canonical bytes of each value of a column."""
    if pa.types.is_list(column.type):
        return _encoded_lists(column)
    encode = _encoder(column)
    return [_NULL if value is None else _VALUE + encode(value) for value in _values(column)]


def _encoded_lists(column: Any) -> list[bytes]:
    elements = _encoded(column.flatten())
    encoded, start = [], 0
    for length in column.value_lengths().to_pylist():
        if length is None:
            encoded.append(_NULL)
        else:
            part = b"".join(elements[start : start + length])
            encoded.append(_VALUE + _LENGTH.pack(length) + part)
            start += length
    return encoded


def _values(column: Any) -> list[Any]:
    """Return the values; fixed-width ones as their bytes, so that a float keeps every bit."""
    if pa.types.is_string(column.type) or pa.types.is_fixed_size_binary(column.type):
        return list(column.to_pylist())
    zero = False if pa.types.is_boolean(column.type) else 0
    array = column.fill_null(zero).to_numpy(zero_copy_only=False)
    data, size = array.tobytes(), array.dtype.itemsize
    values: list[Any] = [data[start : start + size] for start in range(0, len(data), size)]
    for number in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist():
        values[number] = None
    return values


def _encoder(column: Any) -> Callable[[Any], bytes]:
    if pa.types.is_string(column.type):
        return _encode_text
    return bytes


def _encode_text(text: str) -> bytes:
    data = text.encode()
    return _LENGTH.pack(len(data)) + data
