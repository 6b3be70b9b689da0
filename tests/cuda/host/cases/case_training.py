"""Training, encoding, rewriting and compacting with nothing left to the host's BLAS."""

from __future__ import annotations

import numpy as np
import pytest

from gpu import Index, IndexParams, NumpyBackend, compacted, measure_recall, rewritten, train
from gpu.cuda.cupy_device import CupyDevice
from gpu.cuda_backend import CudaBackend
from tests.cuda.host.cases.case_index import DIM, ROWS, _clustered


@pytest.fixture(scope="module")
def backend() -> CudaBackend:
    return CudaBackend(CupyDevice(), small_product=0)


def test_steps_of_training_are_numpys(backend: CudaBackend) -> None:
    points, centroids = _clustered(ROWS, 1), _clustered(20, 2)
    ours, theirs = (b.cluster_step(points, centroids) for b in (backend, NumpyBackend()))
    np.testing.assert_array_equal(ours.list_ids, theirs.list_ids)
    np.testing.assert_array_equal(ours.counts, theirs.counts)
    np.testing.assert_allclose(ours.sums, theirs.sums, rtol=1e-5, atol=1e-5)
    books = np.random.default_rng(3).normal(size=(6, 16, 4)).astype(np.float32)
    mine, wanted = (b.codeword_step(points, books) for b in (backend, NumpyBackend()))
    np.testing.assert_allclose(mine.counts, wanted.counts, atol=2)
    np.testing.assert_allclose(mine.sums.sum(), wanted.sums.sum(), rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(backend.covariance(points), points.T @ points, rtol=1e-4, atol=1e-1)
    turn = np.random.default_rng(4).normal(size=(DIM, 28)).astype(np.float32)
    np.testing.assert_allclose(backend.rotate(points, turn), points @ turn, rtol=1e-4, atol=1e-3)


def test_an_index_is_trained_rewritten_and_compacted_on_the_card(backend: CudaBackend) -> None:
    index = Index(IndexParams(dim=DIM, metric="l2", nlist=12, train_from_rows=500), backend)
    index.add(_clustered(ROWS, 3))
    index.adopt(train(index.publish()))
    index.kill(np.arange(0, ROWS, 3))
    index.publish()
    queries = _clustered(10, 4)
    before = index.state.search(queries, 10, nprobe=12)
    index.adopt(rewritten(index.state))
    after = index.state.search(queries, 10, nprobe=12)
    np.testing.assert_array_equal(after.ids, before.ids)
    live = np.flatnonzero(index.state.alive())
    small = compacted(index.state).state
    np.testing.assert_array_equal(live[small.search(queries, 10, nprobe=12).ids], before.ids)
    assert measure_recall(small, queries, nprobe=12) > 0.9
