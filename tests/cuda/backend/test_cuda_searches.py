"""A file that NumPy has written, searched on the card: the same answers, by every way there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu import Index, Metric, NumpyBackend, SearchResult
from gpu.arrays import Bool
from gpu.cuda_backend import CudaBackend
from tests.cuda.backend.conftest import N_ROWS, NLIST, MakeCuda, MakeFile, rows_and_queries

METRICS: list[Metric] = ["l2", "cosine", "ip"]


def assert_same(found: SearchResult, wanted: SearchResult) -> None:
    """Compare ids up to ties, distances to 1e-4."""
    np.testing.assert_array_equal(found.ids >= 0, wanted.ids >= 0)
    np.testing.assert_allclose(found.distances, wanted.distances, rtol=1e-4, atol=1e-5)
    differ = found.ids != wanted.ids
    assert np.mean(differ) < 0.02
    for row, column in np.argwhere(differ):
        assert np.count_nonzero(np.isclose(wanted.distances[row], found.distances[row, column])) > 1


def both(path_of: MakeFile, cuda: CudaBackend, **which: object) -> tuple[Index, Index]:
    path = path_of(**which)
    return Index.load(path, cuda), Index.load(path, NumpyBackend())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("n_queries", [1, 11])
def test_lists_tail_and_dead_rows_are_searched_as_numpy_does(
    n_queries: int, bits: int, metric: Metric, cuda: CudaBackend, make_file: MakeFile
) -> None:
    ours, theirs = both(make_file, cuda, metric=metric, bits=bits)
    _, queries = rows_and_queries(n_queries)
    how: dict[str, Any] = {"nprobe": 4, "rerank": 30}
    assert_same(ours.state.search(queries, 10, **how), theirs.state.search(queries, 10, **how))


def test_many_queries_that_share_lists_take_the_tiles(
    make_cuda: MakeCuda, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = both(make_file, make_cuda())
    _, queries = rows_and_queries(40)
    wanted = theirs.state.search(queries, 5, nprobe=6, rerank=20)
    assert_same(ours.state.search(queries, 5, nprobe=6, rerank=20), wanted)
    assert "scan_tiles" in _launched(ours)
    other, _ = both(make_file, make_cuda())
    monkeypatch.setattr("gpu.cuda.scan_tiles.QUERIES_A_LIST", 1e9)
    assert_same(other.state.search(queries, 5, nprobe=6, rerank=20), wanted)
    assert "scan_tiles" not in _launched(other)


@pytest.mark.parametrize("raw_location", ["device", "pinned", "none"])
@pytest.mark.parametrize("raw_dtype", ["float32", "float16"])
def test_raw_rows_are_read_wherever_they_are(
    raw_dtype: str, raw_location: str, make_cuda: MakeCuda, make_file: MakeFile
) -> None:
    ours, theirs = both(make_file, make_cuda(raw_location), raw_dtype=raw_dtype)
    _, queries = rows_and_queries(2)
    how: dict[str, Any] = {"nprobe": 5, "rerank": 40}
    assert_same(ours.state.search(queries, 7, **how), theirs.state.search(queries, 7, **how))
    reranked = "rerank" in _launched(ours)
    assert reranked == (raw_location != "none")


@pytest.mark.parametrize("share", [0.5, 0.01, 0.0])
def test_a_filter_leaves_min_k_and_matches(
    share: float, cuda: CudaBackend, make_file: MakeFile
) -> None:
    ours, theirs = both(make_file, cuda)
    mask: Bool = np.random.default_rng(1).random(N_ROWS) < share
    _, queries = rows_and_queries(2)
    found = ours.state.search(queries, 10, mask=mask)
    assert_same(found, theirs.state.search(queries, 10, mask=mask))


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_is_exact(metric: Metric, cuda: CudaBackend, make_file: MakeFile) -> None:
    ours, theirs = both(make_file, cuda, metric=metric)
    _, queries = rows_and_queries(5)
    assert_same(
        ours.state.search(queries, 8, exact=True), theirs.state.search(queries, 8, exact=True)
    )


def test_more_hits_than_a_kernel_returns(cuda: CudaBackend, make_file: MakeFile) -> None:
    ours, theirs = both(make_file, cuda)
    _, queries = rows_and_queries(2)
    how: dict[str, Any] = {"nprobe": NLIST, "rerank": 1100}
    assert_same(ours.state.search(queries, 1050, **how), theirs.state.search(queries, 1050, **how))


def test_a_cursor_read_to_the_end_gives_each_row_once(
    cuda: CudaBackend, make_file: MakeFile
) -> None:
    ours, _ = both(make_file, cuda)
    _, queries = rows_and_queries(1)
    ids = np.concatenate([batch for batch, _ in ours.state.iterate(queries[0])])
    np.testing.assert_array_equal(np.sort(ids), np.flatnonzero(ours.state.alive()))


def test_far_queries_and_zero_queries_are_answered(cuda: CudaBackend, make_file: MakeFile) -> None:
    for metric in METRICS:
        ours, theirs = both(make_file, cuda, metric=metric)
        queries = np.stack([np.zeros(24), np.full(24, 1e12)]).astype(np.float32)
        found, wanted = ours.state.search(queries, 3), theirs.state.search(queries, 3)
        np.testing.assert_array_equal(found.ids >= 0, wanted.ids >= 0)
        np.testing.assert_allclose(found.distances, wanted.distances, rtol=1e-4)


def test_rows_that_come_later_are_found(cuda: CudaBackend, make_file: MakeFile) -> None:
    ours, _ = both(make_file, cuda)
    rows, _ = rows_and_queries(1, seed=5)
    for start in range(0, 90, 30):
        ids = ours.add(rows[start : start + 30])
        state = ours.publish()
        found = state.search(rows[start : start + 2], 1)
        np.testing.assert_array_equal(found.ids[:, 0], ids[:2])
        ours.encode_pending(1000)
        found = ours.state.search(rows[start : start + 2], 1, nprobe=NLIST, rerank=50)
        np.testing.assert_array_equal(found.ids[:, 0], ids[:2])


def _launched(index: Index) -> set[str]:
    return {kernel.stem for kernel in index.state.backend.device.launched}  # type: ignore[attr-defined]


def test_warming_up_runs_a_search(cuda: CudaBackend) -> None:
    cuda.warm_up()
    launched = {kernel.stem for kernel in cuda.device.launched}  # type: ignore[attr-defined]
    assert {"append", "coarse", "tables", "scan_slices", "rerank", "exact"} <= launched


def test_queries_are_compared_with_all_lists_some_at_a_time(
    cuda: CudaBackend, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu.cuda.scanning.MOST_SCORES", 7 * NLIST)
    ours, theirs = both(make_file, cuda)
    _, queries = rows_and_queries(30)
    wanted = theirs.state.search(queries, 5, nprobe=3, rerank=20)
    assert_same(ours.state.search(queries, 5, nprobe=3, rerank=20), wanted)
