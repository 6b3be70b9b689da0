"""Dead rows: they are counted, lists and row ids get rid of them, and answers stay the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpu import Backend, BadInput, Index, IndexParams, Metric, compacted, rewritten
from gpu.arrays import F32
from tests.brute_force import assert_same_hits, nearest

MakeTrained = Callable[[IndexParams, F32, Backend], Index]
DIM, N_ROWS = 12, 2000
METRICS: list[Metric] = ["l2", "cosine", "ip"]


class Stopped(Exception):
    """What a pause raises to end the work."""


def cloud(n: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


@pytest.fixture(params=METRICS)
def churned(request: pytest.FixtureRequest, make_trained: MakeTrained, backend: Backend) -> Index:
    """Rows in lists, set aside, without direction and in the tail; a third of each is dead."""
    rows = cloud(N_ROWS)
    rows[:30] = 0
    rows[30:60] *= 1e6
    params = IndexParams(dim=DIM, metric=request.param, nlist=8, m=4)
    index = make_trained(params, rows[60:1500], backend)
    index.add(rows[:60])
    index.add(rows[1500:])
    index.publish()
    index.encode_pending(300)
    index.kill(np.arange(0, N_ROWS, 3))
    index.publish()
    return index


def test_dead_rows_in_lists_are_those_that_died_after_they_were_encoded(churned: Index) -> None:
    state = churned.state
    assert state.dead_rows == len(range(0, N_ROWS, 3))
    assert state.dead_encoded_rows == len(range(0, state.encoded_rows, 3))
    churned.encode_pending(N_ROWS)
    assert churned.state.dead_encoded_rows == state.dead_encoded_rows


def test_rewritten_lists_hold_live_rows_only_and_answer_the_same(churned: Index) -> None:
    before, queries = churned.state, cloud(20, 1)
    churned.adopt(rewritten(before))
    after = churned.state
    assert after.dead_encoded_rows == 0
    assert after.trained_part is not None
    row_ids = np.concatenate(
        [after.trained_part.lists.contents().row_ids, after.trained_part.aside]
    )
    assert after.alive()[row_ids].all()
    for nprobe, rerank in ((8, N_ROWS), (2, 30)):
        old = before.search(queries, 10, nprobe=nprobe, rerank=rerank)
        new = after.search(queries, 10, nprobe=nprobe, rerank=rerank)
        np.testing.assert_array_equal(new.ids, old.ids)


def test_a_compacted_index_answers_the_same_under_new_row_ids(churned: Index) -> None:
    before, queries = churned.state, cloud(20, 1)
    live = np.flatnonzero(before.alive())
    after = compacted(before).state
    assert (after.n_rows, after.live_rows, after.dead_rows) == (len(live), len(live), 0)
    np.testing.assert_array_equal(after.vectors(np.arange(len(live))), before.vectors(live))
    for options in ({"exact": True}, {"nprobe": 8, "rerank": N_ROWS}, {"nprobe": 2, "rerank": 30}):
        old, new = before.search(queries, 10, **options), after.search(queries, 10, **options)
        np.testing.assert_array_equal(live[new.ids], old.ids)


def test_codes_are_copied_not_made_anew(
    churned: Index, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a row was encoded")

    monkeypatch.setattr("gpu.trained.encode_rows", refuse)
    assert rewritten(churned.state).codec is churned.state.trained_part.codec  # type: ignore[union-attr]
    assert compacted(churned.state).state.encoded_rows > 0


def test_a_compacted_index_goes_on_with_adds_kills_and_files(
    churned: Index, tmp_path: Path, backend: Backend
) -> None:
    index = compacted(churned.state)
    n_rows = index.state.n_rows
    new = index.add(cloud(50, 2))
    assert new.tolist() == list(range(n_rows, n_rows + 50))
    index.kill(np.arange(0, n_rows, 4))
    index.publish()
    index.encode_pending(N_ROWS)
    index.state.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", backend).state
    assert loaded.dead_encoded_rows == index.state.dead_encoded_rows
    queries = cloud(10, 3)
    rows = index.state.vectors(np.arange(index.state.n_rows))
    expected = nearest(index.params.metric, queries, rows, index.state.alive(), 10)
    hits = loaded.search(queries, 10, nprobe=8, rerank=N_ROWS)
    assert_same_hits((hits.ids, hits.distances), expected)


def test_an_untrained_or_empty_index_can_be_compacted_but_has_no_lists(backend: Backend) -> None:
    index = Index(IndexParams(dim=DIM, metric="l2"), backend)
    assert compacted(index.state).state.n_rows == 0
    index.add(cloud(10))
    index.kill(np.arange(10))
    index.publish()
    assert compacted(index.state).state.n_rows == 0
    assert not index.state.rewrite_due
    with pytest.raises(BadInput):
        rewritten(index.state)


def test_a_rewrite_is_due_when_a_fifth_of_the_lists_is_dead_and_not_again_after_it(
    make_trained: MakeTrained, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu.state.REWRITE_ROWS", 100)
    index = make_trained(IndexParams(dim=DIM, metric="l2", nlist=8, m=4), cloud(1000), backend)
    index.kill(np.arange(200))
    assert not index.publish().rewrite_due
    index.kill(np.arange(201))
    assert index.publish().rewrite_due
    index.adopt(rewritten(index.state))
    assert not index.state.rewrite_due


def test_searches_and_changes_go_on_while_lists_are_rewritten(churned: Index) -> None:
    state, reached, go_on = churned.state, threading.Event(), threading.Event()

    def pause() -> None:
        reached.set()
        go_on.wait(60)

    results = []
    worker = threading.Thread(target=lambda: results.append(rewritten(state, pause)))
    worker.start()
    reached.wait(60)
    ids = churned.add(cloud(20, 5))
    churned.kill(ids[:10])
    churned.publish()
    churned.encode_pending(N_ROWS)
    assert churned.state.search(cloud(3, 1), 5).ids.shape == (3, 5)
    go_on.set()
    worker.join()
    churned.adopt(results[0])
    after = churned.state
    rows = after.vectors(np.arange(after.n_rows))
    expected = nearest(after.params.metric, cloud(5, 6), rows, after.alive(), 20)
    hits = after.search(cloud(5, 6), 20, nprobe=8, rerank=N_ROWS)
    assert_same_hits((hits.ids, hits.distances), expected)


@pytest.mark.parametrize("work", [rewritten, compacted])
def test_what_pause_raises_ends_the_work(churned: Index, work: Callable[..., object]) -> None:
    def pause() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        work(churned.state, pause)
