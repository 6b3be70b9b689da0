"""Where an error counts: the rows whose value is needed, and the place in the filter's text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FilterError
from .values import Mask, Values, either


@dataclass(frozen=True, slots=True)
class Guard:
    """``active``: rows that are evaluated, None for all. ``null``: rows with a NULL argument."""

    position: int
    active: Mask | None = None
    null: Mask | None = None

    def check(self, bad: Mask, message: str, sqlstate: str) -> None:
        """Raise FilterError if a row that counts is ``bad`` (bool of n rows or of 1)."""
        if bad.any() and (bad & self.counting(len(bad))).any():
            raise FilterError(message, self.position, sqlstate)

    def counting(self, rows: int) -> Mask:
        """Return which of ``rows`` rows count; one row that stands for all counts if one does."""
        skipped = either(self.null, None if self.active is None else ~self.active)
        if skipped is None:
            return np.ones(rows, np.bool_)
        return np.array([not skipped.all()]) if rows == 1 else ~skipped


def distinct_pairs(
    guard: Guard, a: Values, b: Values
) -> tuple[NDArray[np.int64], list[tuple[Any, Any]]]:
    """Return each row's pair of words as a number, and the distinct pairs by number.

    All rows that do not count have one and the same pair.
    """
    if b.rows == 1:
        word = b.vocabulary[b.data[0]]
        return a.data, [(other, word) for other in a.vocabulary]
    size = len(b.vocabulary)
    joint = a.data.astype(np.int64) * size + b.data
    counting = guard.counting(len(joint))
    if counting.any():
        joint[~counting] = joint[counting.argmax()]
    unique, numbers = np.unique(joint, return_inverse=True)
    words_a, words_b = a.vocabulary, b.vocabulary
    return numbers, [(words_a[j // size], words_b[j % size]) for j in unique.tolist()]
