"""Inverted lists of the NumPy backend: a few immutable segments, each sorted by list.

Invariants:

- a ``SegmentedLists`` never changes; ``append`` returns another one that shares its segments;
- each segment is at least twice as large as the next, so that there are few of them and a row is
  copied a logarithmic number of times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .arrays import I32, I64
from .codec import Codec
from .encoding import ListContents, joined


class Segment(NamedTuple):
    """Rows sorted by list: list l owns places [offsets[l], offsets[l + 1]), i64[L + 1]."""

    offsets: I64
    contents: ListContents

    def places(self, lists: I32) -> tuple[I64, I64]:
        """Return the places of all rows of ``lists`` i32[p], and for each which of p it is in."""
        starts = self.offsets[lists]
        sizes = self.offsets[lists + 1] - starts
        ends = np.cumsum(sizes)
        which = np.repeat(np.arange(len(lists)), sizes)
        return np.arange(len(which)) + (starts - ends + sizes)[which], which


class SegmentedLists:
    """One version of the lists of a codec."""

    def __init__(self, codec: Codec, segments: tuple[Segment, ...] = ()) -> None:
        self.codec, self.segments = codec, segments

    @property
    def lengths(self) -> I64:
        """Rows of each list, dead ones included, i64[L]."""
        zero = np.zeros(self.codec.nlist, np.int64)
        return sum((np.diff(segment.offsets) for segment in self.segments), zero)

    def append(self, batch: ListContents) -> SegmentedLists:
        """Return lists with the rows of ``batch`` added; this version stays as it is."""
        if len(batch) == 0:
            return self
        parts, kept = [batch], list(self.segments)
        while kept and len(kept[-1].contents) < 2 * sum(len(part) for part in parts):
            parts.append(kept.pop().contents)
        return SegmentedLists(self.codec, (*kept, self._segment(parts)))

    def contents(self) -> ListContents:
        """Return all rows, sorted by list, then by row id."""
        return self._segment([segment.contents for segment in self.segments]).contents

    def _segment(self, parts: list[ListContents]) -> Segment:
        rows = joined(parts, self.codec)
        rows = rows.take(np.lexsort((rows.row_ids, rows.list_ids)))
        numbers = np.arange(self.codec.nlist + 1)
        return Segment(np.searchsorted(rows.list_ids, numbers).astype(np.int64), rows)
