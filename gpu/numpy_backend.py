"""The backend that defines the answers: plain NumPy and BLAS, on any machine."""

from __future__ import annotations

from .arrays import F32, I64, U8
from .exact import distances_to, search_exact
from .hits import SearchResult
from .rows import Rows


class NumpyBackend:
    """See ``Backend``; each operation lies in the module of its job."""

    name = "numpy"

    def exact(
        self, rows: Rows, queries: F32, k: int, where: range | I64, allowed: U8 | None
    ) -> SearchResult:
        """Return the k nearest rows of ``where`` that ``allowed`` has set."""
        return search_exact(rows, queries, k, where, allowed)

    def distances(self, rows: Rows, queries: F32, row_ids: I64) -> F32:
        """Return exact distances f32[q, r] to ``row_ids`` i64[q, r]; +inf for id -1."""
        return distances_to(rows, queries, row_ids)
