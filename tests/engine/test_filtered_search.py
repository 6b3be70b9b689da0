"""Searches with filters: as many hits as there can be, and the right ones, whatever the way."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu import Backend, BadInput, Index, IndexParams, Metric, PackedMask, measure_recall
from gpu.arrays import F32
from gpu.bitmap import pack
from gpu.cpu.matches import group_by_list, matches_of
from gpu.cpu_backend import CpuBackend
from gpu.matching import CHEAP_BYTES, Way, cheapest
from tests.brute_force import assert_same_hits, nearest

MakeTrained = Callable[[IndexParams, F32, Backend], Index]
DIM, N_ROWS, LISTS = 24, 3000, 16


def clustered(seed: int, rows: int) -> F32:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(30, DIM)) * 2
    return (centres[rng.integers(0, 30, rows)] + rng.normal(size=(rows, DIM))).astype(np.float32)


@pytest.fixture(scope="module", params=["l2", "cosine", "ip"])
def filled(request: pytest.FixtureRequest, make_trained: MakeTrained, backend: Backend) -> Index:
    """Index with rows in lists, far-off rows set aside, a tail, zero rows, and dead rows."""
    metric: Metric = request.param
    rows = clustered(0, N_ROWS)
    rows[5:2900:290] = 0
    rows[2100:2103] *= 1e4
    index = make_trained(
        IndexParams(dim=DIM, metric=metric, nlist=LISTS, m=6), rows[:2000], backend
    )
    index.add(rows[2000:])
    index.publish()
    assert index.encode_pending(600) == 600
    index.kill(np.arange(0, N_ROWS, 7))
    index.publish()
    return index


@pytest.fixture(params=list(Way))
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    """Make the backend that has the choice go one way, whatever it costs."""
    chosen: Way = request.param
    monkeypatch.setattr("gpu.cpu.matches.cheapest", lambda *_: chosen)
    monkeypatch.setattr("gpu.query.FEW_MATCHES", 0)
    monkeypatch.setattr("gpu.query.EXACT_SHARE", 0.0)
    return chosen


@pytest.mark.parametrize("share", [0.0, 0.002, 0.03, 0.5])
@pytest.mark.parametrize("k", [3, 200])
def test_every_way_gives_min_k_matches_distinct_allowed_hits(
    filled: Index, way: Way, share: float, k: int
) -> None:
    state = filled.state
    mask = np.random.default_rng(k).random(N_ROWS) < share
    allowed = mask & state.alive()
    hits = state.search(clustered(1, 9), k, mask=mask, nprobe=1, rerank=1)
    counts = (hits.ids >= 0).sum(axis=1)
    assert (counts == min(k, np.count_nonzero(allowed))).all()
    for ids in hits.ids:
        found = ids[ids >= 0]
        assert len(np.unique(found)) == len(found)
        assert allowed[found].all()


def test_every_way_over_all_lists_equals_brute_force(filled: Index, way: Way) -> None:
    state, queries = filled.state, clustered(2, 6)
    rows = state.vectors(np.arange(N_ROWS))
    mask = np.random.default_rng(4).random(N_ROWS) < 0.2
    hits = state.search(queries, 15, mask=mask, nprobe=LISTS, rerank=N_ROWS)
    expected = nearest(state.params.metric, queries, rows, mask & state.alive(), 15)
    assert_same_hits((hits.ids, hits.distances), expected)


def test_a_zero_query_is_answered_under_a_filter(filled: Index, way: Way) -> None:
    state = filled.state
    mask = np.random.default_rng(5).random(N_ROWS) < 0.05
    expected = nearest(
        state.params.metric,
        np.zeros((1, DIM), np.float32),
        state.vectors(np.arange(N_ROWS)),
        mask & state.alive(),
        8,
    )
    hits = state.search(np.zeros((1, DIM), np.float32), 8, mask=mask, nprobe=LISTS, rerank=N_ROWS)
    if state.params.metric == "l2":
        assert_same_hits((hits.ids, hits.distances), expected)
    else:
        assert (hits.ids >= 0).all()
        assert (mask & state.alive())[hits.ids[0]].all()


def test_a_packed_mask_is_the_mask(filled: Index) -> None:
    state, queries = filled.state, clustered(3, 5)
    for share in (0.01, 0.4):
        mask = np.random.default_rng(6).random(N_ROWS) < share
        plain = state.search(queries, 10, mask=mask)
        packed = state.search(queries, 10, mask=PackedMask.of(mask))
        np.testing.assert_array_equal(packed.ids, plain.ids)
        np.testing.assert_array_equal(packed.distances, plain.distances)


@pytest.mark.parametrize("share", [0.002, 0.03, 0.5])
@pytest.mark.parametrize("k", [3, 200])
def test_a_mask_asked_again_gives_the_same_answer_by_its_short_way(
    filled: Index, way: Way, share: float, k: int
) -> None:
    state, queries = filled.state, clustered(7, 9)
    flags = np.random.default_rng(k).random(N_ROWS) < share
    mask = PackedMask.of(flags)
    first = state.search(queries, k, mask=mask, nprobe=3, rerank=40)
    kept = mask.known(state)
    assert kept is not None
    assert kept.matches == np.count_nonzero(flags & state.alive())
    again = [state.search(queries, k, mask=mask, nprobe=3, rerank=40)]
    again += [state.search(queries, k, mask=flags, nprobe=3, rerank=40)]
    one_by_one = [state.search(query[None], k, mask=mask, nprobe=3, rerank=40) for query in queries]
    for other in again:
        np.testing.assert_array_equal(other.ids, first.ids)
        np.testing.assert_array_equal(other.distances, first.distances)
    counts = [int((hits.ids >= 0).sum()) for hits in one_by_one]
    assert counts == [min(k, kept.matches)] * len(queries)


def test_a_mask_serves_each_state_that_it_is_used_with(
    make_trained: MakeTrained, backend: Backend, way: Way
) -> None:
    rows, queries = clustered(8, 2500), clustered(9, 5)
    params = IndexParams(dim=DIM, metric="l2", nlist=LISTS, m=6)
    index = make_trained(params, rows[:2000], backend)
    index.add(rows[2000:])
    states = [index.publish()]
    flags = np.random.default_rng(1).random(len(rows)) < 0.1
    index.kill(np.flatnonzero(flags)[::2])
    states.append(index.publish())
    index.encode_pending(500)
    states.append(index.publish())
    mask = PackedMask.of(flags)
    for state in [*states, *states, states[2], states[2]]:
        hits = state.search(queries, 8, mask=mask, nprobe=LISTS, rerank=len(rows))
        expected = nearest("l2", queries, rows, flags & state.alive(), 8)
        assert_same_hits((hits.ids, hits.distances), expected)


def test_what_is_known_of_a_mask_goes_with_it(text_index: Index) -> None:
    backend = text_index.state.backend
    if not isinstance(backend, CpuBackend):
        pytest.skip("other backends remember nothing of masks")
    known = backend._matches._known
    before, query = len(known), np.ones((1, text_index.state.params.dim), np.float32)
    masks = [PackedMask.of(np.arange(text_index.state.n_rows) % 50 == i) for i in range(3)]
    for mask in masks:
        text_index.state.search(query, 10, mask=mask)
    assert len(known) == before + 3
    del mask, masks
    gc.collect()
    assert len(known) == before


@given(st.lists(st.integers(-1, 6), max_size=60), st.integers(0, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_matches_are_ordered_by_list(lists: list[int], later: int, seed: int) -> None:
    list_of, n_rows = np.array(lists, np.int32), len(lists) + later
    matches = np.flatnonzero(np.random.default_rng(seed).random(n_rows) < 0.4).astype(np.int32)
    starts, grouped = np.zeros(7 + 2, np.int32), np.empty_like(matches)
    group_by_list(matches, list_of, starts, grouped)
    everywhere = np.append(list_of, np.full(later, -1, np.int32))
    assert (starts[0], starts[-1]) == (0, len(matches))
    for number in range(-1, 7):
        expected = matches[everywhere[matches] == number]
        np.testing.assert_array_equal(grouped[starts[number + 1] : starts[number + 2]], expected)


def test_a_mask_of_another_number_of_rows_is_refused(filled: Index) -> None:
    for mask in (np.ones(7, np.bool_), PackedMask.of(np.ones(7, np.bool_))):
        with pytest.raises(BadInput, match="mask"):
            filled.state.search(clustered(3, 1), 10, mask=mask)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
def test_real_embeddings_are_found_under_a_filter_at_the_target(
    share: float, text_index: Index, text_slice: tuple[F32, F32], way: Way
) -> None:
    mask = np.random.default_rng(3).random(text_index.state.n_rows) < share
    assert measure_recall(text_index.state, text_slice[1], 10, mask=mask) >= 0.93


@given(st.integers(0, 300), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_matches_are_read_off_the_bitmap(n_rows: int, share: float, seed: int) -> None:
    flags = np.random.default_rng(seed).random(n_rows) < share
    # Bits of rows not born yet are set in the bitmap of alive rows.
    bits = np.concatenate([pack(flags), np.full(3, 0xFF, np.uint8)])
    if n_rows & 7:
        bits[n_rows >> 3] |= np.uint8((0xFF << (n_rows & 7)) & 0xFF)
    found = matches_of(bits, n_rows, int(flags.sum()))
    np.testing.assert_array_equal(found, np.flatnonzero(flags))


def test_what_reads_least_is_chosen() -> None:
    wide = {"rows": 1_000_000, "row_bytes": 1536, "code_bytes": 52, "rerank": 30}
    assert cheapest(matches=CHEAP_BYTES // 1536, probed=0.01, **wide) is Way.ALL_MATCHES
    assert cheapest(matches=5_000, probed=0.3, **wide) is Way.NEAR_MATCHES
    assert cheapest(matches=500_000, probed=0.1, **wide) is Way.LISTS


@pytest.mark.parametrize("share", [None, 0.3, 0.02])
def test_the_first_hundred_rows_of_a_cursor_are_those_of_one_search(
    share: float | None, text_index: Index, text_slice: tuple[F32, F32]
) -> None:
    state, query = text_index.state, text_slice[1][0]
    mask = None if share is None else np.random.default_rng(8).random(state.n_rows) < share
    ids, distances = next(iter(state.iterate(query, mask)))
    truth = state.search(query[None], 100, mask=mask, exact=True).ids[0]
    wanted = truth[truth >= 0]
    assert len(np.intersect1d(ids[:100], wanted)) >= 0.97 * len(wanted)
    assert (np.diff(distances) >= 0).all()
