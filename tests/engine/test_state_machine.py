"""Any order of operations against a model that knows only rows and a set of live ids."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gpu import (
    Index,
    IndexParams,
    IndexState,
    Trained,
    compacted,
    open_backend,
    rewritten,
    train,
)
from gpu.arrays import F32, Bool
from tests.brute_force import assert_same_hits, nearest

DIM = 4
#: A card has its own tests of what changes between searches.
HOST_BACKENDS = ["numpy", "cpu"]
#: Coarse values make duplicates and ties frequent.
SEEDS = st.integers(0, 2**32 - 1)


class Kept(NamedTuple):
    """A published state and what it must answer for ever."""

    state: IndexState
    rows: F32
    alive: Bool


class IndexMachine(RuleBasedStateMachine):
    """Does everything that an index can do, in any order; compares after every step."""

    @initialize(
        metric=st.sampled_from(["l2", "cosine", "ip"]),
        raw_dtype=st.sampled_from(["float32", "float16"]),
        backend=st.sampled_from(HOST_BACKENDS),
    )
    def create(self, metric: str, raw_dtype: str, backend: str) -> None:
        params = IndexParams(
            dim=DIM,
            metric=metric,  # type: ignore[arg-type]
            raw_dtype=raw_dtype,  # type: ignore[arg-type]
            nlist=3,
            m=2,
        )
        self.index = Index(params, open_backend(backend))
        self.rows = np.empty((0, DIM), np.float32)
        self.dead: set[int] = set()
        self.kept = [self._keep()]
        self.rewritten: list[tuple[IndexState, Trained]] = []

    @rule(seed=SEEDS, count=st.integers(0, 60))
    def add(self, seed: int, count: int) -> None:
        new = coarse_rows(seed, count)
        ids = self.index.add(new)
        assert ids.tolist() == list(range(len(self.rows), len(self.rows) + count))
        self.rows = np.concatenate([self.rows, new])

    @precondition(lambda self: len(self.rows) > 0)
    @rule(seed=SEEDS, count=st.integers(0, 20))
    def kill(self, seed: int, count: int) -> None:
        ids = np.random.default_rng(seed).integers(0, len(self.rows), count)
        self.index.kill(ids)
        self.dead |= set(ids.tolist())

    @rule()
    def publish(self) -> None:
        self.index.publish()
        self.kept.append(self._keep())

    @precondition(lambda self: bool((self.kept[-1].alive & self.kept[-1].rows.any(axis=1)).any()))
    @rule()
    def train_and_adopt(self) -> None:
        self.index.adopt(train(self.index.state))

    @rule(limit=st.integers(0, 50))
    def encode(self, limit: int) -> None:
        before = self.index.state.encoded_rows
        moved = self.index.encode_pending(limit)
        assert self.index.state.encoded_rows == before + moved
        assert moved <= limit

    @rule()
    def begin_rewriting(self) -> None:
        """Make lists without dead rows from a state that may be old when they are adopted."""
        if self.index.state.trained:
            self.rewritten.append((self.index.state, rewritten(self.index.state)))

    @precondition(lambda self: self.rewritten)
    @rule()
    def adopt_rewritten(self) -> None:
        state, lists = self.rewritten.pop()
        if state.rows is self.index.state.rows:
            self.index.adopt(lists)
            assert lists.lists.lengths.sum() <= state.live_rows

    @rule()
    def compact(self) -> None:
        """Go on with an index of the live rows; older states answer as before."""
        kept = self.kept[-1]
        self.index = compacted(self.index.state)
        self.rows = kept.rows[kept.alive]
        self.dead = set()
        self.kept.append(self._keep())
        assert self.index.state.dead_rows == 0

    @rule()
    def save_and_load(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            self.index.state.save(path)
            self.index = Index.load(path, self.index.state.backend)
        self.rows = self.kept[-1].rows
        self.dead = set(np.flatnonzero(~self.kept[-1].alive).tolist())

    @rule(seed=SEEDS, k=st.integers(1, 80), which=st.integers(0, 100), share=st.floats(0, 1))
    def search_any_state(self, seed: int, k: int, which: int, share: float) -> None:
        kept = self.kept[which % len(self.kept)]
        queries = coarse_rows(seed, 2)
        mask = np.random.default_rng(seed).random(len(kept.rows)) < share
        check(kept, queries, k, mask)

    @rule(seed=SEEDS, share=st.none() | st.floats(0, 1))
    def iterate(self, seed: int, share: float | None) -> None:
        """Read a cursor to its end: every row that may be seen, once."""
        kept = self.kept[-1]
        mask = None
        if share is not None:
            mask = np.random.default_rng(seed).random(len(kept.rows)) < share
        batches = list(self.index.state.iterate(coarse_rows(seed, 1)[0], mask))
        ids = np.concatenate([np.empty(0, np.int64), *(batch[0] for batch in batches)])
        allowed = kept.alive if mask is None else kept.alive & mask
        np.testing.assert_array_equal(np.sort(ids), np.flatnonzero(allowed))

    @invariant()
    def what_is_published_is_what_was_published(self) -> None:
        state, kept = self.index.state, self.kept[-1]
        assert state.n_rows == len(kept.rows)
        assert state.live_rows == np.count_nonzero(kept.alive)
        assert state.dead_rows == np.count_nonzero(~kept.alive)
        assert state.live_encoded_rows == np.count_nonzero(kept.alive[: state.encoded_rows])
        assert state.dead_encoded_rows >= 0
        np.testing.assert_array_equal(state.alive(), kept.alive)

    @invariant()
    def the_newest_state_answers_right(self) -> None:
        kept = self.kept[-1]._replace(state=self.index.state)
        check(kept, coarse_rows(1, 2), 5, None)

    def _keep(self) -> Kept:
        alive = np.ones(len(self.rows), np.bool_)
        alive[list(self.dead)] = False
        return Kept(self.index.state, self.rows, alive)


def coarse_rows(seed: int, count: int) -> F32:
    values = np.random.default_rng(seed).integers(-2, 3, size=(count, DIM))
    return values.astype(np.float32)


def check(kept: Kept, queries: F32, k: int, mask: Bool | None) -> None:
    """Exact search, and search of all lists with full re-rank, both equal brute force."""
    allowed = kept.alive if mask is None else kept.alive & mask
    metric = kept.state.params.metric
    expected = nearest(metric, queries, kept.rows, allowed, k)
    depth = max(1, len(kept.rows))
    for options in ({"exact": True}, {"nprobe": 3, "rerank": depth}):
        hits = kept.state.search(queries, k, mask=mask, **options)
        assert_same_hits((hits.ids, hits.distances), expected)
    hits = kept.state.search(queries, k, mask=mask, nprobe=1, rerank=1)
    count = min(k, int(np.count_nonzero(allowed)))
    assert (np.count_nonzero(hits.ids >= 0, axis=1) == count).all()


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
