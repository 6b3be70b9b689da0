"""One index, two engines: the same operations give the same codes and the same answers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu import Backend, Index, NumpyBackend, open_backend, rewritten
from gpu.cuda_backend import CudaBackend
from tests.cuda.backend.conftest import NLIST, MakeFile, rows_and_queries
from tests.cuda.backend.test_cuda_searches import assert_same
from tests.cuda.emulator import EmulatedDevice, why_not

#: Codes that may differ: near-ties of the encoder, which sums in another order.
NEAR_TIES = 0.002

STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "kill", "encode", "rewrite", "reload"]), st.integers(1, 60)),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def backends() -> list[Backend]:
    if reason := why_not():
        pytest.skip(reason)
    on_card = CudaBackend(EmulatedDevice(lazy=True), small_product=0)
    return [NumpyBackend(), open_backend("cpu"), on_card]


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, metric=st.sampled_from(["l2", "cosine", "ip"]), seed=st.integers(0, 99))
def test_the_same_operations_give_the_same_index(
    steps: list[tuple[str, int]],
    metric: str,
    seed: int,
    backends: list[Backend],
    make_file: MakeFile,
) -> None:
    path = make_file(metric=metric)
    indexes = [_after(Index.load(path, backend), steps, seed) for backend in backends]
    _, queries = rows_and_queries(2, seed=seed)
    wanted = indexes[0].state.search(queries, 10, nprobe=NLIST, rerank=200)
    for index in indexes[1:]:
        assert_codes_agree(index, indexes[0])
        assert_same(index.state.search(queries, 10, nprobe=NLIST, rerank=200), wanted)


def assert_codes_agree(index: Index, wanted: Index) -> None:
    """Compare what is in the lists; count rows that lie in another list or have another code."""
    ours, theirs = index.state.trained_part, wanted.state.trained_part
    assert ours is not None
    assert theirs is not None
    mine, other = ours.lists.contents(), theirs.lists.contents()
    mine, other = (rows.take(np.argsort(rows.row_ids)) for rows in (mine, other))
    np.testing.assert_array_equal(mine.row_ids, other.row_ids)
    same = (mine.list_ids == other.list_ids) & (mine.codes == other.codes).all(axis=1)
    assert np.count_nonzero(~same) <= max(1, NEAR_TIES * len(same))
    np.testing.assert_allclose(mine.bias[same], other.bias[same], rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(mine.gain[same], other.gain[same], rtol=2e-3)


def test_a_file_written_from_the_card_is_the_one_numpy_writes(
    tmp_path: Path, make_file: MakeFile, backends: list[Backend]
) -> None:
    for metric in ("l2", "ip"):
        written = []
        for number, backend in enumerate(backends):
            path = tmp_path / f"{metric}{number}"
            Index.load(make_file(metric=metric), backend).state.save(path)
            written.append(path.read_bytes())
        assert written[0] == written[1] == written[2]


def _after(index: Index, steps: list[tuple[str, int]], seed: int) -> Index:
    rows, _ = rows_and_queries(1, seed=seed + 100)
    rng = np.random.default_rng(seed)
    for what, amount in steps:
        if what == "add":
            index.add(rows[:amount])
        elif what == "kill":
            index.kill(rng.integers(0, index.state.n_rows, amount))
        elif what == "encode":
            index.encode_pending(5 * amount)
        elif what == "rewrite":
            index.adopt(rewritten(index.state))
        else:
            index = _reloaded(index)
        index.publish()
    return index


def _reloaded(index: Index) -> Index:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "index.vm"
        index.state.save(path)
        return Index.load(path, index.state.backend)
