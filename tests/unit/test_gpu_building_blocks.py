"""The engine's small parts: bitmap, rows, metrics, parameters, plan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu import BackendError, BadInput, IndexFull, IndexParams, open_backend
from gpu import rows as rows_module
from gpu.bitmap import AliveBits, all_set, bits_at, pack, unpack
from gpu.hits import SearchResult, merge, nearest_pairs
from gpu.metrics import pair_distances
from gpu.params import default_m, default_nlist
from gpu.plan import Plan, Step
from gpu.rows import Rows


@given(st.lists(st.booleans(), max_size=200), st.data())
def test_unpacking_any_range_gives_the_packed_flags(flags: list[bool], data: st.DataObject) -> None:
    array = np.array(flags, np.bool_)
    start = data.draw(st.integers(0, len(flags)))
    stop = data.draw(st.integers(start, len(flags)))
    bits = pack(array)
    np.testing.assert_array_equal(unpack(bits, start, stop), array[start:stop])
    ids = np.arange(start, stop)
    np.testing.assert_array_equal(bits_at(bits, ids), array[start:stop])
    if all_set(bits, start, stop):
        assert array[start:stop].all()


def test_a_published_bitmap_never_changes() -> None:
    alive = AliveBits()
    before = alive.publish(10)
    copy = before.copy()
    alive.kill(np.array([3, 3, 9]), 10)
    after = alive.publish(10)
    np.testing.assert_array_equal(before, copy)
    np.testing.assert_array_equal(np.flatnonzero(~unpack(after, 0, 10)), [3, 9])
    assert alive.dead_rows == 2


def test_adding_rows_never_touches_the_bitmap_until_it_is_full() -> None:
    alive = AliveBits()
    first = alive.publish(10)
    assert alive.publish(60_000) is first
    grown = alive.publish(100_000)
    assert unpack(grown, 0, 100_000).all()


def test_bits_of_rows_not_born_yet_are_set() -> None:
    alive = AliveBits()
    alive.kill(np.array([100_000]), 100_001)
    bits = alive.publish(100_001)
    assert unpack(bits, 100_001, 100_500).all()
    assert not unpack(bits, 100_000, 100_001)[0]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_come_back_across_chunks(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(rows_module, "CHUNK_BYTES", 8 * 3 * np.dtype(dtype).itemsize)
    params = IndexParams(dim=3, metric="ip", raw_dtype=dtype)  # type: ignore[arg-type]
    rows = Rows(params)
    assert rows.chunk_rows == 8
    vectors = np.random.default_rng(0).normal(size=(37, 3)).astype(dtype).astype(np.float32)
    for first in range(0, 37, 5):
        rows.append(vectors[first : first + 5])
    ids = np.random.default_rng(1).integers(0, 37, 100)
    np.testing.assert_array_equal(rows.take(ids), vectors[ids])
    np.testing.assert_allclose(rows.norms(ids), np.linalg.norm(vectors[ids], axis=1), rtol=1e-6)
    blocks = list(rows.blocks(3, 30, 6))
    assert max(len(block.norms) for block in blocks) == 6 or rows.chunk_rows < 6
    joined = np.concatenate([block.vectors for block in blocks])
    np.testing.assert_array_equal(joined.astype(np.float32), vectors[3:30])


def test_l2_norms_are_distances_to_the_centre_of_the_first_rows() -> None:
    rows = Rows(IndexParams(dim=2, metric="l2"))
    rows.append(np.array([[1e4, 1e4], [1e4 + 1, 1e4], [1e4 - 1, 1e4]], np.float32))
    np.testing.assert_array_equal(rows.centre, [1e4, 1e4])
    np.testing.assert_allclose(rows.norms(np.arange(3)), [0, 1, 1])


def test_norms_of_very_small_and_very_large_rows_are_right() -> None:
    rows = Rows(IndexParams(dim=2, metric="cosine"))
    rows.append(np.array([[3e-25, 4e-25], [3e25, 4e25], [0, 0]], np.float32))
    np.testing.assert_allclose(rows.norms(np.arange(3)), [5e-25, 5e25, 0], rtol=1e-5)
    np.testing.assert_array_equal(rows.zero_norm_ids(3), [2])


def test_no_memory_for_a_chunk_means_the_index_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(IndexParams(dim=2, metric="l2"))

    def no_memory(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr("gpu.rows.np.empty", no_memory)
    with pytest.raises(IndexFull):
        rows.append(np.ones((1, 2), np.float32))
    assert rows.n_rows == 0


def test_distances_are_those_of_pgvectors_operators() -> None:
    a, b = np.array([[3, 4]], np.float32), np.array([[0, 0], [3, 4], [-3, -4], [4, 3]], np.float32)
    np.testing.assert_allclose(pair_distances("l2", a, b), [5, 0, 10, np.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(pair_distances("ip", a, b), [0, -25, 25, -24])
    np.testing.assert_allclose(pair_distances("cosine", a, b), [np.nan, 0, 2, 0.04], rtol=1e-5)


def test_cosine_distance_stays_between_0_and_2() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    same = pair_distances("cosine", rows, rows * np.float32(3))
    opposite = pair_distances("cosine", rows, rows * np.float32(-7))
    assert same.min() >= 0
    assert opposite.max() <= 2


def test_hits_sort_by_distance_then_id_with_nan_last() -> None:
    of, ids = np.zeros(4, np.int64), np.array([9, 4, 7, 2])
    distances = np.array([1, np.nan, 0.5, 1], np.float32)
    result = nearest_pairs(1, 5, of, ids, distances)
    np.testing.assert_array_equal(result.ids, [[7, 2, 9, 4, -1]])


def test_merging_keeps_the_nearest_of_both() -> None:
    first = SearchResult(np.array([[1, 2]]), np.array([[0.1, 0.4]], np.float32))
    second = SearchResult(np.array([[5, -1]]), np.array([[0.2, np.inf]], np.float32))
    np.testing.assert_array_equal(merge(first, second, 4).ids, [[1, 5, 2, -1]])


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0},
        {"dim": 16_001},
        {"metric": "hamming"},
        {"raw_dtype": "int8"},
        {"code_bits": 5},
        {"m": 5},
        {"nlist": 0},
        {"seed": -1},
        {"train_from_rows": 0},
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(BadInput):
        IndexParams(**{"dim": 4, "metric": "l2", **options})  # type: ignore[arg-type]


def test_parameters_survive_json() -> None:
    params = IndexParams(dim=8, metric="ip", raw_dtype="float16", code_bits=8, m=4, nlist=7)
    assert IndexParams.from_json(params.to_json()) == params


@pytest.mark.parametrize(
    ("dim", "m"),
    [(64, 32), (96, 32), (128, 32), (384, 64), (768, 96), (1536, 192), (4096, 512), (16_000, 1024)],
)
def test_default_m_follows_the_measured_table(dim: int, m: int) -> None:
    assert default_m(dim, 4) == m
    assert default_m(dim, 8) == m // 2


def test_default_m_fits_small_dimensions() -> None:
    assert all(1 <= default_m(dim, bits) <= dim for dim in range(1, 40) for bits in (4, 8))


@pytest.mark.parametrize(
    ("rows", "nlist"), [(20_000, 256), (80_000, 512), (1_000_000, 2048), (100_000_000, 32768)]
)
def test_default_nlist_follows_the_measured_table(rows: int, nlist: int) -> None:
    assert default_nlist(rows) == nlist


STEPS = tuple(
    Step(k, target, nprobe, rerank)
    for k, target, nprobe, rerank in [
        (10, 0.9, 10, 15),
        (10, 0.95, 20, 25),
        (100, 0.9, 40, 150),
        (100, 0.95, 80, 250),
    ]
)


def test_a_plan_takes_the_lowest_measured_target_that_is_enough() -> None:
    plan = Plan(1000, STEPS)
    assert plan.choose(10, 0.5) == (10, 15)
    assert plan.choose(10, 0.92) == (20, 25)
    assert plan.choose(10, None) == (20, 25)
    assert plan.choose(10, 0.999) == (20, 25)


def test_a_plan_probes_more_for_more_neighbours_and_for_filters() -> None:
    plan = Plan(1000, STEPS)
    probes = [plan.choose(k, 0.95)[0] for k in (1, 10, 30, 100, 1000)]
    assert probes == sorted(probes)
    assert probes[0] == 20
    assert probes[-1] == 320
    assert plan.choose(10, 0.95, share=0.1) == (80, 25)
    assert plan.choose(10, 0.95, share=1e-9)[0] == 1000


def test_a_plan_goes_by_the_shares_it_was_measured_at() -> None:
    filtered = tuple(
        Step(k, 0.95, nprobe, rerank, share)
        for k, nprobe, rerank, share in [
            (10, 90, 40, 0.1),
            (100, 270, 300, 0.1),
            (10, 300, 60, 0.01),
        ]
    )
    plan = Plan(1000, (*STEPS, *filtered))
    assert plan.choose(10, 0.95, share=0.1) == (90, 40)
    assert plan.choose(10, 0.95, share=0.01) == (300, 60)
    between = [plan.choose(10, 0.95, share)[0] for share in (1, 0.7, 0.3, 0.1, 0.05, 0.01, 0.001)]
    assert between == sorted(between)
    assert 20 < between[1] < between[2] < 90 < between[4] < 300 < between[6]


def test_a_plan_re_ranks_at_least_k() -> None:
    assert Plan(8).choose(700, 0.5)[1] >= 700


def test_an_empty_plan_guesses_and_survives_json() -> None:
    assert Plan(400).choose(10, 0.95) == (40, 50)
    assert Plan(400).choose(10, 0.99) == (100, 100)
    plan = Plan(1000, STEPS)
    assert Plan.from_json(plan.to_json()) == plan


def test_an_unknown_backend_is_refused() -> None:
    assert open_backend().name == "cpu"
    with pytest.raises(BackendError, match="quantum"):
        open_backend("quantum")
