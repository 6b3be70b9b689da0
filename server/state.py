"""MirrorState: what one search sees. Immutable; a new one is published for every visible step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpu.state import IndexState

from .columns import ColumnView, find_column
from .keys import Key, KeyView

Phase = Literal["new", "copying", "live", "resync"]


@dataclass(frozen=True, slots=True)
class MirrorState:
    """One consistent state: vectors, keys and columns of the row ids [0, index.n_rows).

    ``applied_lsn``: every change that committed before it is in, none at or after it.
    ``epoch`` is the copy the rows came from, 0 before the first.
    """

    index: IndexState
    applied_lsn: int
    phase: Phase
    epoch: int
    key_view: KeyView
    columns: Mapping[str, ColumnView]

    @property
    def n_rows(self) -> int:
        """Row ids given so far, dead ones included: the length of a mask."""
        return self.index.n_rows

    def keys(self, row_ids: NDArray[np.int64]) -> list[Key]:
        """Return the keys of ``row_ids`` (i64[n]): int, str, uuid.UUID, or a tuple of them."""
        return self.key_view.public(row_ids)

    def column(self, name: str) -> ColumnView:
        """Return one filter column over all row ids; raise UnknownColumn."""
        return find_column(self.columns, name)

    def vectors(self, row_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the raw vectors f32[n, d] of ``row_ids`` (i64[n])."""
        return self.index.vectors(row_ids)
