"""Where the vector and the columns of each folded version come from. Pure.

``folding`` says on which version each change leans; this module follows those links to their ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgsync.changes import VectorState

from .folding import Fold, Run


@dataclass(frozen=True, slots=True)
class Sources:
    """Per change of a run of n: the source (see ``folding``) of everything its version has.

    ``states`` u8[n] are VectorStates, never UNCHANGED. ``vectors`` i64[n] holds sources.
    ``columns`` holds i64[n] by column number, only for columns of which some value was not sent.
    """

    states: NDArray[np.uint8]
    vectors: NDArray[np.int64]
    columns: dict[int, NDArray[np.int64]]


def resolve(run: Run, outcome: Fold, attic_reasons: NDArray[np.uint8]) -> Sources:
    """Follow the bases of a fold; ``attic_reasons`` u8[slots] tells why a stored row is there."""
    n = len(run.ops)
    states, vectors = run.vector_states.copy(), np.arange(n, dtype=np.int64)
    columns: dict[int, NDArray[np.int64]] = {}
    for number, base in outcome.bases.items():  # rising, so a base is resolved before its use
        own = 0 <= base < n
        if states[number] == VectorState.UNCHANGED:
            vectors[number] = vectors[base] if own else base
            states[number] = states[base] if own else _stored_state(base, attic_reasons)
        for column in _bits(int(run.unchanged[number])):
            taken = columns.setdefault(column, np.arange(n, dtype=np.int64))
            taken[number] = taken[base] if own else base
    return Sources(states, vectors, columns)


def _stored_state(source: int, attic_reasons: NDArray[np.uint8]) -> int:
    return int(attic_reasons[~source]) if source < 0 else VectorState.PRESENT


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
