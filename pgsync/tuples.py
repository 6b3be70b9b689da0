"""Scans of many row tuples at once: COPY binary tuples and pgoutput's TupleData.

https://www.postgresql.org/docs/current/sql-copy.html (Binary Format) and
https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html (TupleData)
"""

from __future__ import annotations

from struct import Struct

import numpy as np
import numpy.typing as npt

from .errors import DecodeError
from .fields import NULL, UNCHANGED, Fields, Octets, Positions, gather, read_integers

_COPY = "COPY row"
_SENT, _NULL, _UNCHANGED = ord("b"), ord("n"), ord("u")
_LENGTH = Struct(">i")


def copy_row_starts(data: Octets, n_columns: int) -> Positions:
    """Return i64[n + 1]: where each COPY tuple begins, and the end of the data.

    Tuples as long as the first one are recognised together; else they are walked one by one.
    Raises DecodeError when the data does not end with a tuple.
    """
    if not len(data):
        return np.zeros(1, np.int64)
    octets = data.data
    width = _walk(octets, 0, n_columns)
    if len(data) % width == 0:
        even = np.arange(0, len(data) + 1, width)
        if _all_end_evenly(data, even, n_columns):
            return even
    starts = [0]
    while starts[-1] < len(data):
        starts.append(_walk(octets, starts[-1], n_columns))
    return np.array(starts, np.int64)


def _all_end_evenly(data: Octets, even: Positions, n_columns: int) -> bool:
    try:
        scan_copy_tuples(data, even, n_columns)
    except DecodeError:
        return False
    return True


def _walk(octets: memoryview, start: int, n_columns: int) -> int:
    """Return where the tuple at ``start`` ends."""
    position = start + 2
    for _ in range(n_columns):
        if position + 4 > len(octets):
            raise DecodeError(_COPY, start, "the row ends too early")
        length = int.from_bytes(octets[position : position + 4], signed=True)
        position += 4 + max(length, 0)
    if position > len(octets):
        raise DecodeError(_COPY, start, "the row ends too early")
    return position


def scan_copy_tuples(data: Octets, row_starts: Positions, n_columns: int) -> list[Fields]:
    """Return the columns of COPY tuples; ``row_starts`` is i64[n + 1] with the end as its last.

    Raises DecodeError when a tuple has another number of columns or another length.
    """
    position, limits = row_starts[:-1], row_starts[1:]
    _check_counts(_COPY, data, position, limits, n_columns)
    position = position + 2
    columns = []
    for _ in range(n_columns):
        lengths = read_integers(_COPY, data, position, limits, ">i4")
        _check_lengths(_COPY, position, lengths, NULL)
        columns.append(Fields(data, position + 4, lengths))
        position = position + 4 + np.maximum(lengths, 0)
    check_ends(_COPY, position, limits)
    return columns


def scan_tuple_data(
    tag: str, data: Octets, starts: Positions, limits: Positions, n_columns: int
) -> tuple[list[Fields], Positions]:
    """Return the columns of TupleData that begin at ``starts``, and where each of them ends.

    ``limits`` is the end of each message. Raises DecodeError for another number of columns, an
    unknown kind of value, one in text form, or one that passes the end.
    """
    _check_counts(tag, data, starts, limits, n_columns)
    position = starts + 2
    columns = []
    for _ in range(n_columns):
        fields, position = _scan_value(tag, data, position, limits)
        columns.append(fields)
    return columns, position


def _scan_value(
    tag: str, data: Octets, position: Positions, limits: Positions
) -> tuple[Fields, Positions]:
    kinds = read_integers(tag, data, position, limits, ">u1")
    position = position + 1
    sent = kinds == _SENT
    lengths = np.where(kinds == _NULL, NULL, UNCHANGED)
    if not sent.all():
        _check_kinds(tag, position - 1, kinds)
    at = position[sent]
    sizes = read_integers(tag, data, at, limits[sent], ">i4")
    _check_lengths(tag, at, sizes, 0)
    lengths[sent] = sizes
    fields = Fields(data, position + 4, lengths)
    return fields, position + np.where(sent, 4 + lengths, 0)


def walk_tuple_data(
    tag: str, data: bytes | bytearray, start: int, limit: int, n_columns: int
) -> tuple[tuple[list[int], list[int]], int]:
    """Return starts and lengths of the values of one TupleData, and where it ends.

    Does for a row what ``scan_tuple_data`` does for many, and raises what that raises; the end may
    lie beyond ``limit`` if the last value does.
    """
    if start + 2 > limit:
        raise DecodeError(tag, start, "the row ends too early")
    if data[start] << 8 | data[start + 1] != n_columns:
        raise DecodeError(tag, start, f"a row without exactly {n_columns} columns")
    starts, lengths, position = [0] * n_columns, [NULL] * n_columns, start + 2
    for column in range(n_columns):
        if position >= limit:
            raise DecodeError(tag, position, "the row ends too early")
        kind = data[position]
        position += 1
        if kind == _SENT:
            lengths[column] = length = _walk_length(tag, data, position, limit)
            starts[column] = position + 4
            position += 4 + length
        elif kind == _UNCHANGED:
            lengths[column] = UNCHANGED
        elif kind != _NULL:
            _check_kinds(tag, np.array([position - 1]), np.array([kind]))
    return (starts, lengths), position


def _walk_length(tag: str, data: bytes | bytearray, position: int, limit: int) -> int:
    if position + 4 > limit:
        raise DecodeError(tag, position, "the row ends too early")
    length: int = _LENGTH.unpack_from(data, position)[0]
    if length < 0:
        raise DecodeError(tag, position, "a negative length")
    return length


def _check_kinds(tag: str, position: Positions, kinds: Positions) -> None:
    in_text = kinds == ord("t")
    if in_text.any():
        reason = "a column in text form: the stream must be started with binary 'true'"
        raise DecodeError(tag, int(position[int(np.argmax(in_text))]), reason)
    unknown = ~np.isin(kinds, (_SENT, _NULL, _UNCHANGED))
    if unknown.any():
        raise DecodeError(
            tag, int(position[int(np.argmax(unknown))]), "an unknown kind of column value"
        )


def _check_counts(
    tag: str, data: Octets, starts: Positions, limits: Positions, n_columns: int
) -> None:
    other = read_integers(tag, data, starts, limits, ">i2") != n_columns
    if other.any():
        raise DecodeError(
            tag, int(starts[int(np.argmax(other))]), f"a row without exactly {n_columns} columns"
        )


def _check_lengths(tag: str, starts: Positions, lengths: Positions, least: int) -> None:
    bad = lengths < least
    if bad.any():
        raise DecodeError(tag, int(starts[int(np.argmax(bad))]), "a negative length")


def check_ends(tag: str, ends: Positions, limits: Positions) -> None:
    """Raise DecodeError unless every row ends exactly where it should."""
    wrong: npt.NDArray[np.bool_] = ends != limits
    if wrong.any():
        at = int(limits[int(np.argmax(wrong))])
        raise DecodeError(tag, at, "a row that is longer or shorter than its columns")


def octets_at(tag: str, data: Octets, starts: Positions, limits: Positions) -> Octets:
    """Return the byte at each position as u8[n]; raise DecodeError beyond a limit."""
    read_integers(tag, data, starts, limits, ">u1")
    return gather(data, starts, np.uint8)
