"""Made-up codecs and list contents, and how lists lie on a card, written anew in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpu.arrays import I64, U8
from gpu.codec import Codec
from gpu.cuda.layout import GROUP_ROWS, PAGE_ROWS, ListLayout, ListsView
from gpu.encoding import ListContents
from gpu.lists import SegmentedLists
from gpu.params import Metric
from gpu.pq import LutType, code_bytes
from tests.cuda.kernels.cards import Card


@dataclass(frozen=True)
class Sizes:
    """What a made-up codec is like; ``dim`` may be less than m * width (padding)."""

    dim: int = 24
    nlist: int = 5
    m: int = 6
    width: int = 4
    bits: Literal[4, 8] = 4
    metric: Metric = "l2"
    lut: LutType = "float16"
    rotated: bool = False


def made_codec(rng: np.random.Generator, sizes: Sizes) -> Codec:
    """Return a codec of these sizes; values are of the usual magnitude."""
    placed, nlist = sizes.m * sizes.width, sizes.nlist
    rotation = None
    if sizes.rotated:
        square, _ = np.linalg.qr(rng.standard_normal((placed, placed)))
        rotation = np.ascontiguousarray(square[: sizes.dim], np.float32)
    centroids = rng.standard_normal((nlist, placed)).astype(np.float32)
    if rotation is None:
        centroids[:, sizes.dim :] = 0
    else:  # Means of rotated rows lie where rotated rows lie.
        centroids = centroids[:, : sizes.dim] @ rotation
    return Codec(
        metric=sizes.metric,
        bits=sizes.bits,
        scale=0.5,
        query_norm=float(np.float32(np.sqrt(placed))),
        use_gain=True,
        lut=sizes.lut,
        centre=np.zeros(sizes.dim, np.float32)
        if sizes.metric == "ip"
        else rng.standard_normal(sizes.dim).astype(np.float32),
        rotation=rotation,
        centroids=centroids,
        sigma=rng.uniform(0.3, 1, nlist).astype(np.float32),
        bias_mean=rng.standard_normal(nlist).astype(np.float32),
        bias_unit=np.ldexp(np.float32(1), rng.integers(-4, 1, nlist)).astype(np.float32),
        codebooks=rng.standard_normal((sizes.m, 1 << sizes.bits, sizes.width)).astype(np.float32),
    )


def made_contents(rng: np.random.Generator, codec: Codec, lengths: list[int]) -> ListContents:
    """Return lists of these lengths with random codes; row ids are spread over all lists."""
    n = sum(lengths)
    codes = rng.integers(0, 256, (n, code_bytes(codec.m, codec.bits)), np.uint8)
    if codec.bits == 4 and codec.m % 2:
        codes[:, -1] &= 15
    lists = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    ids = rng.permutation(n).astype(np.int64)
    order = np.lexsort((ids, lists))
    return ListContents(
        lists,
        ids[order],
        codes,
        rng.standard_normal(n).astype(np.float16),
        rng.uniform(0.5, 4, n).astype(np.float16),
    )


class PagedLists:
    """Contents in pages on a card, in a shuffled order of pages; ``spare`` more pages behind."""

    def __init__(self, card: Card, codec: Codec, contents: ListContents, *, spare: int = 0) -> None:
        self.layout = ListLayout(codec.bits, codec.m)
        self.lengths = np.bincount(contents.list_ids, minlength=codec.nlist).astype(np.int32)
        counts = np.array([self.layout.pages(int(n)) for n in self.lengths])
        self.starts = np.concatenate([[0], np.cumsum(counts)])[: codec.nlist].astype(np.int32)
        n_pages = int(counts.sum()) + spare
        slab = np.full((max(n_pages, 1), self.layout.page_bytes), 0xEE, np.uint8)
        places = np.random.default_rng(n_pages).permutation(n_pages)
        slots = slots_of(contents, codec.nlist)
        for i in range(len(contents)):
            number = self.starts[contents.list_ids[i]] + slots[i] // PAGE_ROWS
            self._write(slab[places[number]], int(slots[i]), contents, i)
        self.slab = card.put(slab)
        self.pages = self.slab + places.astype(np.uint64) * np.uint64(self.layout.page_bytes)
        table = self.pages if len(self.pages) else np.zeros(1, np.uint64)
        self.view = ListsView(card.put(self.starts), card.put(self.lengths), card.put(table))

    def _write(self, page: U8, slot: int, rows: ListContents, i: int) -> None:
        layout = self.layout
        lane = slot % GROUP_ROWS
        group = page[slot % PAGE_ROWS // GROUP_ROWS * layout.group_bytes :][: layout.group_bytes]
        code = np.zeros(16 * layout.chunks, np.uint8)
        code[: layout.code_bytes] = rows.codes[i]
        chunks = group[: 512 * layout.chunks].reshape(layout.chunks, GROUP_ROWS, 16)
        chunks[:, lane] = code.reshape(-1, 16)
        factors = group[512 * layout.chunks :]
        factors[2 * lane :][:2] = rows.bias[i : i + 1].view(np.uint8)
        factors[64 + 2 * lane :][:2] = rows.gain[i : i + 1].view(np.uint8)
        factors[128 + 4 * lane :][:4] = rows.row_ids[i : i + 1].astype(np.int32).view(np.uint8)


def slots_of(contents: ListContents, nlist: int) -> I64:
    """Return which row of its list each row is."""
    starts = np.searchsorted(contents.list_ids, np.arange(nlist))
    slots: I64 = np.arange(len(contents)) - starts[contents.list_ids]
    return slots


def reference_lists(codec: Codec, contents: ListContents) -> SegmentedLists:
    """Return NumPy's lists with these contents."""
    return SegmentedLists(codec).append(contents)


def all_allowed(n_rows: int) -> U8:
    """Return a bitmap that allows everything."""
    return np.full(max(4, (n_rows + 31) // 32 * 4), 0xFF, np.uint8)
