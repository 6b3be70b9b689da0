"""The whole index engine on the card: the same answers as NumPy's, with streams that are lazy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpu import Backend, Index, IndexFull, IndexParams, Metric, NumpyBackend, open_backend, train
from gpu.arrays import F32
from tests.cuda.host.cases.conftest import FakeCard

DIM, ROWS, K = 24, 900, 10


@pytest.fixture(scope="module")
def backend() -> Backend:
    """Open the card by its name, as the server does."""
    return open_backend("cuda")


def _clustered(n: int, seed: int) -> F32:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(12, DIM)) * 2
    points = centres[rng.integers(0, 12, n)] + rng.normal(size=(n, DIM))
    return points.astype(np.float32)


def _params(metric: Metric, bits: int) -> IndexParams:
    code_bits = 8 if bits == 8 else 4
    return IndexParams(dim=DIM, metric=metric, code_bits=code_bits, nlist=12, train_from_rows=500)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_a_file_of_numpy_answers_the_same(
    backend: Backend, tmp_path: Path, metric: Metric, bits: int
) -> None:
    host = Index(_params(metric, bits), NumpyBackend())
    host.add(_clustered(ROWS, 1))
    host.adopt(train(host.publish()))
    host.kill(np.arange(0, ROWS, 7))
    host.publish().save(tmp_path / "index.vm")
    card = Index.load(tmp_path / "index.vm", backend)
    queries = _clustered(5, 2)
    mask = np.arange(ROWS) % 3 == 0
    for options in ({}, {"mask": mask}, {"exact": True}, {"nprobe": 2}):
        wanted = host.state.search(queries, K, **options)
        found = card.state.search(queries, K, **options)
        np.testing.assert_allclose(found.distances, wanted.distances, rtol=1e-4, atol=1e-4)
        assert (found.ids == wanted.ids).mean() > 0.97  # ties may be the other way round


def test_an_index_lives_on_the_card(backend: Backend, tmp_path: Path) -> None:
    index = Index(_params("l2", 4), backend)
    rows = _clustered(ROWS, 3)
    index.add(rows[:600])
    index.adopt(train(index.publish()))
    index.add(rows[600:])
    index.publish()
    while index.encode_pending(200):
        index.publish()
    index.kill(np.arange(100))
    state = index.publish()
    assert state.encoded_rows == ROWS
    found = state.search(rows[100:110], 1, nprobe=12)
    np.testing.assert_array_equal(found.ids[:, 0], np.arange(100, 110))
    assert (found.distances[:, 0] < 1e-4).all()
    state.save(tmp_path / "index.vm")
    again = Index.load(tmp_path / "index.vm", NumpyBackend()).state.search(rows[100:110], 1)
    np.testing.assert_array_equal(again.ids, found.ids)


def test_an_iterator_gives_rows_by_rising_distance(backend: Backend) -> None:
    index = Index(_params("l2", 4), backend)
    rows = _clustered(ROWS, 4)
    index.add(rows)
    index.adopt(train(index.publish()))
    ids, distances = zip(*index.state.iterate(rows[0]), strict=True)
    assert len(np.unique(np.concatenate(ids))) == ROWS
    assert len(np.concatenate(distances)) == ROWS


def test_a_full_card_refuses_rows_and_keeps_what_it_has(backend: Backend, card: FakeCard) -> None:
    index = Index(_params("l2", 4), backend)
    rows = _clustered(ROWS, 5)
    index.add(rows)
    index.adopt(train(index.publish()))
    before = index.state.search(rows[:3], K)
    card.fail("hipMalloc", times=1000)
    try:
        index.add(np.repeat(rows, 50, axis=0))
        index.publish()
        index.encode_pending(50 * ROWS)
        index.publish()
    except IndexFull:
        pass
    card.recover()
    after = index.state.search(rows[:3], 1)
    np.testing.assert_allclose(after.distances[:, 0], before.distances[:, 0], atol=1e-5)
