"""The throughput scan finds what NumPy finds: filter, survivors, overflow."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.arrays import F32, I64, U8
from gpu.cuda import scan_tiles
from gpu.cuda.scan_tiles import TileScratch
from tests.cuda.emulator import EmulatedDevice
from tests.cuda.kernels.cards import Card
from tests.cuda.kernels.codecs import Sizes, all_allowed, made_codec, made_contents
from tests.cuda.kernels.searches import Search, check_found, queries


class TileSearch:
    """A search by tiles; ``room`` for survivors of a query."""

    def __init__(self, search: Search, *, room: int = 2048, sampled: int = 1) -> None:
        self.search, self.card = search, search.card
        size = TileScratch.at(0, search.view, search.shape, 1.0).nbytes
        base = self.card.room(size)
        made = TileScratch.at(base, search.view, search.shape, 1.0)
        self.card.write(base, np.zeros(made.zeroed_bytes, np.uint8))
        fields = {name: getattr(made, name) for name in TileScratch.__slots__}
        self.tiles = TileScratch(**{**fields, "room": room, "sampled": sampled})

    def scan(self, placed: F32, allowed: U8) -> tuple[I64, F32]:
        """Scan; return ids and scores."""
        search, card = self.search, self.card
        search.begin(placed)
        q, r = search.shape.queries, search.shape.limit
        at = (card.queue, search.view, search.lists.view, card.put(allowed))
        scan_tiles.scan_tiles(*at, search.shape, search.scratch, self.tiles)
        ids = card.get(search.scratch.ids, (q, r), np.int64)
        return ids, card.get(search.scratch.scores, (q, r), np.float32)

    def survivors(self) -> I64:
        """Return how many rows passed the filter for each query."""
        q = self.search.shape.queries
        return self.card.get(self.tiles.counts, q, np.int32).astype(np.int64)


CASES = [
    Sizes(m=16, width=2, dim=32),
    Sizes(m=16, width=2, dim=32, bits=8, metric="cosine"),
    Sizes(m=13, width=5, dim=65, metric="ip"),
    Sizes(m=40, width=1, dim=40, bits=8, lut="float32"),
    Sizes(m=1, width=1, dim=1),
    Sizes(m=3, width=67, dim=200),
]


@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_tiles_find_what_numpy_finds(card: Card, rng: np.random.Generator, sizes: Sizes) -> None:
    codec = made_codec(rng, sizes)
    contents = made_contents(rng, codec, [0, 45, 300, 1, 129])
    search = Search(card, codec, contents, (9, 4, 20), 2)
    tiled = TileSearch(search)
    placed, allowed = queries(rng, codec, 9), all_allowed(len(contents))
    ids, scores = tiled.scan(placed, allowed)
    check_found(search, placed, allowed, ids, scores)


def test_more_queries_of_a_list_than_fit_into_one_tile(
    card: Card, rng: np.random.Generator
) -> None:
    codec = made_codec(rng, Sizes(m=8, width=2, dim=16, nlist=8))
    lengths = [int(n) for n in rng.integers(0, 150, 8)]
    contents = made_contents(rng, codec, lengths)
    search = Search(card, codec, contents, (90, 7, 10), 1)
    tiled = TileSearch(search, sampled=4)
    placed, allowed = queries(rng, codec, 90), all_allowed(len(contents))
    ids, scores = tiled.scan(placed, allowed)
    check_found(search, placed, allowed, ids, scores)
    assert np.median(tiled.survivors()) < len(contents) / 4  # The filter keeps most rows out.
    again, _ = tiled.scan(placed, allowed)
    np.testing.assert_array_equal(ids, again)


def test_only_allowed_rows_survive(card: Card, rng: np.random.Generator) -> None:
    codec = made_codec(rng, Sizes(m=8, width=2, dim=16))
    contents = made_contents(rng, codec, [200, 333, 64, 32, 5])
    flags = rng.random(len(contents)) < 0.1
    allowed = np.pad(np.packbits(flags, bitorder="little"), (0, 8))
    search = Search(card, codec, contents, (5, 5, 12), 1)
    tiled = TileSearch(search, sampled=2)
    placed = queries(rng, codec, 5)
    check_found(search, placed, allowed, *tiled.scan(placed, allowed))
    assert tiled.survivors().max() <= np.count_nonzero(flags)


def test_queries_with_too_many_survivors_are_scanned_the_other_way(
    card: Card, rng: np.random.Generator
) -> None:
    codec = made_codec(rng, Sizes(m=8, width=2, dim=16))
    contents = made_contents(rng, codec, [200, 333, 64, 32, 5])
    search = Search(card, codec, contents, (5, 5, 12), 2)
    tiled = TileSearch(search, room=30)
    placed, allowed = queries(rng, codec, 5), all_allowed(len(contents))
    ids, scores = tiled.scan(placed, allowed)
    check_found(search, placed, allowed, ids, scores)
    overflowed = card.get(tiled.tiles.overflowed, 5, np.int32)
    np.testing.assert_array_equal(overflowed != 0, tiled.survivors() > 30)
    assert overflowed.any()


def test_far_queries_have_no_pairs(card: Card, rng: np.random.Generator) -> None:
    codec = made_codec(rng, Sizes(m=8, width=2, dim=16))
    search = Search(card, codec, made_contents(rng, codec, [50] * 5), (3, 2, 4), 1)
    tiled = TileSearch(search)
    search.begin(queries(rng, codec, 3), near=False)
    at = (card.queue, search.view, search.lists.view, card.put(all_allowed(250)))
    scan_tiles.scan_tiles(*at, search.shape, search.scratch, tiled.tiles)
    assert (card.get(search.scratch.ids, (3, 4), np.int64) == -1).all()


def test_tiles_pay_from_sixteen_queries_a_list_on_ampere_and_newer(
    rng: np.random.Generator,
) -> None:
    codec = made_codec(rng, Sizes())
    for capability, q, pays in ((80, 40, True), (80, 39, False), (75, 400, False)):
        card = Card(EmulatedDevice(compute_capability=capability))
        contents = made_contents(rng, codec, [9] * 5)
        search = Search(card, codec, contents, (q, 2, 4), 1)
        assert scan_tiles.pays(card.queue, search.view, search.shape) == pays
