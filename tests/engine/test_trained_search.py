"""Search through lists: recall on real data, and everything that must hold exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpu import Backend, BadInput, Index, IndexParams, IndexState, Metric, measure_recall
from gpu.arrays import F32
from tests.brute_force import assert_same_hits, nearest

MakeTrained = Callable[[IndexParams, F32, Backend], Index]
METRICS: list[Metric] = ["l2", "cosine", "ip"]
DIM, N_ROWS = 24, 3000


def rows_and_queries(seed: int = 0) -> tuple[F32, F32]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, DIM)) * 2
    rows = centres[rng.integers(0, 30, N_ROWS)] + rng.normal(size=(N_ROWS, DIM))
    queries = centres[rng.integers(0, 30, 12)] + rng.normal(size=(12, DIM))
    return rows.astype(np.float32), queries.astype(np.float32)


def small_params(metric: Metric, bits: int = 4) -> IndexParams:
    return IndexParams(dim=DIM, metric=metric, nlist=16, m=6, code_bits=bits)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=METRICS)
def trained(request: pytest.FixtureRequest, make_trained: MakeTrained, backend: Backend) -> Index:
    """Index with rows in lists, a tail, and dead rows in both; tests only read it."""
    rows, _ = rows_and_queries()
    index = make_trained(small_params(request.param), rows[:2000], backend)
    index.add(rows[2000:])
    index.publish()
    assert index.encode_pending(600) == 600
    index.kill(np.arange(0, N_ROWS, 7))
    index.publish()
    return index


@pytest.mark.parametrize(
    ("target", "floor"), [(0.8, 0.77), (0.9, 0.87), (0.95, 0.925), (0.99, 0.97)]
)
def test_recall_of_real_embeddings_reaches_the_target(
    target: float, floor: float, text_index: Index, text_slice: tuple[F32, F32]
) -> None:
    recall = measure_recall(text_index.state, text_slice[1], 10, recall_target=target)
    assert recall >= floor


def test_recall_of_real_embeddings_at_k_100(text_index: Index, text_slice: tuple[F32, F32]) -> None:
    assert measure_recall(text_index.state, text_slice[1], 100) >= 0.93


def test_the_codec_alone_finds_nearly_all_real_neighbours_in_50_candidates(
    text_index: Index, text_slice: tuple[F32, F32]
) -> None:
    nlist = text_index.state.stats()["nlist"]
    assert isinstance(nlist, int)
    recall = measure_recall(text_index.state, text_slice[1], 10, nprobe=nlist, rerank=50)
    assert recall >= 0.985


@pytest.mark.parametrize("share", [0.3, 0.05])
def test_recall_of_real_embeddings_under_a_mask(
    share: float, text_index: Index, text_slice: tuple[F32, F32]
) -> None:
    mask = np.random.default_rng(3).random(text_index.state.n_rows) < share
    assert measure_recall(text_index.state, text_slice[1], 10, mask=mask) >= 0.93


def test_all_lists_and_full_rerank_equal_brute_force(trained: Index) -> None:
    state, (rows, queries) = trained.state, rows_and_queries()
    hits = state.search(queries, 25, nprobe=16, rerank=N_ROWS)
    expected = nearest(state.params.metric, queries, rows, state.alive(), 25)
    assert_same_hits((hits.ids, hits.distances), expected)


def test_exact_search_of_a_trained_index_equals_brute_force(trained: Index) -> None:
    state, (rows, queries) = trained.state, rows_and_queries()
    expected = nearest(state.params.metric, queries, rows, state.alive(), 25)
    for options in ({"exact": True}, {"recall_target": 1.0}):
        hits = state.search(queries, 25, **options)
        assert_same_hits((hits.ids, hits.distances), expected)


@pytest.mark.parametrize("k", [1, 40, N_ROWS + 5])
def test_hits_are_distinct_alive_sorted_and_as_many_as_there_can_be(k: int, trained: Index) -> None:
    state, (rows, queries) = trained.state, rows_and_queries()
    hits = state.search(queries, k, nprobe=1)
    assert (np.count_nonzero(hits.ids >= 0, axis=1) == min(k, state.live_rows)).all()
    for query, ids, distances in zip(queries, hits.ids, hits.distances, strict=True):
        found = ids[ids >= 0]
        assert len(np.unique(found)) == len(found)
        assert state.alive()[found].all()
        own = nearest(state.params.metric, query[None], rows[found], np.ones(len(found), bool), k)
        np.testing.assert_allclose(distances[: len(found)], own[1][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("matches", [0, 3, 9, 10, 11, 300, 2500])
def test_a_masked_search_returns_exactly_min_k_matches(
    matches: int, trained: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu.query.FEW_MATCHES", 0)
    monkeypatch.setattr("gpu.query.EXACT_SHARE", 0.0)
    state, (_, queries) = trained.state, rows_and_queries()
    live = np.flatnonzero(state.alive())
    chosen = np.random.default_rng(matches).choice(live, min(matches, len(live)), replace=False)
    mask = np.zeros(N_ROWS, np.bool_)
    mask[chosen] = True
    mask[~state.alive()] = True
    hits = state.search(queries, 10, mask=mask, nprobe=1, rerank=1)
    assert (np.count_nonzero(hits.ids >= 0, axis=1) == min(10, len(chosen))).all()
    assert np.isin(hits.ids[hits.ids >= 0], chosen).all()


def test_few_matches_are_searched_exactly(trained: Index) -> None:
    state, (rows, queries) = trained.state, rows_and_queries()
    mask = np.random.default_rng(1).random(N_ROWS) < 0.1
    hits = state.search(queries, 10, mask=mask, nprobe=1)
    allowed = mask & state.alive()
    expected = nearest(state.params.metric, queries, rows, allowed, 10)
    assert_same_hits((hits.ids, hits.distances), expected)


def test_every_alive_row_is_found_once_wherever_it_lies(trained: Index) -> None:
    state = trained.state
    assert 0 < state.encoded_rows < state.n_rows
    hits = state.search(np.ones((1, DIM), np.float32), N_ROWS, nprobe=16)
    found = np.sort(hits.ids[hits.ids >= 0])
    np.testing.assert_array_equal(found, np.flatnonzero(state.alive()))


def test_encoding_the_tail_changes_no_exact_answer(
    make_trained: MakeTrained, backend: Backend
) -> None:
    rows, queries = rows_and_queries()
    index = make_trained(small_params("l2"), rows[:1500], backend)
    index.add(rows[1500:])
    before = index.publish()
    answer = before.search(queries, 10, nprobe=16, rerank=N_ROWS)
    while index.encode_pending(400):
        state = index.state
        assert (state.n_rows, state.live_rows) == (before.n_rows, before.live_rows)
        again = state.search(queries, 10, nprobe=16, rerank=N_ROWS)
        np.testing.assert_array_equal(again.ids, answer.ids)
        np.testing.assert_array_equal(again.distances, answer.distances)
    assert index.state.encoded_rows == N_ROWS
    assert before.encoded_rows == 1500


def test_8_bit_codes_find_real_neighbours(
    make_trained: MakeTrained, backend: Backend, text_slice: tuple[F32, F32]
) -> None:
    base, queries = text_slice[0][:1500, :48], text_slice[1][:, :48]
    params = IndexParams(dim=48, metric="l2", nlist=8, m=12, code_bits=8)
    state = make_trained(params, base, backend).state
    assert measure_recall(state, queries, 10, nprobe=8, rerank=50) >= 0.97


@pytest.mark.parametrize(("dim", "m"), [(1, 1), (7, 3), (5, 5)])
def test_dimensions_that_sub_quantizers_do_not_divide(
    dim: int, m: int, make_trained: MakeTrained, backend: Backend
) -> None:
    rows = np.random.default_rng(dim).normal(size=(700, dim)).astype(np.float32)
    params = IndexParams(dim=dim, metric="l2", nlist=4, m=m)
    state = make_trained(params, rows, backend).state
    assert measure_recall(state, rows[:40], 10, nprobe=4, rerank=200) >= 0.95


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_iterate_gives_each_matching_row_once_in_rising_distance(
    share: float, trained: Index
) -> None:
    state, (rows, queries) = trained.state, rows_and_queries()
    mask = np.random.default_rng(2).random(N_ROWS) < share
    batches = list(state.iterate(queries[0], mask))
    ids = np.concatenate([batch[0] for batch in batches])
    distances = np.concatenate([batch[1] for batch in batches])
    allowed = mask & state.alive()
    np.testing.assert_array_equal(np.sort(ids), np.flatnonzero(allowed))
    late = 0 if len(ids) == 0 else int(np.count_nonzero(np.diff(distances) < 0))
    assert late <= 1, "only the rows that came too late may stand behind farther ones"
    first = nearest(state.params.metric, queries[:1], rows, allowed, 20)
    assert len(np.intersect1d(ids[:20], first[0][0])) >= 18


def test_iterate_is_lazy(trained: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    state, (_, queries) = trained.state, rows_and_queries()
    ids, _ = next(iter(state.iterate(queries[0])))
    assert 0 < len(ids) < state.live_rows / 2


def test_a_query_far_from_everything_is_answered_exactly(
    make_trained: MakeTrained, backend: Backend
) -> None:
    rows, queries = rows_and_queries()
    index = make_trained(small_params("l2"), rows, backend)
    far = queries * np.float32(1e9)
    hits = index.state.search(far, 10, nprobe=1)
    exact = index.state.search(far, 10, exact=True)
    np.testing.assert_array_equal(hits.ids, exact.ids)


def test_rows_unlike_anything_trained_on_are_found(
    make_trained: MakeTrained, backend: Backend
) -> None:
    rows, _ = rows_and_queries()
    index = make_trained(small_params("l2"), rows, backend)
    strange = np.full((3, DIM), 1e6, np.float32) * np.array([[1], [-1], [1e20]], np.float32)
    ids = index.add(strange)
    index.publish()
    assert index.encode_pending(100) == 3
    assert index.state.stats()["rows_aside"] == 3
    hits = index.state.search(strange, 1, nprobe=1)
    np.testing.assert_array_equal(hits.ids[:, 0], ids)


def test_zero_rows_under_cosine_stay_findable_after_training(
    make_trained: MakeTrained, backend: Backend
) -> None:
    rows, queries = rows_and_queries()
    rows[10:20] = 0
    state = make_trained(small_params("cosine"), rows[:600], backend).state
    hits = state.search(queries[:2], 600, nprobe=16)
    np.testing.assert_array_equal(hits.ids[:, 590:], [np.arange(10, 20)] * 2)
    assert np.isnan(hits.distances[:, 590:]).all()
    assert state.search(np.zeros((1, DIM), np.float32), 3).ids.tolist() == [[0, 1, 2]]


def test_adopting_a_codec_of_more_rows_than_there_are_is_refused(
    trained: Index, backend: Backend
) -> None:
    other = Index(trained.params, backend)
    part = trained.state.trained_part
    assert part is not None
    with pytest.raises(BadInput):
        other.adopt(part)


def test_a_state_from_before_adoption_stays_flat(
    make_trained: MakeTrained, backend: Backend
) -> None:
    rows, queries = rows_and_queries()
    index = Index(small_params("l2"), backend)
    index.add(rows)
    flat: IndexState = index.publish()
    answer = flat.search(queries, 5)
    other = make_trained(small_params("l2"), rows, backend).state.trained_part
    assert other is not None
    index.adopt(other)
    assert (flat.trained, index.state.trained) == (False, True)
    np.testing.assert_array_equal(flat.search(queries, 5).ids, answer.ids)
