"""A search of made-up lists on a card, and what NumPy says it must find."""

from __future__ import annotations

import numpy as np

from gpu.arrays import F32, I64, U8
from gpu.codec import Codec
from gpu.cuda import coarse, scan_slices, tables
from gpu.cuda.layout import CodecView
from gpu.cuda.scratch import Scratch, SearchShape
from gpu.encoding import ListContents
from gpu.scan import choose_lists, scan
from tests.cuda.kernels.cards import Card
from tests.cuda.kernels.codecs import PagedLists, reference_lists


class Search:
    """A codec with lists on a card, and a search's memory there."""

    def __init__(
        self,
        card: Card,
        codec: Codec,
        contents: ListContents,
        shape: tuple[int, int, int],
        blocks: int,
    ) -> None:
        self.card, self.codec, self.contents = card, codec, contents
        self.view: CodecView = card.codec(codec)
        self.lists = PagedLists(card, codec, contents)
        q, p, r = shape
        self.shape = SearchShape(q, min(p, codec.nlist), r, blocks, 1, codec.nlist)
        self.scratch: Scratch = card.scratch(self.view, self.shape)

    def begin(self, placed: F32, near: bool = True) -> None:
        """Choose lists as NumPy does, make spans and tables."""
        shape, scratch = self.shape, self.scratch
        probes, constants = choose_lists(self.codec, placed, shape.nprobe)
        self.probes, self.constants = probes, constants
        width = self.view.stride - placed.shape[1]
        self.card.write(scratch.placed, np.pad(placed, ((0, 0), (0, width))))
        self.card.write(scratch.near, np.full(shape.queries, near, np.int32))
        self.card.write(scratch.probes, probes)
        self.card.write(scratch.constants, constants)
        coarse.prepare(self.card.queue, self.view, self.lists.view, shape, scratch)
        tables.make_tables(self.card.queue, self.view, shape.queries, scratch)

    def scan(self, allowed: U8) -> tuple[I64, F32]:
        """Scan; return ids and scores."""
        q, r = self.shape.queries, self.shape.limit
        bitmap = self.card.put(allowed)
        scan_slices.scan_slices(
            self.card.queue, self.view, self.lists.view, bitmap, self.shape, self.scratch
        )
        ids = self.card.get(self.scratch.ids, (q, r), np.int64)
        return ids, self.card.get(self.scratch.scores, (q, r), np.float32)

    def expected(self, placed: F32, allowed: U8) -> tuple[I64, F32]:
        """Return what NumPy finds."""
        lists = reference_lists(self.codec, self.contents)
        limit = self.shape.limit
        return scan(lists, placed, self.probes, self.constants, allowed, limit)


def check(search: Search, placed: F32, allowed: U8) -> None:
    """Compare a scan with NumPy's: equal scores, and equal ids but where scores are equal."""
    search.begin(placed)
    check_found(search, placed, allowed, *search.scan(allowed))


def check_found(search: Search, placed: F32, allowed: U8, ids: I64, scores: F32) -> None:
    """Compare what was found with what NumPy finds."""
    wanted_ids, wanted = search.expected(placed, allowed)
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(ids >= 0, wanted_ids >= 0)
    known = np.where(np.isinf(wanted), np.float32(1e30), wanted)
    far = np.abs(np.diff(known, axis=1, append=2e30, prepend=-1e30))
    alone = (far[:, :-1] > 1e-2) & (far[:, 1:] > 1e-2)
    np.testing.assert_array_equal(ids[alone], wanted_ids[alone])
    for found in ids:
        real = found[found >= 0]
        assert len(np.unique(real)) == len(real)


def queries(rng: np.random.Generator, codec: Codec, q: int) -> F32:
    """Return placed queries f32[q, D]."""
    return rng.standard_normal((q, codec.centroids.shape[1])).astype(np.float32)
