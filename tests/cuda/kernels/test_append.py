"""Rows into pages: what append and rewrite leave there is what NumPy puts there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpu.cuda import append
from gpu.cuda.append import Kept, ListRange, NewRows
from gpu.cuda.layout import PAGE_ROWS
from gpu.encoding import ListContents
from tests.cuda.kernels.cards import Card
from tests.cuda.kernels.codecs import PagedLists, Sizes, made_codec, made_contents, slots_of

LENGTHS = [0, 45, 257, 1, 128]
CASES = [Sizes(), Sizes(bits=8), Sizes(m=33, width=1, dim=33), Sizes(m=80, width=1, dim=80)]


def put(card: Card, rows: ListContents, slots: np.ndarray) -> NewRows:
    addresses = (
        rows.list_ids,
        slots.astype(np.int32),
        rows.row_ids.astype(np.int32),
        rows.codes,
        rows.bias,
        rows.gain,
    )
    return NewRows(len(rows), *(card.put(array) for array in addresses))


def in_pages(card: Card, lists: PagedLists) -> list[bytes]:
    """Return the rows of all lists as bytes, list by list."""
    layout = lists.layout
    size = int(np.max(lists.pages, initial=0)) - lists.slab + layout.page_bytes
    slab = card.get(lists.slab, (size,), np.uint8) if len(lists.pages) else np.empty(0, np.uint8)
    found = []
    for start, length in zip(lists.starts, lists.lengths, strict=True):
        for slot in range(length):
            page = int(lists.pages[start + slot // PAGE_ROWS]) - lists.slab
            group = slab[page + slot % PAGE_ROWS // 32 * layout.group_bytes :][: layout.group_bytes]
            lane, split = slot % 32, 512 * layout.chunks
            code = group[:split].reshape(-1, 32, 16)[:, lane]
            factors = group[split:]
            parts = (factors[2 * lane :][:2], factors[64 + 2 * lane :][:2])
            found.append(
                b"".join(p.tobytes() for p in (code, *parts, factors[128 + 4 * lane :][:4]))
            )
    return found


@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_appended_rows_lie_where_numpy_puts_them(
    card: Card, rng: np.random.Generator, sizes: Sizes
) -> None:
    codec = made_codec(rng, sizes)
    contents = made_contents(rng, codec, LENGTHS)
    wanted = PagedLists(card, codec, contents)
    empty = PagedLists(card, codec, contents)
    card.write(empty.slab, np.full(len(empty.pages) * empty.layout.page_bytes, 0x55, np.uint8))
    order = rng.permutation(len(contents))
    slots = slots_of(contents, codec.nlist)[order]
    rows = put(card, contents.take(order), slots)
    append.append_rows(card.queue, empty.layout, rows, empty.view)
    assert in_pages(card, empty) == in_pages(card, wanted)


@pytest.mark.parametrize("renumber", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sizes", CASES[:3], ids=str)
def test_a_rewrite_keeps_the_surviving_rows_in_their_order(
    card: Card, rng: np.random.Generator, sizes: Sizes, share: float, renumber: bool
) -> None:
    codec = made_codec(rng, sizes)
    contents = made_contents(rng, codec, LENGTHS)
    lists = PagedLists(card, codec, contents)
    flags = rng.random(len(contents)) < share
    bits = np.packbits(np.pad(flags, (0, -len(flags) % 32)), bitorder="little")
    ranks = np.concatenate([[0], np.cumsum(flags)])[::32][: len(bits) // 4].astype(np.int32)
    kept = Kept(card.put(bits), card.put(ranks) if renumber else 0)
    survivors = contents.take(flags[contents.row_ids])
    if renumber:
        survivors = replace(survivors, row_ids=(np.cumsum(flags) - 1)[survivors.row_ids])
    wanted = PagedLists(card, codec, survivors)
    target = PagedLists(card, codec, survivors)
    counts = card.room(4 * codec.nlist)
    if len(target.pages):
        card.write(target.slab, np.zeros(len(target.pages) * target.layout.page_bytes, np.uint8))
    append.survivors(card.queue, lists.layout, lists.view, codec.nlist, kept.bits, counts)
    np.testing.assert_array_equal(card.get(counts, codec.nlist, np.int32), wanted.lengths)
    for which in (ListRange(0, 2), ListRange(2, codec.nlist)):
        append.rewrite(card.queue, lists.layout, lists.view, which, kept, target.view)
    assert in_pages(card, target) == in_pages(card, wanted)
