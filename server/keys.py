"""Row identity: which row id a primary key has now, and which key a row id has.

Inside the server a key is a *raw key*: an int, 16 bytes (uuid) or a str, or a tuple of them for a
composite key. Callers see the public form, where a uuid is a ``uuid.UUID``.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pgsync.changes import ARROW_TYPES
from pgsync.table import ColumnSpec

from .columns import ArrowArray
from .growing import GrowingArray

KeyPart = int | str | uuid.UUID
#: A key as callers see it.
Key = KeyPart | tuple[KeyPart, ...]
RawPart = int | str | bytes
#: A key as the maps hold it.
RawKey = RawPart | tuple[RawPart, ...]


def raw_keys(rows: pa.RecordBatch, prefix: str, specs: Sequence[ColumnSpec]) -> list[RawKey | None]:
    """Return the keys of n change rows; ``prefix`` is ``key:`` or ``old:``.

    A row of which any part is NULL has no key: None.
    """
    parts = [_raw_parts(rows.column(f"{prefix}{spec.name}")) for spec in specs]
    if len(parts) == 1:
        return parts[0]
    return [None if None in key else key for key in zip(*parts, strict=True)]


def _raw_parts(column: ArrowArray) -> list[Any]:
    if column.null_count == 0 and pa.types.is_integer(column.type):
        return list(column.to_numpy().tolist())  # several times faster than to_pylist
    return list(column.to_pylist())


class KeyRows:
    """The key of each row id, append-only, one store per key column."""

    def __init__(self, specs: Sequence[ColumnSpec]) -> None:
        self.specs = tuple(specs)
        self._parts = [_store(spec) for spec in specs]
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, keys: Sequence[RawKey]) -> None:
        """Append raw keys."""
        self._length += len(keys)
        if len(self._parts) == 1:
            self._parts[0].extend(keys)
            return
        for number, part in enumerate(self._parts):
            part.extend([key[number] for key in keys])  # type: ignore[index]

    def view(self) -> KeyView:
        """Return the keys appended so far; later appends do not show in it."""
        return KeyView(self.specs, [part.view() for part in self._parts])


class KeyView:
    """The keys of row ids [0, n), immutable. ``parts`` hold i64[n], V16[n] or a list of str."""

    def __init__(self, specs: Sequence[ColumnSpec], parts: Sequence[Any]) -> None:
        self.specs, self.parts = tuple(specs), tuple(parts)

    def public(self, row_ids: NDArray[np.int64]) -> list[Key]:
        """Return the keys of ``row_ids`` (i64[r]) in the form callers see."""
        return _zip([_public_part(values, row_ids) for values in self.parts])

    def raw(self, row_ids: NDArray[np.int64]) -> list[RawKey]:
        """Return the keys of ``row_ids`` (i64[r]) in the form the maps hold."""
        return _zip([_raw_part(values, row_ids) for values in self.parts])

    def to_arrow(self, row_ids: NDArray[np.int64]) -> list[ArrowArray]:
        """Return the key columns of ``row_ids`` (i64[r]) with their types of the contract."""
        raw = [_raw_part(values, row_ids) for values in self.parts]
        return [
            pa.array(part, ARROW_TYPES[spec.type])
            for part, spec in zip(raw, self.specs, strict=True)
        ]


def _zip(parts: list[list[Any]]) -> list[Any]:
    return parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))


def _raw_part(values: Any, row_ids: NDArray[np.int64]) -> list[Any]:
    if isinstance(values, _Strings):
        return values.take(row_ids)
    return list(values[row_ids].tolist())


def _public_part(values: Any, row_ids: NDArray[np.int64]) -> list[Any]:
    raw = _raw_part(values, row_ids)
    return [uuid.UUID(bytes=part) for part in raw] if raw and isinstance(raw[0], bytes) else raw


class _Strings:
    """Text keys: a list of strings and how many of them belong to the view."""

    def __init__(self) -> None:
        self.strings: list[str] = []

    def extend(self, values: Sequence[Any]) -> None:
        self.strings.extend(values)

    def view(self) -> _Strings:
        """Return itself: strings are only ever appended, and readers ask by row id."""
        return self

    def take(self, row_ids: NDArray[np.int64]) -> list[str]:
        strings = self.strings
        return [strings[row_id] for row_id in row_ids.tolist()]


class _Integers:
    """Integer keys of any width, kept as 64 bits."""

    def __init__(self) -> None:
        self._values = GrowingArray("<i8")

    def extend(self, values: Sequence[Any]) -> None:
        self._values.extend(np.array(values, np.int64))

    def view(self) -> NDArray[Any]:
        return self._values.view()


class _Uuids:
    """uuid keys, 16 bytes each."""

    def __init__(self) -> None:
        self._values = GrowingArray("V16")

    def extend(self, values: Sequence[Any]) -> None:
        self._values.extend(np.frombuffer(b"".join(values), "V16"))

    def view(self) -> NDArray[Any]:
        return self._values.view()


def _store(spec: ColumnSpec) -> _Strings | _Integers | _Uuids:
    if spec.type == "text":
        return _Strings()
    return _Uuids() if spec.type == "uuid" else _Integers()
