"""Drift: how far the rows have moved from those that a codec was trained on.

Running figures, added up while rows are encoded, so that reading them costs next to nothing. What
is compared is always the present with the same figure at training time: data that never was
balanced or close to its centroids does not count as drifted, and a new training starts from new
values. Together with the share of new rows that is asked for, training cannot follow on training.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .arrays import I64

#: Nothing counts as drift before this share of the rows at training time has come since.
NEW_SHARE = 0.2
#: New rows this many times farther (squared) from their centroids than those at training time.
FARTHER = 1.3
#: Lists this many times more uneven than at training time.
MORE_UNEVEN = 1.5
#: Rows that the codec cannot represent cost a distance in every search; this share of new ones.
SET_ASIDE = 0.01


@dataclass(frozen=True, slots=True)
class Seen:
    """Rows put into lists, the sum of their squared distances to centroids, and rows set aside.

    Distances are in the units of the codec.
    """

    rows: int = 0
    squares: float = 0.0
    aside: int = 0

    @property
    def total(self) -> int:
        """All rows, those set aside included."""
        return self.rows + self.aside

    def plus(self, other: Seen) -> Seen:
        """Return the rows of both."""
        rows, squares = self.rows + other.rows, self.squares + other.squares
        return Seen(rows, squares, self.aside + other.aside)


@dataclass(frozen=True, slots=True)
class Drift:
    """Rows seen at training time and since, and the imbalance of the lists at training time."""

    trained: Seen = field(default_factory=Seen)
    since: Seen = field(default_factory=Seen)
    imbalance: float = 1.0

    def plus(self, seen: Seen) -> Drift:
        """Return this after some more rows."""
        return Drift(self.trained, self.since.plus(seen), self.imbalance)

    def settled(self, lengths: I64) -> Drift:
        """Return this at the end of training: what was seen is what later rows are held against."""
        return Drift(self.since, Seen(), imbalance_of(lengths))

    @property
    def error_ratio(self) -> float:
        """Mean squared distance of new rows over that at training time; 1.0 if one is unknown."""
        if not self.since.rows or not self.trained.rows or not self.trained.squares:
            return 1.0
        before = self.trained.squares / self.trained.rows
        return self.since.squares / self.since.rows / before

    def due(self, lengths: I64) -> bool:
        """Say whether the codec no longer fits rows in lists of ``lengths`` i64[L]."""
        if not self.trained.total or self.since.total < NEW_SHARE * self.trained.total:
            return False
        farther = self.error_ratio > FARTHER
        uneven = imbalance_of(lengths) > MORE_UNEVEN * self.imbalance
        expected = max(SET_ASIDE, 2 * self.trained.aside / self.trained.total)
        return farther or uneven or self.since.aside > expected * self.since.total

    def ratios(self, lengths: I64) -> dict[str, float]:
        """Return error and imbalance over what they were at training time."""
        return {
            "error": self.error_ratio,
            "imbalance": imbalance_of(lengths) / self.imbalance,
        }

    def stats(self, lengths: I64) -> dict[str, object]:
        """Return figures for people and monitoring."""
        return {
            "rows_since_training": self.since.total,
            "error_ratio": round(self.error_ratio, 4),
            "imbalance": round(imbalance_of(lengths), 4),
            "imbalance_at_training": round(self.imbalance, 4),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that lies in the file header."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Drift:
        """Rebuild from ``to_json``."""
        return cls(Seen(**data["trained"]), Seen(**data["since"]), data["imbalance"])


def imbalance_of(lengths: I64) -> float:
    """Return L sum(n^2) / sum(n)^2 of list lengths i64[L]: 1 if all are equal, L if one has all.

    It is the cost of probing a list in proportion to how many rows it has, over that of equal lists
    (Jegou, Douze, Schmid 2011, section V).
    """
    rows = float(lengths.sum())
    return (
        len(lengths) * float(np.square(lengths.astype(np.float64)).sum()) / rows**2 if rows else 1.0
    )
