"""Insert, Update, Delete and Truncate messages of one table, many at once, to Arrow rows.

The messages lie end to end in one buffer, without the transaction id that streamed ones carry; they
are taken apart column by column, and one by one only where they are few. ``pgoutput.decode``
defines what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .changes import Op
from .errors import DecodeError, ResyncNeeded
from .fields import NULL, UNCHANGED, Fields, Octets, Positions, absent, as_octets, merge, spread
from .layout import RelationLayout
from .tuples import check_ends, octets_at, scan_tuple_data, walk_tuple_data
from .values import ChangeColumns, RowDecoder

Mask = npt.NDArray[np.bool_]
#: Starts and lengths of the values of one tuple, by column.
_Tuple = tuple[list[int], list[int]]
_TAG = "row message"
_I, _U, _D, _T = ord("I"), ord("U"), ord("D"), ord("T")
_K, _O, _N = ord("K"), ord("O"), ord("N")
#: A marker for the tuple that follows comes after the tag and the relation id.
_MARKER = 5
#: NumPy takes as long for one row as walking takes for so many.
FEW_ROWS = 40


@dataclass(frozen=True, slots=True)
class RowMessages:
    """n row messages in commit order: message i is ``data[starts[i]:ends[i]]``, i64[n] each.

    ``commit_lsn`` is u64[n], ``ordinal`` u32[n].
    """

    layout: RelationLayout
    data: bytes | bytearray
    starts: Positions
    ends: Positions
    commit_lsn: npt.NDArray[np.uint64]
    ordinal: npt.NDArray[np.uint32]


def decode_row_messages(
    decoder: RowDecoder, messages: RowMessages, *, few_rows: int = FEW_ROWS
) -> pa.RecordBatch:
    """Return the changes in the schema of ``change_schema(table)``.

    Up to ``few_rows`` messages are walked one by one, with the same result. Raises DecodeError, and
    ResyncNeeded for rows that cannot be rebuilt from what was sent.
    """
    rows = _walk(messages) if len(messages.starts) <= few_rows else _scan(messages)
    layout = messages.layout
    columns = [rows.value(i) for i in layout.columns]
    return decoder.decode(
        ChangeColumns(
            op=rows.operations(),
            commit_lsn=messages.commit_lsn,
            ordinal=messages.ordinal,
            unchanged=_unchanged_bits(columns, len(rows.tags)),
            vector=rows.value(layout.vector),
            key=[rows.key(i) for i in layout.key],
            old=rows.old_keys(layout.key),
            columns=columns,
        )
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """The tuples of n messages: every column as fields [n], NULL where a message has no tuple."""

    tags: npt.NDArray[np.uint8]
    has_old: Mask
    old_is_full: Mask
    new: list[Fields]
    old: list[Fields] | None

    def operations(self) -> npt.NDArray[np.uint8]:
        """Return Op u8[n]."""
        op = np.full(len(self.tags), Op.UPSERT, np.uint8)
        op[self.tags == _D] = Op.DELETE
        op[self.tags == _T] = Op.TRUNCATE
        return op

    def value(self, column: int) -> Fields:
        """Return a column after the change; what was not sent comes from a full old row, if any.

        A key-only old row is NULL in all other columns, which says nothing about them.
        """
        new = self.new[column]
        missing = new.lengths == UNCHANGED
        if not missing.any():
            return new
        if self.old is not None:
            new = merge(missing & self.old_is_full, self.old[column], new)
            missing = new.lengths == UNCHANGED
        if (missing & (self.tags == _I)).any():
            raise ResyncNeeded(
                "a row entered the publication's row filter without its TOASTed values; set "
                "REPLICA IDENTITY FULL on the table or drop the row filter, then copy it again"
            )
        return new

    def key(self, column: int) -> Fields:
        """Return a key column after the change, and of a deleted row the one it had."""
        new = self.new[column]
        missing = new.lengths == UNCHANGED
        if self.old is not None:
            old = self.old[column]
            new = merge((self.tags == _D) | (missing & old.present), old, new)
            missing = new.lengths == UNCHANGED
        if missing.any():
            raise ResyncNeeded(
                "an updated row came without its key, which is stored out of line; the table must "
                "be copied again, better with a shorter key"
            )
        return new

    def old_keys(self, key: tuple[int, ...]) -> list[Fields] | None:
        """Return the key columns before an update, NULL elsewhere; None when nothing has them."""
        updated = self.has_old & (self.tags == _U)
        if self.old is None or not updated.any():
            return None
        nothing = absent(self.old[0].data, len(updated))
        return [merge(updated, self.old[column], nothing) for column in key]


def _scan(messages: RowMessages) -> _Rows:
    data, starts, ends = as_octets(messages.data), messages.starts, messages.ends
    width = messages.layout.n_columns
    tags = octets_at(_TAG, data, starts, ends)
    tupled = tags != _T
    markers = np.zeros(len(tags), np.uint8)
    markers[tupled] = octets_at(_TAG, data, starts[tupled] + _MARKER, ends[tupled])
    has_old, has_new = (markers == _K) | (markers == _O), (tags == _I) | (tags == _U)
    _check(starts, ((tags == _I) & has_old) | ((tags == _D) & ~has_old), "a wrong kind of tuple")
    position = starts + _MARKER
    old = None
    if has_old.any():
        fields, position[has_old] = scan_tuple_data(
            _TAG, data, position[has_old] + 1, ends[has_old], width
        )
        old = [spread(has_old, column) for column in fields]
    not_new = np.zeros(len(tags), np.bool_)
    not_new[has_new] = octets_at(_TAG, data, position[has_new], ends[has_new]) != _N
    _check(position, not_new, "a new row that is not marked N")
    fields, position[has_new] = scan_tuple_data(
        _TAG, data, position[has_new] + 1, ends[has_new], width
    )
    check_ends(_TAG, position[tupled], ends[tupled])
    new = fields if has_new.all() else [spread(has_new, column) for column in fields]
    return _Rows(tags, has_old, markers == _O, new, old)


def _walk(messages: RowMessages) -> _Rows:
    """Return what ``_scan`` returns."""
    data, width = messages.data, messages.layout.n_columns
    absent_columns = [0] * width, [NULL] * width
    tags, markers, old, new = bytearray(), bytearray(), [], []
    for start, end in zip(messages.starts.tolist(), messages.ends.tolist(), strict=True):
        tag, marker, old_columns, new_columns = _walk_one(data, start, end, width)
        tags.append(tag)
        markers.append(marker)
        old.append(old_columns or absent_columns)
        new.append(new_columns or absent_columns)
    kinds = np.frombuffer(markers, np.uint8)
    is_full = kinds == _O
    has_old = is_full | (kinds == _K)
    octets = as_octets(data)
    old_fields = _columns(octets, old) if has_old.any() else None
    return _Rows(np.frombuffer(tags, np.uint8), has_old, is_full, _columns(octets, new), old_fields)


def _walk_one(
    data: bytes | bytearray, start: int, end: int, width: int
) -> tuple[int, int, _Tuple | None, _Tuple | None]:
    """Return tag and marker of a message, and its old and new tuple."""
    if start >= end:
        raise DecodeError(_TAG, start, "the row ends too early")
    tag = data[start]
    if tag == _T:
        return tag, 0, None, None
    old: _Tuple | None = None
    new: _Tuple | None = None
    position = start + _MARKER
    marker = _octet(data, position, end)
    if marker in {_K, _O}:
        if tag == _I:
            raise DecodeError(_TAG, start, "a wrong kind of tuple")
        old, position = walk_tuple_data(_TAG, data, position + 1, end, width)
    elif tag == _D:
        raise DecodeError(_TAG, start, "a wrong kind of tuple")
    if tag != _D:
        if _octet(data, position, end) != _N:
            raise DecodeError(_TAG, position, "a new row that is not marked N")
        new, position = walk_tuple_data(_TAG, data, position + 1, end, width)
    if position != end:
        raise DecodeError(_TAG, end, "a row that is longer or shorter than its columns")
    return tag, marker, old, new


def _octet(data: bytes | bytearray, position: int, limit: int) -> int:
    if position >= limit:
        raise DecodeError(_TAG, position, "the row ends too early")
    return data[position]


def _columns(data: Octets, tuples: list[_Tuple]) -> list[Fields]:
    """Return the columns of n tuples."""
    starts, lengths = np.array(tuples, np.int64).transpose(1, 2, 0)
    return [Fields(data, *column) for column in zip(starts, lengths, strict=True)]


def _check(positions: Positions, bad: Mask, reason: str) -> None:
    if bad.any():
        raise DecodeError(_TAG, int(positions[int(np.argmax(bad))]), reason)


def _unchanged_bits(columns: list[Fields], n_rows: int) -> npt.NDArray[np.uint64]:
    bits = np.zeros(n_rows, np.uint64)
    for i, fields in enumerate(columns):
        bits |= (fields.lengths == UNCHANGED).astype(np.uint64) << np.uint64(i)
    return bits
