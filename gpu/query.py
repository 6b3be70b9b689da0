"""How a state answers a search: which rows to look at, and how closely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .arrays import F32, I64, U8, Bool
from .bitmap import test, unpack
from .errors import BadInput
from .hits import SearchResult

if TYPE_CHECKING:
    from .state import IndexState


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One search: vectors f32[q, d], and ``allowed`` = alive AND mask as a packed bitmap."""

    vectors: F32
    k: int
    allowed: U8
    masked: bool
    nprobe: int | None = None
    rerank: int | None = None
    exact: bool = False
    recall_target: float | None = None

    def __post_init__(self) -> None:
        """Raise BadInput for a number out of range."""
        _at_least_one("k", self.k)
        _at_least_one("nprobe", self.nprobe)
        _at_least_one("rerank", self.rerank)
        if self.recall_target is not None and not 0 < self.recall_target <= 1:
            raise BadInput("recall_target must be above 0 and at most 1")


def search(state: IndexState, query: Query) -> SearchResult:
    """Answer ``query`` from ``state``."""
    where: range | I64 = range(state.n_rows)
    if query.masked:
        where = np.flatnonzero(unpack(query.allowed, 0, state.n_rows))
    hits = state.backend.exact(state.rows, query.vectors, query.k, where, query.allowed)
    return _with_undefined(state, query, hits)


def _with_undefined(state: IndexState, query: Query, hits: SearchResult) -> SearchResult:
    """Append rows whose cosine distance is NaN, as Postgres sorts them: last, here by row id.

    These are zero rows, and every row when the query is zero.
    """
    if state.params.metric != "cosine" or (hits.ids[:, -1] >= 0).all():
        return hits
    is_zero: Bool = np.all(query.vectors == 0, axis=1)
    zero_rows = _allowed_only(query.allowed, state.rows.zero_norm_ids(state.n_rows))
    for i in np.flatnonzero(hits.ids[:, -1] < 0):
        found = int(np.count_nonzero(hits.ids[i] >= 0))
        if is_zero[i]:
            missing = np.flatnonzero(unpack(query.allowed, 0, state.n_rows))[: query.k]
        else:
            missing = zero_rows[: query.k - found]
        hits.ids[i, found : found + len(missing)] = missing
        hits.distances[i, found : found + len(missing)] = np.nan
    return hits


def _allowed_only(allowed: U8, row_ids: I64) -> I64:
    return row_ids[test(allowed, row_ids)]


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise BadInput(f"{name} must be at least 1, not {value}")
