"""Compaction: the live rows of a state under new row ids without gaps, in the same order.

Vectors and codes are copied, not made anew, so searches of the new index find what searches of the
state find. For as long as both exist, memory holds the live rows twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .arrays import I64
from .bitmap import bits_at
from .index import Index
from .trained import Trained

if TYPE_CHECKING:
    from .state import IndexState

#: Components copied between two looks at whoever waits.
SLICE_COMPONENTS = 1 << 22


def compacted(state: IndexState, pause: Callable[[], None] = lambda: None) -> Index:
    """Return an index of the live rows of ``state``: the i-th of them is row id i.

    ``pause`` is called between slices and may raise to stop.
    """
    live = np.flatnonzero(state.alive())
    index = Index(state.params, state.backend)
    step = max(1, SLICE_COMPONENTS // state.params.dim)
    for first in range(0, len(live), step):
        pause()
        index.add(state.rows.take(live[first : first + step]))
    index.publish()
    if state.trained_part is not None:
        index.adopt(_renumbered(state, state.trained_part, live, pause))
    return index


def _renumbered(
    state: IndexState, trained: Trained, live: I64, pause: Callable[[], None]
) -> Trained:
    def renumber(row_ids: I64) -> I64:
        return np.searchsorted(live, row_ids)

    encoded = int(np.searchsorted(live, trained.encoded_rows))
    return replace(
        trained,
        lists=state.backend.rewrite_lists(
            trained.lists, state.alive_bits, renumber=True, pause=pause
        ),
        aside=renumber(trained.aside[bits_at(state.alive_bits, trained.aside)]),
        encoded_rows=encoded,
        kept_rows=encoded,
    )
