"""Fields: where the values of one column lie in the bytes of many rows.

Rows are never taken apart one value at a time: a scan finds the position and length of a column in
all rows at once, and a gather copies values of one width out together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DecodeError

Positions = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]

#: Length of a field that is NULL, as Postgres writes it in COPY.
NULL = -1
#: Length given here to a field that was not sent because its TOASTed value did not change.
UNCHANGED = -2


@dataclass(frozen=True, slots=True)
class Fields:
    """One column of n rows: ``starts`` and ``lengths`` in bytes, i64[n], into ``data`` u8[N].

    A length of NULL or UNCHANGED says that there is no value; its start means nothing.
    """

    data: Octets
    starts: Positions
    lengths: Positions

    @property
    def octets(self) -> memoryview:
        """Return the data for slicing."""
        return self.data.data

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Return bool[n]: the row has a value of this column."""
        return self.lengths >= 0

    def pick(self, rows: npt.NDArray[Any]) -> Fields:
        """Return the fields of the rows given by numbers or by a mask."""
        return Fields(self.data, self.starts[rows], self.lengths[rows])

    def error(self, type_name: str, bad: npt.NDArray[np.bool_], reason: str) -> DecodeError:
        """Return the error for the first row in the mask ``bad``."""
        return DecodeError(type_name, int(self.starts[int(np.argmax(bad))]), reason)


def absent(data: Octets, n_rows: int) -> Fields:
    """Return a column that is NULL in every row."""
    return Fields(data, np.zeros(n_rows, np.int64), np.full(n_rows, NULL, np.int64))


def merge(mask: npt.NDArray[np.bool_], chosen: Fields, otherwise: Fields) -> Fields:
    """Return the fields of ``chosen`` where the mask is true and of ``otherwise`` elsewhere."""
    return Fields(
        chosen.data,
        np.where(mask, chosen.starts, otherwise.starts),
        np.where(mask, chosen.lengths, otherwise.lengths),
    )


def spread(mask: npt.NDArray[np.bool_], fields: Fields) -> Fields:
    """Return one field per element of the mask: those given where it is true, NULL elsewhere."""
    wide = absent(fields.data, len(mask))
    wide.starts[mask] = fields.starts
    wide.lengths[mask] = fields.lengths
    return wide


def as_octets(buffer: bytes | bytearray | memoryview) -> Octets:
    """Return the buffer as u8[N] without copying it."""
    return np.frombuffer(buffer, np.uint8)


def gather(data: Octets, starts: Positions, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return the items of one fixed-width type that start at ``starts``, as an array [n] of it.

    Positions at even distances become a view, all others a copy. Every item must lie in ``data``.
    """
    wanted = np.dtype(dtype)
    if not len(starts):
        return np.empty(0, wanted)
    step = int(starts[1] - starts[0]) if len(starts) > 1 else 0
    if step >= 0 and (len(starts) < 3 or bool((starts[1:] - starts[:-1] == step).all())):
        return np.ndarray(
            (len(starts),), wanted, buffer=data, offset=int(starts[0]), strides=(step,)
        )
    # One item per byte of the data, as they overlap: picking from it copies whole items.
    every = (len(data) - wanted.itemsize + 1,)
    windows = np.ndarray(every, f"V{wanted.itemsize}", buffer=data, strides=(1,))
    return windows[starts].view(wanted)


def read_integers(
    tag: str, data: Octets, starts: Positions, limits: Positions, dtype: str
) -> Positions:
    """Return the big-endian integers at ``starts`` as i64[n]; each must end at or before its limit.

    Raises DecodeError otherwise.
    """
    beyond = starts + np.dtype(dtype).itemsize > limits
    if beyond.any():
        raise DecodeError(tag, int(starts[int(np.argmax(beyond))]), "the row ends too early")
    return gather(data, starts, dtype).astype(np.int64)


def join(fields: Fields) -> bytes:
    """Return the values of all present fields, one after the other."""
    view = fields.octets
    present = fields.present
    starts = fields.starts[present]
    ends = starts + fields.lengths[present]
    return b"".join([view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])


def row_starts_of(lengths: Sequence[int] | Positions) -> Positions:
    """Return i64[n + 1]: where rows of these lengths begin when laid end to end, and their end."""
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
