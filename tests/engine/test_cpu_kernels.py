"""The kernels of this process' flavour against NumPy; test_cpu_flavours.py runs this for others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu import IndexParams, NumpyBackend
from gpu.arrays import F32, I32, U8
from gpu.backend import Depth
from gpu.bitmap import pack
from gpu.codec import Codec
from gpu.cpu import layout, prepared, sketched
from gpu.cpu.features import FLAVOUR
from gpu.cpu.lists import BlockLists
from gpu.cpu.memory import address
from gpu.cpu.selection import shrink, sort
from gpu.cpu.tiles import TOGETHER, score_bytes, score_floats
from gpu.cpu_backend import CpuBackend
from gpu.encoding import ListContents, encode_rows
from gpu.params import Metric
from gpu.rows import Rows

CPU, NUMPY = CpuBackend(threads=2), NumpyBackend()


class Case:
    """A random codec with rows in the lists of both backends; the last list is empty."""

    def __init__(self, metric: Metric, dim: int, m: int, bits: int, n_rows: int = 700) -> None:
        rng = np.random.default_rng(dim + m)
        n_lists, width = 9, -(-dim // m)
        params = IndexParams(dim=dim, metric=metric, raw_dtype="float16" if m % 2 else "float32")
        self.vectors: F32 = rng.normal(size=(n_rows, dim)).astype(np.float32)
        self.vectors[10:30] = self.vectors[5]
        noise = rng.normal(scale=0.25, size=(40, dim))
        self.queries: F32 = (self.vectors[:40] + noise).astype(np.float32)
        rotation = np.linalg.qr(rng.normal(size=(m * width, m * width)))[0][:dim]
        centroids = rng.normal(size=(n_lists, m * width)).astype(np.float32)
        centroids[-1] = 1e4
        self.codec = Codec(
            metric=metric,
            bits=bits,
            scale=1.0 if metric != "cosine" else 4.0,
            query_norm=float(np.sqrt(dim)),
            use_gain=True,
            lut="float32",
            centre=np.full(dim, 0 if metric == "ip" else 0.01, np.float32),
            rotation=rotation.astype(np.float32) if m % 2 else None,
            centroids=centroids,
            sigma=rng.uniform(0.7, 1.4, n_lists).astype(np.float32),
            bias_mean=rng.normal(size=n_lists).astype(np.float32),
            bias_unit=np.full(n_lists, 0.5, np.float32),
            codebooks=rng.normal(size=(m, 1 << bits, width)).astype(np.float32),
        )
        self.rows = Rows(params)
        self.rows.append(self.vectors)
        encoded = encode_rows(self.codec, NUMPY, self.vectors, np.arange(n_rows))
        self.contents: ListContents = encoded[0]
        self.lists = BlockLists.empty(self.codec)
        for part in np.array_split(np.arange(len(self.contents)), 3):
            self.lists = self.lists.append(self.contents.take(part))
        self.oracle = NUMPY.open_lists(self.codec).append(self.contents)
        self.placed = self.codec.place_queries(self.queries)

    def with_steps_up_to(self, largest: float, monkeypatch: pytest.MonkeyPatch) -> BlockLists:
        """Return the lists with byte tables of any coarseness, or with none (0)."""
        codec = replace(self.codec)
        monkeypatch.setattr(prepared, "largest_step", lambda _: largest)
        return BlockLists.empty(codec).append(self.contents)


SHAPES: list[tuple[Metric, int, int, int]] = [
    ("l2", 33, 7, 4),
    ("l2", 16, 16, 4),
    ("cosine", 50, 12, 4),
    ("ip", 17, 5, 4),
    ("l2", 24, 6, 8),
    ("cosine", 3, 1, 4),
    ("l2", 600, 600, 4),
]
_CASES: dict[tuple[Metric, int, int, int], Case] = {}


@pytest.fixture(params=SHAPES, ids=lambda shape: "-".join(map(str, shape)))
def case(request: pytest.FixtureRequest) -> Case:
    shape = request.param
    if shape not in _CASES:
        _CASES[shape] = Case(*shape)
    return _CASES[shape]


def everything(n: int) -> U8:
    return np.full((n + 7) // 8, 0xFF, np.uint8)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(st.sampled_from([-2.5, -1.0, 0.0, 1e-30, 1.0, 1.0000001, 3e37]), min_size=1),
    repeat=st.integers(1, 40),
    keep=st.integers(1, 300),
    slack=st.integers(0, 40),
)
def test_shrink_keeps_the_best_and_never_more_than_there_is_room_for(
    values: list[float], repeat: int, keep: int, slack: int
) -> None:
    scores = np.resize(np.array(values, np.float32), len(values) * repeat)
    n = len(scores)
    buffer, ids = np.empty(n + 16, np.float32), np.zeros(n + 16, np.int32)
    buffer[:n], ids[:n] = scores, np.arange(n)
    left, limit = shrink(address(buffer), address(ids), n, keep, slack)
    assert min(n, keep) <= left <= max(keep + slack, min(n, keep))
    np.testing.assert_array_equal(buffer[:left], scores[ids[:left]])
    assert len(np.unique(ids[:left])) == left
    sort(address(buffer), address(ids), left)
    best = np.sort(scores)[: min(n, keep)]
    np.testing.assert_array_equal(buffer[: len(best)], best)
    assert n <= keep or limit >= best[-1]
    np.testing.assert_array_equal(np.lexsort((ids[:left], buffer[:left])), np.arange(left))


def test_lists_give_back_what_was_put_in(case: Case) -> None:
    expected = case.oracle.contents()
    found = case.lists.contents()
    for name in ("list_ids", "row_ids", "codes", "bias", "gain"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(case.lists.lengths, case.oracle.lengths)


@pytest.mark.parametrize("nprobe", [1, 4, 9])
def test_the_nearest_lists_are_chosen(case: Case, nprobe: int) -> None:
    probes, constants = CPU.choose_lists(case.codec, case.placed, nprobe)
    expected_probes, expected = NUMPY.choose_lists(case.codec, case.placed, nprobe)
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(constants, expected, rtol=1e-4, atol=1e-6 * scale)
    assert np.mean(probes == expected_probes) > 0.99


def codec_of_many_lists(metric: Metric, spread: F32, n_lists: int = 3000) -> Codec:
    """Return a codec whose centroids f32[L, D] have the standard deviations ``spread`` f32[D]."""
    rng, dim = np.random.default_rng(5), len(spread)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    centroids = (rng.normal(size=(n_lists, dim)) * spread) @ rotation + 0.3
    return Codec(
        metric=metric,
        bits=4,
        scale=1.0,
        query_norm=float(np.sqrt(dim)),
        use_gain=True,
        lut="float32",
        centre=np.zeros(dim, np.float32),
        rotation=None,
        centroids=centroids.astype(np.float32),
        sigma=np.full(n_lists, 0.05, np.float32),
        bias_mean=np.zeros(n_lists, np.float32),
        bias_unit=np.ones(n_lists, np.float32),
        codebooks=rng.normal(size=(dim // 4, 16, 4)).astype(np.float32),
    )


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_sketches_of_many_lists_lose_two_in_a_thousand_at_most(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketched, "FEWEST_LISTS", 1000)
    codec = codec_of_many_lists(metric, (0.9 ** np.arange(72)).astype(np.float32))
    described = prepared.describe(codec)
    assert described.values[layout.SKETCH_DIM] > 0
    rng = np.random.default_rng(6)
    near = codec.centroids[rng.permutation(codec.nlist)[:200]]
    queries = near + rng.normal(scale=0.05, size=near.shape).astype(np.float32)
    for nprobe in (1, 10, 60, codec.nlist):
        probes, constants = CPU.choose_lists(codec, queries, nprobe)
        expected_probes, expected = NUMPY.choose_lists(codec, queries, nprobe)
        shared = [len(np.intersect1d(*pair)) for pair in zip(probes, expected_probes, strict=True)]
        assert np.mean(shared) >= 0.998 * nprobe
        same = probes == expected_probes
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(constants[same], expected[same], rtol=1e-4, atol=1e-6 * scale)
        alone = [CPU.choose_lists(codec, query[None], nprobe)[0][0] for query in queries[:20]]
        np.testing.assert_array_equal(np.sort(alone), np.sort(probes[:20]))


def test_centroids_without_principal_components_get_no_sketches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sketched, "FEWEST_LISTS", 1000)
    codec = codec_of_many_lists("l2", np.ones(72, np.float32))
    assert prepared.describe(codec).values[layout.SKETCH_DIM] == 0


def test_a_search_by_sketches_finds_what_the_definition_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sketched, "FEWEST_LISTS", 1000)
    codec = codec_of_many_lists("l2", (0.85 ** np.arange(40)).astype(np.float32))
    rng, n_rows = np.random.default_rng(7), 6000
    home = codec.centroids[rng.integers(0, codec.nlist, n_rows)]
    vectors = (home + rng.normal(scale=0.05, size=home.shape)).astype(np.float32)
    rows = Rows(IndexParams(dim=40, metric="l2"))
    rows.append(vectors)
    contents = encode_rows(codec, NUMPY, vectors, np.arange(n_rows))[0]
    lists = CPU.open_lists(codec).append(contents)
    oracle = NUMPY.open_lists(codec).append(contents)
    queries = vectors[:60] + rng.normal(scale=0.03, size=(60, 40)).astype(np.float32)
    asked = (queries, Depth(5, 64, 64), everything(n_rows))
    found, expected = (
        CPU.search_lists(lists, rows, *asked),
        NUMPY.search_lists(oracle, rows, *asked),
    )
    shared = [len(np.intersect1d(*pair)) for pair in zip(found.ids, expected.ids, strict=True)]
    assert np.mean(shared) >= 0.98 * 5


@pytest.mark.parametrize("share", [1.0, 0.3, 0.02, 0.0])
@pytest.mark.parametrize("n", [1, 40])
def test_float_tables_score_as_numpy_does(
    case: Case, n: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = case.with_steps_up_to(0, monkeypatch)
    allowed = pack(np.random.default_rng(1).random(len(case.vectors)) < share)
    placed = case.placed[:n]
    asked = (*NUMPY.choose_lists(case.codec, placed, 5), allowed, 50)
    ids, scores = CPU.scan(lists, placed, *asked)
    expected_ids, expected = NUMPY.scan(case.oracle, placed, *asked)
    size = float(np.abs(expected[np.isfinite(expected)]).max(initial=1e-6))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=2e-5 * size)
    np.testing.assert_array_equal(ids >= 0, expected_ids >= 0)
    differ = ids != expected_ids
    np.testing.assert_allclose(scores[differ], expected[differ], rtol=1e-4, atol=2e-5 * size)


@pytest.mark.skipif(FLAVOUR == "portable", reason="portable kernels know no byte tables")
@pytest.mark.parametrize("n", [1, 40])
def test_byte_tables_score_as_the_rounded_tables_do(
    case: Case, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = case.codec
    if codec.bits == 8:
        return
    lists = case.with_steps_up_to(np.inf, monkeypatch)
    placed = case.placed[:n]
    probes, constants = NUMPY.choose_lists(codec, placed, 9)
    total = len(case.contents)
    ids, scores = CPU.scan(lists, placed, probes, constants, everything(len(case.vectors)), total)
    assert (ids >= 0).all()
    rounded = rounded_scores(codec, placed, case.contents, constants, probes)
    found = np.empty_like(rounded)
    np.put_along_axis(found, ids, scores, axis=1)
    size = float(np.abs(rounded).max())
    steps = np.abs(found - rounded) > 1e-5 * size
    # A table entry half-way between two steps may be rounded either way.
    assert steps.mean() < 0.02
    np.testing.assert_allclose(found, rounded, atol=0.05 * size)


def rounded_scores(
    codec: Codec, placed: F32, contents: ListContents, constants: F32, probes: I32
) -> F32:
    """Return the scores of all rows by tables rounded to bytes, f32[q, row id]."""
    m, _, width = codec.codebooks.shape
    pieces = placed.reshape(-1, m, width).astype(np.float64)
    tables = -np.einsum("qmw,mkw->qmk", pieces, codec.codebooks)
    smallest = tables.min(axis=2, keepdims=True)
    step = np.ptp(tables, axis=2).max(axis=1)[:, None, None] / 255
    entries = np.floor((tables - smallest) / step + 0.5) * step + smallest
    codes = np.stack([contents.codes & 15, contents.codes >> 4], axis=2)
    numbers = codes.reshape(len(contents), -1)[:, :m]
    sums = entries[:, np.arange(m), numbers].sum(axis=2)
    lists = contents.list_ids
    of_list = np.empty(constants.shape)
    np.put_along_axis(of_list, probes.astype(np.int64), constants.astype(np.float64), axis=1)
    bias = codec.bias_mean[lists] + codec.bias_unit[lists] * contents.bias.astype(np.float64)
    scores = of_list[:, lists] + bias + contents.gain * codec.sigma[lists] * sums
    out = np.empty((len(placed), len(contents)), np.float32)
    out[:, contents.row_ids] = scores
    return out


def test_a_search_finds_what_its_parts_find(case: Case) -> None:
    allowed = pack(np.random.default_rng(2).random(len(case.vectors)) < 0.7)
    n_lists = case.codec.nlist
    depth = Depth(8, n_lists, len(case.vectors))
    found = CPU.search_lists(case.lists, case.rows, case.queries, depth, allowed)
    expected = NUMPY.search_lists(case.oracle, case.rows, case.queries, depth, allowed)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-5, atol=1e-6)
    differ = found.ids != expected.ids
    np.testing.assert_allclose(found.distances[differ], expected.distances[differ], rtol=1e-5)


def test_a_search_of_one_query_equals_that_query_in_a_batch(case: Case) -> None:
    allowed, depth = everything(len(case.vectors)), Depth(5, 6, 60)
    together = CPU.search_lists(case.lists, case.rows, case.queries, depth, allowed)
    for i in range(0, 40, 7):
        alone = CPU.search_lists(case.lists, case.rows, case.queries[i : i + 1], depth, allowed)
        assert len(np.intersect1d(alone.ids[0], together.ids[i])) >= 4


def test_a_query_too_far_out_for_scores_gets_no_hits(case: Case) -> None:
    if case.codec.metric != "l2":
        return
    queries = case.queries[:3].copy()
    queries[1] *= np.float32(1e9)
    allowed, depth = everything(len(case.vectors)), Depth(5, 9, 60)
    found = CPU.search_lists(case.lists, case.rows, queries, depth, allowed)
    np.testing.assert_array_equal(found.ids[1], -1)
    assert (found.ids[[0, 2]] >= 0).all()


def test_distances_are_those_of_the_definition(case: Case) -> None:
    ids = np.random.default_rng(3).integers(-1, len(case.vectors), (40, 6))
    found = CPU.distances(case.rows, case.queries, ids)
    expected = NUMPY.distances(case.rows, case.queries, ids)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_equal_rows_beyond_the_room_of_a_buffer_do_no_harm() -> None:
    case = _CASES.setdefault(SHAPES[1], Case(*SHAPES[1]))
    n = 5000
    same = case.contents.take(np.full(n, 5))
    rows = ListContents(same.list_ids, np.arange(n), same.codes, same.bias, same.gain)
    lists = BlockLists.empty(case.codec).append(rows)
    for n_queries in (1, 40):
        placed = case.placed[:n_queries]
        probes, constants = NUMPY.choose_lists(case.codec, placed, 9)
        ids, scores = CPU.scan(lists, placed, probes, constants, everything(n), 70)
        assert all(len(np.unique(row)) == 70 for row in ids)
        assert np.ptp(scores, axis=1).max() == 0


def test_an_older_version_of_lists_never_changes() -> None:
    case = _CASES.setdefault(SHAPES[0], Case(*SHAPES[0]))
    half = len(case.contents) // 2
    first = BlockLists.empty(case.codec).append(case.contents.take(np.arange(half)))
    before = first.contents()
    second = first.append(case.contents.take(np.arange(half, len(case.contents))))
    rival = first.append(case.contents.take(np.arange(half, half + 100)))
    assert len(second.contents()) == len(case.contents)
    assert len(rival.contents()) == half + 100
    np.testing.assert_array_equal(second.contents().codes, case.oracle.contents().codes)
    probes, constants = NUMPY.choose_lists(case.codec, case.placed, 9)
    allowed = everything(len(case.vectors))
    ids, _ = CPU.scan(first, case.placed, probes, constants, allowed, half + 50)
    assert ((ids >= 0).sum(axis=1) == half).all()
    assert ids.max() < half
    np.testing.assert_array_equal(first.contents().codes, before.codes)


@pytest.mark.parametrize("n", range(1, TOGETHER + 1))
@pytest.mark.parametrize("in_bytes", [False, True])
def test_scores_of_few_queries_are_those_of_each_and_nothing_is_written_beyond_them(
    n: int, in_bytes: bool
) -> None:
    if in_bytes and FLAVOUR != "avx512":
        pytest.skip("this flavour has no int8 tiles")
    dim, n_tiles, rng = 10, 3, np.random.default_rng(n)
    queries = rng.normal(size=(n, dim)).astype(np.float32)
    starts, scales = rng.random((2, 64 * n_tiles), np.float32)
    corrections, middle = np.zeros(64 * n_tiles, np.int32), np.zeros(16, np.float32)
    bytes_ = rng.integers(-128, 128, n_tiles * 3 * 256, np.int8)
    floats = rng.normal(size=(n_tiles, dim, 64)).astype(np.float32)

    def score(asked: F32) -> F32:
        out = np.full((TOGETHER + 2, 64 * n_tiles), np.float32(7))
        ends = (address(asked), 4 * dim, address(out), out.strides[0], len(asked))
        if in_bytes:
            tiles = (address(bytes_), address(starts), address(scales), address(corrections))
            score_bytes(tiles, n_tiles, address(middle), dim, *ends)
        else:
            score_floats(address(floats), address(starts), n_tiles, dim, *ends)
        assert (out[len(asked) :] == 7).all()
        return out[: len(asked)]

    together = score(queries)
    for query, scores in zip(queries, together, strict=True):
        np.testing.assert_array_equal(score(query[None].copy())[0], scores)
