"""Filter columns: the values of each row id, kept column by column.

Invariants:

- Values below a row id once published never change: an UPDATE is a new row id.
- Rows without a value have ``valid`` False and a zero value; the code of a missing text is 0, which
  always exists (it stands for the empty string).
- A dictionary only grows; a code keeps its meaning for as long as the column lives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pgsync.changes import ARROW_TYPES
from pgsync.table import ColumnSpec

from .errors import UnknownColumn
from .growing import GrowingArray

#: NumPy type of each canonical element type. Text is stored as codes into a dictionary.
DTYPES: dict[str, str] = {
    "bool": "?",
    "int2": "<i2",
    "int4": "<i4",
    "int8": "<i8",
    "float4": "<f4",
    "float8": "<f8",
    "text": "<i4",
    "timestamptz": "<i8",
    "timestamp": "<i8",
    "date": "<i4",
    "uuid": "V16",
}


#: Below this many texts, one dictionary look-up each is faster than Arrow's encoding.
_FEW = 64

#: An Arrow array of any type; the stubs have no base class with what all of them can do.
ArrowArray = Any


@dataclass(frozen=True, slots=True)
class ColumnView:
    """One filter column over n rows, usually the row ids [0, n) of a state. Treat it as read-only.

    ``values``: bool, ints and floats as they are; timestamptz, timestamp and date as Postgres'
    integers since 2000-01-01; uuid as V16 bytes; text as i32 codes into ``dictionary``; for
    arrays the elements of all rows one after the other.
    ``offsets`` (arrays only): row i owns ``values[offsets[i]:offsets[i + 1]]``.
    ``element_valid`` (arrays only): False where an element is NULL.
    ``dictionary`` (text and text[]): code -> string. It may hold more strings than the rows use.
    """

    type: str
    valid: NDArray[np.bool_]
    values: NDArray[Any]
    dictionary: Sequence[str] | None = None
    offsets: NDArray[np.int64] | None = None
    element_valid: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.valid)

    def take(self, rows: NDArray[np.int64]) -> ColumnView:
        """Return the column of ``rows`` (i64[r]), in that order."""
        valid = self.valid[rows]
        if self.offsets is None or self.element_valid is None:
            return ColumnView(self.type, valid, self.values[rows], self.dictionary)
        offsets, elements = _take_lists(self.offsets, rows)
        values, present = self.values[elements], self.element_valid[elements]
        return ColumnView(self.type, valid, values, self.dictionary, offsets, present)

    def to_arrow(self) -> ArrowArray:
        """Return the column with the Arrow type that the change contract gives it."""
        if self.offsets is None or self.element_valid is None:
            return _elements_to_arrow(self.type, self.values, self.valid, self.dictionary)
        inner = _elements_to_arrow(
            self.type.removesuffix("[]"), self.values, self.element_valid, self.dictionary
        )
        offsets: ArrowArray = pa.array(self.offsets.astype(np.int32))
        missing: ArrowArray = pa.array(~self.valid)
        return pa.ListArray.from_arrays(offsets, inner, mask=missing)


def concat(views: Sequence[ColumnView]) -> ColumnView:
    """Return the rows of ``views`` one after the other; all share one type and one dictionary."""
    first = views[0]
    valid = np.concatenate([view.valid for view in views])
    values = np.concatenate([view.values for view in views])
    if first.offsets is None:
        return ColumnView(first.type, valid, values, first.dictionary)
    lengths = np.concatenate([np.diff(view.offsets) for view in views if view.offsets is not None])
    present = [view.element_valid for view in views if view.element_valid is not None]
    return ColumnView(
        first.type, valid, values, first.dictionary, _offsets(lengths), np.concatenate(present)
    )


def same_rows(left: ColumnView, right: ColumnView) -> NDArray[np.bool_]:
    """Return which rows (bool[n]) of two columns are equal; they share type and dictionary.

    Floats are compared by their bytes: a NaN equals itself and -0.0 is not 0.0.
    """
    same = left.valid == right.valid
    equal = _bits(left.values) == _bits(right.values) if left.offsets is None else None
    if equal is not None:
        return np.asarray(same & (equal | ~left.valid))
    assert left.offsets is not None
    assert right.offsets is not None
    same &= np.diff(left.offsets) == np.diff(right.offsets)
    rows = np.flatnonzero(same)
    same[rows] = _same_lists(left.take(rows), right.take(rows))
    return np.asarray(same)


def _same_lists(left: ColumnView, right: ColumnView) -> NDArray[np.bool_]:
    """Compare arrays of equal lengths; elements without a value hold zeros on both sides."""
    assert left.offsets is not None
    differs = (left.element_valid != right.element_valid) | (
        _bits(left.values) != _bits(right.values)
    )
    before = np.concatenate([[0], np.cumsum(differs)])
    return np.asarray(before[left.offsets[1:]] == before[left.offsets[:-1]])


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return values.view(f"<u{values.itemsize}") if values.dtype.kind == "f" else values


class Dictionary:
    """Strings of a text column by code. Codes are given in order of first appearance."""

    def __init__(self, strings: Sequence[str] = ("",)) -> None:
        self.strings: list[str] = list(strings)
        self._codes = {string: code for code, string in enumerate(self.strings)}

    def encode(self, texts: ArrowArray) -> NDArray[np.int32]:
        """Return the codes i32[n] of ``texts``; unknown strings get the next codes, NULL gets 0."""
        if len(texts) < _FEW:
            return np.array([self._code(text or "") for text in texts.to_pylist()], np.int32)
        encoded = texts.dictionary_encode()
        table = np.fromiter(
            (self._code(string) for string in encoded.dictionary.to_pylist()), np.int32
        )
        if encoded.null_count == len(texts):
            return np.zeros(len(texts), np.int32)
        codes = table[encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
        codes[encoded.indices.is_null().to_numpy(zero_copy_only=False)] = 0
        return np.asarray(codes)

    def _code(self, string: str) -> int:
        code = self._codes.get(string)
        if code is None:
            code = len(self.strings)
            # The string is there before its code is: a reader never meets a code without one.
            self.strings.append(string)
            self._codes[string] = code
        return code


class ColumnCodec:
    """Turns the Arrow values of one column into ColumnViews that share one dictionary."""

    def __init__(self, spec: ColumnSpec, strings: Sequence[str] = ("",)) -> None:
        self.name, self.type = spec.name, spec.type
        self.element_type = spec.type.removesuffix("[]")
        self.is_array = spec.type.endswith("[]")
        self.dictionary = Dictionary(strings) if self.element_type == "text" else None

    def decode(self, array: ArrowArray) -> ColumnView:
        """Return ``array`` (of ``ARROW_TYPES[self.type]``, n values) as a column of n rows."""
        strings = self.dictionary.strings if self.dictionary else None
        valid = _valid(array)
        if not self.is_array:
            return ColumnView(self.type, valid, self._elements(array, valid), strings)
        inner = array.flatten()
        present = _valid(inner)
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        values = self._elements(inner, present)
        return ColumnView(self.type, valid, values, strings, _offsets(lengths), present)

    def _elements(self, array: ArrowArray, valid: NDArray[np.bool_]) -> NDArray[Any]:
        if self.dictionary is not None:
            return self.dictionary.encode(array)
        if self.element_type == "uuid":
            return _uuid_bytes(array, valid)
        zero = False if self.element_type == "bool" else 0
        filled = array.fill_null(zero) if array.null_count else array
        return np.asarray(filled.to_numpy(zero_copy_only=False))


class GrowingColumn:
    """One column of a growing number of rows."""

    def __init__(self, codec: ColumnCodec) -> None:
        self.codec = codec
        self._valid = GrowingArray("?")
        self._values = GrowingArray(DTYPES[codec.element_type])
        self._offsets = GrowingArray("<i8")
        self._element_valid = GrowingArray("?")
        self._offsets.extend(np.zeros(1, np.int64))

    def extend(self, rows: ColumnView) -> None:
        """Append ``rows``; text must be coded with this column's own dictionary."""
        if rows.offsets is not None and rows.element_valid is not None:
            self._element_valid.extend(rows.element_valid)
            self._offsets.extend(rows.offsets[1:] + len(self._values))
        self._values.extend(rows.values)
        self._valid.extend(rows.valid)

    def view(self) -> ColumnView:
        """Return all rows appended so far; later appends do not show in it."""
        strings = self.codec.dictionary.strings if self.codec.dictionary else None
        valid, values = self._valid.view(), self._values.view()
        if not self.codec.is_array:
            return ColumnView(self.codec.type, valid, values, strings)
        offsets, present = self._offsets.view(), self._element_valid.view()
        return ColumnView(self.codec.type, valid, values, strings, offsets, present)


