"""Which rows a codec is trained on, and which are held out as queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .arrays import F32, I64
from .errors import BadInput
from .params import ROWS_PER_LIST, default_nlist

if TYPE_CHECKING:
    from .state import IndexState

#: Memory that training may take besides the lists it makes; and the share of it for the sample,
#: which is there as it was drawn, placed, and as residuals, while a block of it is worked on.
MEMORY_BYTES = 2 << 30
SAMPLE_SHARE = 4
#: Rows that play queries in trials and calibration: 2,560 true neighbours in all.
HELD_OUT_ROWS = 256
#: With fewer rows a list, centres are noise; wide vectors can make the sample that small.
FEWEST_ROWS_PER_LIST = 16


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """``vectors`` f32[n, d] to learn from, in random order; ``queries`` f32[h, d] held out."""

    vectors: F32
    held_out: I64
    queries: F32
    nlist: int


def draw_sample(
    state: IndexState, rng: np.random.Generator, memory_bytes: int = MEMORY_BYTES
) -> Sample:
    """Draw without replacement among live rows that have a direction; the same for the same seed.

    The held-out rows are not in the sample. Raise BadInput if there is no row to learn from.
    """
    live = np.flatnonzero(state.alive())
    if state.params.metric == "cosine":
        live = live[state.rows.norms(live) > 0]
    if len(live) == 0:
        raise BadInput("there are no rows to train on")
    wanted = state.params.nlist or default_nlist(len(live))
    affordable = max(256, memory_bytes // (SAMPLE_SHARE * 4 * state.params.dim))
    size = min(len(live), ROWS_PER_LIST * max(wanted, HELD_OUT_ROWS), affordable)
    held = min(HELD_OUT_ROWS, max(1, len(live) // 8))
    drawn = live[rng.permutation(len(live))[: size + held]]
    held_out = np.sort(drawn[:held])
    learned = drawn[held:] if len(drawn) > held else held_out
    most_lists = len(learned) if state.params.nlist else len(learned) // FEWEST_ROWS_PER_LIST
    return Sample(
        state.rows.take(learned),
        held_out,
        state.rows.take(held_out),
        max(1, min(wanted, most_lists)),
    )
