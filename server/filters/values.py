"""Columns of intermediate results: what kernels take and return.

Invariants:

- A vector has n rows, or one row that stands for all of them (a constant).
- A boolean that is NULL is False in ``data``: ``data`` and ``null`` are the two masks of
  three-valued logic, is TRUE and is NULL.
- Other data of NULL rows is arbitrary, but safe to compute with.
- The words of a text vector are distinct: equal codes are equal texts and the other way round.
  Those of a numeric vector may repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from server.columns import ColumnView

from .literals import Value
from .sqltypes import DTYPES, element_of, is_array

Mask = NDArray[np.bool_]

_ZEROS: dict[str, Any] = {"bool": False, "text": "", "uuid": b"", "numeric": Decimal(0)}


@dataclass(frozen=True, slots=True)
class Values:
    """Scalars: ``data`` of DTYPES[type], ``null`` bool or None where no row is NULL.

    Text and numeric: ``data`` are i32 codes into ``words``, of str or of Decimal.
    """

    type: str
    data: NDArray[Any]
    null: Mask | None = None
    words: Sequence[Any] | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.data)

    @property
    def vocabulary(self) -> Sequence[Any]:
        """The words of a text or numeric vector."""
        assert self.words is not None
        return self.words


@dataclass(frozen=True, slots=True)
class Arrays:
    """Arrays: row i owns ``items`` [offsets[i], offsets[i + 1]); ``offsets`` is i64[rows + 1]."""

    type: str
    items: Values
    offsets: NDArray[np.int64]
    null: Mask | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def lengths(self) -> NDArray[np.int64]:
        """Return the number of items of each row."""
        return np.diff(self.offsets)

    def owners(self) -> NDArray[np.int64]:
        """Return the row of each item."""
        return np.repeat(np.arange(self.rows), self.lengths())


Vector = Values | Arrays


def truth(data: Mask, null: Mask | None = None) -> Values:
    """Return booleans that are ``data`` where they are not NULL."""
    if null is None:
        return Values("bool", data)
    return Values("bool", data & ~null, null)


def with_null(vector: Vector, null: Mask | None) -> Vector:
    """Return ``vector`` with NULL exactly in the rows of ``null``."""
    if isinstance(vector, Values) and vector.type == "bool":
        return truth(vector.data, null)
    return replace(vector, null=null)


def either(a: Mask | None, b: Mask | None) -> Mask | None:
    """Return where one of two masks holds; None stands for nowhere."""
    if a is None or b is None:
        return b if a is None else a
    return a | b


def take(values: Values, rows: NDArray[np.int64]) -> Values:
    """Return the scalars at ``rows`` (i64[r]), in that order; a constant stays one row."""
    if values.rows == 1:
        return values
    null = None if values.null is None else values.null[rows]
    return replace(values, data=values.data[rows], null=null)


def text(data: NDArray[Any], words: Sequence[str]) -> Values:
    """Return text of codes into words that may repeat."""
    codes: dict[str, int] = {}
    merged = np.fromiter((codes.setdefault(word, len(codes)) for word in words), np.int32)
    return Values("text", merged[data], None, list(codes))


def is_null(vector: Vector) -> Mask:
    """Return the NULL rows as a mask of all rows."""
    return np.zeros(vector.rows, np.bool_) if vector.null is None else vector.null


def sequence(type_name: str, values: Sequence[Value | None]) -> Values:
    """Return scalars given one by one as a vector."""
    null = np.fromiter((value is None for value in values), np.bool_, len(values))
    zero = _ZEROS.get(type_name, 0)
    filled: list[Any] = [zero if value is None else value for value in values]
    mask = null if null.any() else None
    if type_name not in ("text", "numeric"):
        return Values(type_name, _data(type_name, filled), mask)
    words = list(dict.fromkeys(filled))
    codes = {word: code for code, word in enumerate(words)}
    data = np.fromiter((codes[word] for word in filled), np.int32, len(filled))
    return Values(type_name, data, mask, words)


def constant(type_name: str, value: Value | None) -> Vector:
    """Return one row that stands for all rows."""
    if not is_array(type_name):
        return sequence(type_name, (value,))
    items = value if isinstance(value, tuple) else ()
    null = np.ones(1, np.bool_) if value is None else None
    offsets = np.array([0, len(items)], np.int64)
    return Arrays(type_name, sequence(element_of(type_name), items), offsets, null)


def scalar(vector: Vector) -> Value | None:
    """Return the value of a vector of one row."""
    if vector.null is not None and vector.null[0]:
        return None
    if isinstance(vector, Arrays):
        items = vector.items
        return tuple(_item(items, index) for index in range(items.rows))
    return _item(vector, 0)


def from_view(view: ColumnView) -> Vector:
    """Return a mirrored column as a vector."""
    null = None if view.valid.all() else ~view.valid
    if view.offsets is None or view.element_valid is None:
        return _scalars(view.type, view.values, null, view.dictionary)
    absent = None if view.element_valid.all() else ~view.element_valid
    items = _scalars(element_of(view.type), view.values, absent, view.dictionary)
    return Arrays(view.type, items, view.offsets, null)


def _scalars(
    type_name: str, values: NDArray[Any], null: Mask | None, words: Sequence[str] | None
) -> Values:
    if type_name == "uuid":
        values = np.ascontiguousarray(values).view("S16")
    if type_name == "bool" and null is not None:
        values = values & ~null
    return Values(type_name, values, null, words)


def _item(values: Values, index: int) -> Value | None:
    if values.null is not None and values.null[index]:
        return None
    if values.words is not None:
        return cast("Value", values.words[int(values.data[index])])
    if values.type == "uuid":
        return bytes(values.data[index]).ljust(16, b"\0")
    return cast("Value", values.data[index].item())


def _data(type_name: str, values: Sequence[Any]) -> NDArray[Any]:
    data = np.empty(len(values), DTYPES[type_name])
    if len(values):
        data[:] = values
    return data