class ColumnStore:
    """All filter columns of a growing number of rows, in the order of the spec."""

    def __init__(self, codecs: Sequence[ColumnCodec]) -> None:
        self.codecs = tuple(codecs)
        self._columns = [GrowingColumn(codec) for codec in codecs]

    def extend(self, rows: Sequence[ColumnView]) -> None:
        """Append the same number of rows to every column; ``rows`` is in column order."""
        for column, view in zip(self._columns, rows, strict=True):
            column.extend(view)

    def views(self) -> dict[str, ColumnView]:
        """Return every column by name, as it is now."""
        return {column.codec.name: column.view() for column in self._columns}


def find_column(columns: Mapping[str, ColumnView], name: str) -> ColumnView:
    """Return the column called ``name``; raise UnknownColumn when there is none."""
    try:
        return columns[name]
    except KeyError:
        raise UnknownColumn(name) from None


def _valid(array: ArrowArray) -> NDArray[np.bool_]:
    if array.null_count == 0:
        return np.ones(len(array), np.bool_)
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False))


def _offsets(lengths: NDArray[Any]) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _take_lists(
    offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the offsets i64[r + 1] of the rows taken and the index of each of their elements."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    taken = _offsets(lengths)
    elements = np.arange(taken[-1], dtype=np.int64) + np.repeat(starts - taken[:-1], lengths)
    return taken, elements


def _uuid_bytes(array: ArrowArray, valid: NDArray[np.bool_]) -> NDArray[Any]:
    if len(array) == 0:
        return np.zeros(0, "V16")
    raw = np.frombuffer(array.buffers()[1], "V16")[array.offset : array.offset + len(array)]
    if array.null_count:
        raw = raw.copy()
        raw[~valid] = b"\0"
    return np.asarray(raw)


def _elements_to_arrow(
    element_type: str,
    values: NDArray[Any],
    valid: NDArray[np.bool_],
    dictionary: Sequence[str] | None,
) -> ArrowArray:
    mask = ~valid
    if dictionary is not None:
        used, codes = np.unique(values, return_inverse=True)
        strings = pa.array([dictionary[code] for code in used.tolist()], pa.utf8())
        return strings.take(pa.array(codes, pa.int64(), mask=mask))
    if element_type == "uuid":
        bitmap = pa.array(valid, pa.bool_()).buffers()[1]
        raw = pa.py_buffer(np.ascontiguousarray(values).tobytes())
        return pa.Array.from_buffers(pa.binary(16), len(values), [bitmap, raw])
    return pa.array(values, ARROW_TYPES[element_type], mask=mask)
