"""What a compute backend must do. NumPy's is the definition; the others answer the same.

Rows and bitmaps are host arrays that every backend reads. Inverted lists belong to the backend:
their layout in memory is its own business, what goes to disk is ``ListContents``.
"""

from __future__ import annotations

from typing import Protocol

from .arrays import F32, I64, U8
from .hits import SearchResult
from .rows import Rows


class Backend(Protocol):
    """Operations on arrays. All are safe to call from several threads."""

    name: str

    def exact(
        self, rows: Rows, queries: F32, k: int, where: range | I64, allowed: U8 | None
    ) -> SearchResult:
        """Return the k nearest rows of ``where`` that ``allowed`` (packed bitmap) has set."""
        ...

    def distances(self, rows: Rows, queries: F32, row_ids: I64) -> F32:
        """Return exact distances f32[q, r] to ``row_ids`` i64[q, r]; +inf for id -1."""
        ...
