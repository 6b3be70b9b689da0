"""Tables and the low-latency scan against ``scan.scan`` of the NumPy backend."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.cuda import scan_slices
from gpu.pq import lookup_tables
from tests.cuda.emulator import EmulatedDevice
from tests.cuda.kernels.cards import Card
from tests.cuda.kernels.codecs import (
    Sizes,
    all_allowed,
    made_codec,
    made_contents,
)
from tests.cuda.kernels.searches import Search, check, queries


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("lut", ["float16", "float32"])
def test_tables_hold_minus_the_products_of_pieces_and_codewords(
    card: Card, rng: np.random.Generator, bits: int, lut: str
) -> None:
    codec = made_codec(rng, Sizes(m=5, width=3, dim=15, bits=bits, lut=lut))  # type: ignore[arg-type]
    search = Search(card, codec, made_contents(rng, codec, [3] * 5), (6, 2, 1), 1)
    placed = queries(rng, codec, 6)
    search.begin(placed)
    layout = search.view.layout
    got = card.get(search.scratch.tables, (6, layout.padded_m, layout.codewords), np.float32)
    pieces = placed.reshape(6, 5, 3)
    wanted = -np.einsum("qms,mks->qmk", pieces, codec.codebooks)
    np.testing.assert_allclose(got[:, :5], wanted, rtol=1e-5, atol=1e-6)
    assert not got[:, 5:].any()
    largest = card.get(search.scratch.largest, 6, np.uint32).view(np.float32)
    np.testing.assert_array_equal(largest, np.abs(got).max(axis=(1, 2)))
    assert lookup_tables(placed, codec.codebooks, "float32").shape[0] == 6


CASES = [
    Sizes(),
    Sizes(bits=8),
    Sizes(bits=8, lut="float32"),
    Sizes(lut="float32", metric="ip"),
    Sizes(m=33, width=1, dim=33),
    Sizes(m=1, width=1, dim=1, bits=8),
    Sizes(m=70, width=2, dim=139, metric="cosine"),
]


@pytest.mark.parametrize("sizes", CASES, ids=str)
@pytest.mark.parametrize("blocks", [1, 3])
def test_the_best_rows_of_the_probed_lists_are_numpys(
    card: Card, rng: np.random.Generator, sizes: Sizes, blocks: int
) -> None:
    codec = made_codec(rng, sizes)
    contents = made_contents(rng, codec, [0, 45, 700, 1, 129])
    search = Search(card, codec, contents, (3, 4, 17), blocks)
    check(search, queries(rng, codec, 3), all_allowed(len(contents)))


def test_a_thousand_and_twenty_four_results_come_in_order(
    card: Card, rng: np.random.Generator
) -> None:
    codec = made_codec(rng, Sizes(m=4, width=2, dim=8))
    contents = made_contents(rng, codec, [900, 1500, 0, 31, 300])
    search = Search(card, codec, contents, (1, 5, 1024), 3)
    check(search, queries(rng, codec, 1), all_allowed(len(contents)))


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5])
def test_only_allowed_rows_are_found(card: Card, rng: np.random.Generator, share: float) -> None:
    codec = made_codec(rng, Sizes())
    contents = made_contents(rng, codec, [200, 333, 64, 32, 5])
    flags = rng.random(len(contents)) < share
    allowed = np.pad(np.packbits(flags, bitorder="little"), (0, 8))
    search = Search(card, codec, contents, (2, 5, 40), 2)
    check(search, queries(rng, codec, 2), allowed)
    ids, scores = search.scan(allowed)
    assert set(ids[ids >= 0]) <= set(np.flatnonzero(flags))
    assert np.isinf(scores[ids < 0]).all()


def test_equal_scores_come_in_the_order_of_row_ids(card: Card, rng: np.random.Generator) -> None:
    codec = made_codec(rng, Sizes())
    contents = made_contents(rng, codec, [150, 150, 150, 150, 150])
    contents.codes[:], contents.bias[:], contents.gain[:] = 7, 0, 1
    search = Search(card, codec, contents, (1, 1, 100), 2)
    placed = queries(rng, codec, 1)
    search.begin(placed)
    ids, _ = search.scan(all_allowed(len(contents)))
    own = np.sort(contents.row_ids[contents.list_ids == search.probes[0, 0]])
    np.testing.assert_array_equal(ids[0], own[:100])


def test_nan_scores_count_as_infinite_and_come_last(card: Card, rng: np.random.Generator) -> None:
    codec = made_codec(rng, Sizes(nlist=1))
    contents = made_contents(rng, codec, [50])
    contents.bias[10:20] = np.nan
    search = Search(card, codec, contents, (1, 1, 60), 1)
    search.begin(queries(rng, codec, 1))
    ids, scores = search.scan(all_allowed(50))
    np.testing.assert_array_equal(ids[0, 40:50], contents.row_ids[10:20])
    assert np.isposinf(scores[0, 40:]).all()
    assert (ids[0, 50:] == -1).all()


def test_queries_far_from_the_data_scan_nothing(card: Card, rng: np.random.Generator) -> None:
    codec = made_codec(rng, Sizes())
    search = Search(card, codec, made_contents(rng, codec, [50] * 5), (2, 3, 5), 2)
    search.begin(queries(rng, codec, 2), near=False)
    ids, scores = search.scan(all_allowed(250))
    assert (ids == -1).all()
    assert np.isposinf(scores).all()


def test_empty_lists_give_nothing(card: Card, rng: np.random.Generator) -> None:
    codec = made_codec(rng, Sizes())
    search = Search(card, codec, made_contents(rng, codec, [0, 0, 0, 0, 2]), (1, 5, 3), 2)
    check(search, queries(rng, codec, 1), all_allowed(2))


def test_more_probed_lists_than_a_warp_looks_at_together(
    card: Card, rng: np.random.Generator
) -> None:
    codec = made_codec(rng, Sizes(nlist=100, m=4, width=2, dim=8))
    lengths = [int(n) for n in rng.integers(0, 40, 100) * rng.integers(0, 2, 100)]
    contents = made_contents(rng, codec, lengths)
    search = Search(card, codec, contents, (2, 97, 20), 2)
    check(search, queries(rng, codec, 2), all_allowed(len(contents)))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("lut", ["float16", "float32"])
def test_tables_too_large_for_shared_memory_are_read_where_they_lie(
    rng: np.random.Generator, bits: int, lut: str
) -> None:
    device = EmulatedDevice(schedule="reverse", shared_bytes=12 << 10)
    card = Card(device)
    codec = made_codec(rng, Sizes(m=40, width=1, dim=40, bits=bits, lut=lut))  # type: ignore[arg-type]
    contents = made_contents(rng, codec, [100, 50, 3, 0, 20])
    search = Search(card, codec, contents, (1, 3, 5), 2)
    check(search, queries(rng, codec, 1), all_allowed(len(contents)))
    assert device.launched[-1].name == f"scan_slices<{bits}, float, false>"


@pytest.mark.parametrize("bits", [4, 8])
def test_all_scores_of_a_query_can_be_had(card: Card, rng: np.random.Generator, bits: int) -> None:
    codec = made_codec(rng, Sizes(bits=bits))  # type: ignore[arg-type]
    contents = made_contents(rng, codec, [200, 333, 64, 0, 5])
    search = Search(card, codec, contents, (2, 5, 602), 1)
    placed = queries(rng, codec, 2)
    search.begin(placed)
    allowed = all_allowed(len(contents))
    _, wanted = search.expected(placed, allowed)
    spans = card.get(search.scratch.spans, (2, 6, 4), np.int32)
    groups = int(spans[1, 5, 0])
    keys = scan_slices.KeysOf(1, groups, card.room(8 * 32 * groups))
    bitmap = card.put(allowed)
    queue, view, lists = card.queue, search.view, search.lists.view
    scan_slices.score_all(queue, view, lists, bitmap, search.shape, search.scratch, keys)
    found = np.sort(card.get(keys.address, (32 * groups,), np.uint64))
    assert (found[602:] == np.uint64(2**64 - 1)).all()
    ordered = (found[:602] >> np.uint64(32)).astype(np.uint32)
    raw = np.where(ordered >> 31, ordered ^ np.uint32(1 << 31), ~ordered).astype(np.uint32)
    np.testing.assert_allclose(raw.view(np.float32), wanted[1], rtol=1e-4, atol=1e-3)


def test_searches_leave_their_memory_ready_for_the_next(
    card: Card, rng: np.random.Generator
) -> None:
    codec = made_codec(rng, Sizes())
    contents = made_contents(rng, codec, [100] * 5)
    search = Search(card, codec, contents, (2, 3, 9), 3)
    for _ in range(2):
        check(search, queries(rng, codec, 2), all_allowed(500))
