"""What a process does once before it says that it is ready to search."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from .backend import Backend
from .opening import open_backend

if TYPE_CHECKING:
    from .state import IndexState

#: Searches of a rehearsal; the first few of a process are several times as slow as the rest.
REHEARSED, NEIGHBOURS = 8, 10


def warm_up(backend: Backend | None = None) -> float:
    """Load or compile what ``backend`` (None: the best one here) needs; return the seconds it took.

    Most of a minute at the first start on a machine, fractions of a second later.
    """
    start = time.perf_counter()
    (backend or open_backend()).warm_up()
    return time.perf_counter() - start


def rehearse(state: IndexState) -> None:
    """Search a trained state for a few of its rows, as ``Index.load`` does before anybody can."""
    if state.trained and state.n_rows:
        some = np.linspace(0, state.n_rows - 1, REHEARSED).astype(np.int64)
        for vector in state.vectors(some):
            state.search(vector[None], NEIGHBOURS)
