"""Training: deterministic, stoppable, telling how far it is, and safe on odd tables."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from gpu import Backend, BadInput, Index, IndexParams, IndexState, TrainingStopped, train
from gpu.arrays import F32
from gpu.sample import draw_sample


def state_of(rows: F32, backend: Backend, metric: str = "l2", **options: int) -> IndexState:
    params = IndexParams(dim=rows.shape[1], metric=metric, **options)  # type: ignore[arg-type]
    index = Index(params, backend)
    index.add(rows)
    return index.publish()


def cloud(n: int, dim: int) -> F32:
    return np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)


def test_the_same_rows_and_seed_give_the_same_codec(backend: Backend) -> None:
    state = state_of(cloud(900, 8), backend, nlist=8, m=4)
    first, second = train(state), train(state)
    np.testing.assert_array_equal(first.codec.centroids, second.codec.centroids)
    np.testing.assert_array_equal(first.codec.codebooks, second.codec.codebooks)
    np.testing.assert_array_equal(first.lists.contents().codes, second.lists.contents().codes)
    assert first.plan == second.plan


def test_progress_names_every_phase_in_order(backend: Backend) -> None:
    seen: list[tuple[str, int, int]] = []
    train(
        state_of(cloud(900, 8), backend, nlist=8, m=4),
        progress=lambda phase, done, total: seen.append((phase, done, total)),
    )
    phases = list(dict.fromkeys(phase for phase, _, _ in seen))
    assert phases == ["sample", "lists", "codebooks", "encode", "calibrate"]
    assert all(0 <= done <= total for _, done, total in seen)


@pytest.mark.parametrize("phase", ["sample", "lists", "codebooks", "encode", "calibrate"])
def test_training_ends_in_any_phase_once_stop_is_set(phase: str, backend: Backend) -> None:
    stop = threading.Event()

    def on_progress(now: str, done: int, total: int) -> None:
        if now == phase:
            stop.set()

    with pytest.raises(TrainingStopped):
        train(state_of(cloud(900, 8), backend, nlist=8, m=4), progress=on_progress, stop=stop)


@pytest.mark.parametrize("n_rows", [1, 2, 9, 70])
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_a_handful_of_rows_can_be_trained_on(n_rows: int, metric: str, backend: Backend) -> None:
    rows = cloud(n_rows, 5)
    index = Index(IndexParams(dim=5, metric=metric), backend)  # type: ignore[arg-type]
    index.add(rows)
    index.adopt(train(index.publish()))
    hits = index.state.search(rows, n_rows, nprobe=1)
    assert (np.sort(hits.ids, axis=1) == np.arange(n_rows)).all()


def test_nothing_to_train_on_is_refused(backend: Backend) -> None:
    with pytest.raises(BadInput, match="no rows"):
        train(state_of(cloud(0, 3), backend))
    with pytest.raises(BadInput, match="no rows"):
        train(state_of(np.zeros((50, 3), np.float32), backend, metric="cosine"))


def test_dead_rows_are_left_out_of_the_lists(backend: Backend) -> None:
    index = Index(IndexParams(dim=4, metric="l2", nlist=4, m=2), backend)
    index.add(cloud(500, 4))
    index.kill(np.arange(0, 500, 2))
    trained = train(index.publish())
    np.testing.assert_array_equal(np.sort(trained.lists.contents().row_ids), np.arange(1, 500, 2))


def test_rows_and_kills_after_the_state_survive_adoption(backend: Backend) -> None:
    rows = cloud(800, 4)
    index = Index(IndexParams(dim=4, metric="l2", nlist=4, m=2), backend)
    index.add(rows[:600])
    trained = train(index.publish())
    index.add(rows[600:])
    index.kill(np.array([5, 700]))
    index.publish()
    index.adopt(trained)
    hits = index.state.search(rows[[5, 6, 650, 700]], 1, nprobe=4, rerank=800)
    assert hits.ids[1, 0] == 6
    assert hits.ids[2, 0] == 650
    assert not np.isin(hits.ids, [5, 700]).any()


def test_searches_go_on_while_another_thread_trains(backend: Backend) -> None:
    rows = cloud(2000, 8)
    index = Index(IndexParams(dim=8, metric="l2", nlist=8, m=4), backend)
    index.add(rows)
    state = index.publish()
    worker = threading.Thread(target=lambda: index.adopt(train(state)))
    worker.start()
    answers = 0
    while worker.is_alive() or answers == 0:
        assert (index.state.search(rows[:4], 1, nprobe=8, rerank=50).ids[:, 0] == range(4)).all()
        answers += 1
    worker.join()
    assert index.state.trained


def test_16000_dimensions_can_be_trained_and_searched(backend: Backend) -> None:
    rows = cloud(150, 16_000)
    index = Index(IndexParams(dim=16_000, metric="cosine", nlist=2, m=64), backend)
    index.add(rows)
    index.adopt(train(index.publish()))
    queries = rows[:5] + np.float32(0.5) * cloud(155, 16_000)[150:]
    hits = index.state.search(queries, 1, nprobe=2, rerank=20)
    np.testing.assert_array_equal(hits.ids[:, 0], np.arange(5))


def test_memory_bounds_the_sample_and_says_nothing_about_which_rows_are_found(
    backend: Backend,
) -> None:
    rows = cloud(4000, 8)
    state = state_of(rows, backend, nlist=8, m=4)
    sample = draw_sample(state, np.random.default_rng(0), memory_bytes=1000 * 8 * 4 * 4)
    assert len(sample.vectors) == 1000
    trained = train(state, memory_bytes=1000 * 8 * 4 * 4)
    np.testing.assert_array_equal(np.sort(trained.lists.contents().row_ids), np.arange(4000))


def test_lists_of_clustered_rows_are_balanced(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.pareto(1.0, 40) + 0.05
    centres = rng.normal(size=(40, 8)) * 20
    of = rng.choice(40, 8000, p=sizes / sizes.sum())
    rows = (centres[of] + rng.normal(size=(8000, 8))).astype(np.float32)
    lengths = train(state_of(rows, backend, nlist=64, m=4)).lists.lengths
    imbalance = 64 * np.square(lengths / 8000.0).sum()
    assert imbalance < 2.0
