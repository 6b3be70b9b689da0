"""Attic: the rows of the table that are not in the index, and why.

They have no row id. Their key, reason and filter columns are kept, because a later change may give
them a vector and leave out a column, or leave out the vector and stay excluded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pgsync.changes import VectorState
from pgsync.table import ColumnSpec

from .columns import ColumnCodec, ColumnStore, ColumnView
from .growing import GrowingArray
from .keys import KeyRows, RawKey

#: Why a row can be excluded, and what the description calls it.
REASONS = {
    VectorState.NULL: "null_vector",
    VectorState.WRONG_DIMENSION: "wrong_dimension",
    VectorState.NOT_FINITE: "not_finite",
}

#: Below this many dead slots moving the living ones is not worth the work.
_COMPACT_FROM = 4096


class Attic:
    """Excluded rows by slot. A slot is named ~slot where it could be taken for a row id."""

    def __init__(self, key: Sequence[ColumnSpec], codecs: Sequence[ColumnCodec]) -> None:
        self._key, self._codecs = tuple(key), tuple(codecs)
        self.counts: dict[VectorState, int] = dict.fromkeys(REASONS, 0)
        #: Rows that were here once; their texts still are in the dictionaries.
        self.forgotten_rows = 0
        self._reset()

    def _reset(self) -> None:
        self.key_rows, self.columns = KeyRows(self._key), ColumnStore(self._codecs)
        self._reasons, self._alive = GrowingArray("u1"), GrowingArray("?")
        self._dead = 0

    def reasons(self) -> NDArray[np.uint8]:
        """Return the VectorState u8[slots] of each slot."""
        return self._reasons.view()

    def excluded(self) -> dict[str, int]:
        """Return how many rows are here, by the name of the reason."""
        return {name: self.counts[reason] for reason, name in REASONS.items()}

    def living(self) -> NDArray[np.int64]:
        """Return the slots in use, ascending."""
        return np.flatnonzero(self._alive.view())

    def extend(
        self, keys: Sequence[RawKey], rows: Sequence[ColumnView], reasons: NDArray[np.uint8]
    ) -> Iterable[tuple[RawKey, int]]:
        """Add rows and return (key, ~slot) of each; the caller has killed older versions."""
        first = len(self._reasons)
        self.key_rows.extend(keys)
        self.columns.extend(rows)
        self._reasons.extend(reasons)
        self._alive.extend(np.ones(len(reasons), np.bool_))
        self._tally(reasons, 1)
        return zip(keys, range(~first, ~first - len(keys), -1), strict=True)

    def kill(self, slots: NDArray[np.int64]) -> None:
        """Forget the rows in ``slots``; all of them are living."""
        if len(slots):
            self._alive.view()[slots] = False
            self._dead += len(slots)
            self.forgotten_rows += len(slots)
            self._tally(self._reasons.view()[slots], -1)

    def compact(self) -> Iterable[tuple[RawKey, int]]:
        """Drop dead slots when they prevail; return the new (key, ~slot) of the others."""
        if self._dead < max(_COMPACT_FROM, len(self._reasons) // 2):
            return ()
        slots = self.living()
        keys = self.key_rows.view().raw(slots)
        rows = [view.take(slots) for view in self.columns.views().values()]
        reasons = self._reasons.view()[slots]
        self._tally(reasons, -1)
        self._reset()
        return self.extend(keys, rows, reasons)

    def _tally(self, reasons: NDArray[np.uint8], sign: int) -> None:
        counts = np.bincount(reasons, minlength=len(VectorState))
        for reason in REASONS:
            self.counts[reason] += sign * int(counts[reason])
