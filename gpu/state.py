"""IndexState: one published version of an index, immutable, searched from any thread.

Invariants:

- nothing a state can see ever changes: rows below ``n_rows`` are final, its alive bitmap is its
  own, inverted lists are only ever extended into new views;
- every alive row below ``n_rows`` is in a list, in the tail, set aside, or has no direction
  (zero under cosine): a search over all lists sees each of them once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .arrays import F32, I64, U8, Bool
from .backend import Backend
from .bitmap import count, unpack
from .errors import BadInput
from .express import Asked, Express
from .hits import SearchResult
from .iteration import iterate
from .mask import PackedMask, narrowed
from .params import IndexParams
from .query import Approach, Query, search
from .rows import Rows
from .snapshots import write_state
from .trained import Trained

#: Lists are made for a number of rows; with this many times more, new ones pay.
RETRAIN_GROWTH = 4
#: Lists are rewritten when more rows than this, and more than this share of what they got, are
#: dead: below, a scan loses less than a rewrite costs.
REWRITE_ROWS, REWRITE_SHARE = 4096, 0.2


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True, eq=False)
class IndexState:
    """Rows [0, n_rows) with their alive bitmap, and what is known to search them fast.

    ``live_rows`` counts alive rows; rows below ``encoded_rows`` are in lists, the others are the
    flat tail.
    """

    params: IndexParams
    backend: Backend
    rows: Rows
    n_rows: int
    live_rows: int
    alive_bits: U8
    trained_part: Trained | None = None
    _express: Express = field(init=False, repr=False, default_factory=Express)

    @property
    def encoded_rows(self) -> int:
        """Rows below this number are in inverted lists; the rest is searched exactly."""
        return self.trained_part.encoded_rows if self.trained_part else 0

    @property
    def trained(self) -> bool:
        """Whether there is a codec."""
        return self.trained_part is not None

    @property
    def dead_rows(self) -> int:
        """Row ids that are no longer current."""
        return self.n_rows - self.live_rows

    @property
    def live_encoded_rows(self) -> int:
        """Current rows below ``encoded_rows``."""
        return count(self.alive_bits, self.encoded_rows)

    @property
    def dead_encoded_rows(self) -> int:
        """Rows that have died since they were put into lists, where scans still meet them."""
        return self.trained_part.kept_rows - self.live_encoded_rows if self.trained_part else 0

    def hold(self) -> None:
        """Bring what searches read to where they read it, before the first of them asks."""
        self.backend.hold(self.rows, self.alive_bits)

    @property
    def training_due(self) -> bool:
        """Whether training (again) pays.

        There are enough rows for the first time, or four times as many as then, or they have moved
        away from those that the codec was trained on.
        """
        trained = self.trained_part
        if self.live_rows < self.params.train_from_rows:
            return False
        if trained is None:
            return True
        return self.live_rows >= RETRAIN_GROWTH * trained.live_rows or trained.drifted

    def drift(self) -> dict[str, float]:
        """Return how far the rows have moved since training, as ratios; nothing if untrained."""
        trained = self.trained_part
        return {} if trained is None else trained.drift.ratios(trained.lists.lengths)

    @property
    def rewrite_due(self) -> bool:
        """Whether enough rows in lists are dead for ``rewritten`` to pay."""
        if self.trained_part is None:
            return False
        bound = max(REWRITE_ROWS, REWRITE_SHARE * self.trained_part.kept_rows)
        return self.dead_encoded_rows > bound

    def stats(self) -> dict[str, object]:
        """Return figures for people and monitoring; sizes are in bytes."""
        return (self.trained_part.stats() if self.trained_part else {}) | {
            "backend": self.backend.name,
            "n_rows": self.n_rows,
            "live_rows": self.live_rows,
            "dead_rows": self.dead_rows,
            "dead_rows_in_lists": self.dead_encoded_rows,
            "encoded_rows": self.encoded_rows,
            "tail_rows": self.n_rows - self.encoded_rows,
            "trained": self.trained,
            "training_due": self.training_due,
            "raw_bytes": self.n_rows * self.rows.row_bytes,
        }

    def search(
        self,
        queries: F32,
        k: int,
        *,
        mask: Bool | PackedMask | None = None,
        nprobe: int | None = None,
        rerank: int | None = None,
        exact: bool = False,
        recall_target: float | None = None,
    ) -> SearchResult:
        """Return the k nearest alive rows of each query, f32[q, d], under ``mask`` bool[n_rows].

        There are min(k, matching rows) hits, always. Lists are probed as ``nprobe`` and ``rerank``
        (rows whose distance is computed from the raw vectors) say; else by the plan measured at
        training time for ``recall_target`` (0.95 if None). ``exact`` looks at every row.
        Raise BadInput for a wrong shape, a component that is not finite, or a number out of range.
        """
        asked = Asked(k, nprobe, rerank, recall_target)
        if not exact and (found := self._express.search(self, queries, asked, mask)) is not None:
            return found
        kept = None if mask is None else narrowed(mask, self)
        query = Query(
            vectors=self._checked(queries),
            k=k,
            allowed=self.alive_bits if kept is None else kept.bits,
            masked=kept is not None,
            matches=None if kept is None else kept.matches,
            nprobe=nprobe,
            rerank=rerank,
            exact=exact,
            recall_target=recall_target,
        )
        approach = Approach.of(self, query)
        if not exact:
            self._express.learn(asked, approach, kept)
        return search(self, query, approach)

    def iterate(
        self, query: F32, mask: Bool | PackedMask | None = None
    ) -> Iterator[tuple[I64, F32]]:
        """Yield (ids i64[b], distances f32[b]) of one query f32[d], each matching row once.

        Distances rise from batch to batch. Rows that the lists gave too late for their place come
        in the last batches, after everything else, so that a cursor that reads to the end gets all.
        """
        checked = self._checked(np.asarray(query)[None])
        allowed = self.alive_bits if mask is None else narrowed(mask, self).bits
        return iterate(self, checked, allowed)

    def vectors(self, row_ids: I64) -> F32:
        """Return the stored vectors of ``row_ids`` i64[n], dead or alive, as f32[n, d]."""
        ids = checked_row_ids(row_ids, self.n_rows)
        return self.rows.take(ids)

    def alive(self) -> Bool:
        """Return which rows are current, bool[n_rows]."""
        return unpack(self.alive_bits, 0, self.n_rows)

    def save(self, path: Path) -> None:
        """Write the state to one file: checksummed, fsynced, renamed into place."""
        write_state(self, path)

    def _checked(self, queries: F32) -> F32:
        array = np.ascontiguousarray(queries, dtype=np.float32)
        if array.ndim != 2 or array.shape[1] != self.params.dim:
            raise BadInput(f"queries must be [q, {self.params.dim}], not {list(array.shape)}")
        if not np.logical_and.reduce(np.isfinite(array), axis=None):
            raise BadInput("a query component is not finite")
        return array


def checked_row_ids(row_ids: I64, n_rows: int) -> I64:
    """Return ``row_ids`` as i64[n]; raise BadInput for another shape or an id out of range."""
    ids = np.asarray(row_ids)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise BadInput("row ids must be a one-dimensional array of integers")
    if len(ids) and (ids.min() < 0 or ids.max() >= n_rows):
        raise BadInput(f"a row id is not in [0, {n_rows})")
    return ids.astype(np.int64, copy=False)
