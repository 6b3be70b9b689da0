"""Where an error counts: the rows whose value is needed, and the place in the filter's text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import FilterError
from .values import Mask, either


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
