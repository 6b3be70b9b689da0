"""Search among the few rows that a filter keeps: compare them, and score nothing.

Which rows those are is read off the bitmap; which of them lie in a query's nearest lists is looked
up in an array of every row's list. Rows in no list (the tail, rows set aside) always count.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from llvmlite import ir
from numba import types

from gpu.arrays import F32, I32, I64, U8
from gpu.backend import Depth, Filtered
from gpu.codec import Codec
from gpu.hits import SearchResult
from gpu.matching import Way, cheapest

from .jit import compiled, emitted
from .layout import BLOCK, BLOCK_BYTES, IDS_AT, LENGTHS_AT, RAW_BYTES
from .lists import BlockLists
from .memory import Described, address
from .place import place
from .prepared import describe
from .rerank import nearest_of, room_for_query
from .simd import I1, function, hold, peek_i32, peek_i64
from .simd import I64 as WORD
from .threads import parts, run

#: Queries of one call of a kernel.
MOST_QUERIES = 1024
NO_NUMBERS: I32 = np.empty(0, np.int32)


@emitted
def _lowest(typing: Any, word: Any) -> Any:
    """Return the place of the lowest 1 of a word that is not 0."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        count = function(b, "llvm.cttz.i64", WORD, [WORD, I1])
        return b.call(count, [args[0], ir.Constant(I1, 1)])

    return types.uint64(types.uint64), emit


@compiled
def write_matches(words: Any, out: I32) -> int:
    """Write the places of all 1s of u64[n] to i32[matches], ascending; return how many."""
    found = 0
    for i in range(len(words)):
        word = words[i]
        while word != 0:
            out[found] = np.int32(64 * i + np.int64(_lowest(word)))
            found += 1
            word &= word - np.uint64(1)
    return found


@compiled
def write_list_numbers(lists: int, nlist: int, out: I32) -> None:
    """Write the list of each row that is in one to i32[n]."""
    for number in range(nlist):
        ids = peek_i64(peek_i64(lists + 8 * IDS_AT) + 8 * number)
        for i in range(peek_i64(peek_i64(lists + 8 * LENGTHS_AT) + 8 * number)):
            row_id = peek_i32(ids + 4 * i)
            if row_id < len(out):
                out[row_id] = np.int32(number)


@compiled
def nearest_matches(
    rows: int,
    queries: F32,
    matches: I32,
    list_of: I32,
    probes: I32,
    nlist: int,
    ids: I64,
    distances: F32,
) -> None:
    """Write the k nearest i64[n, k], f32[n, k] of i32[m] rows in the lists i32[n, p] or in none.

    p = 0: of all of them.
    """
    n, k = ids.shape
    values, names = np.empty(len(matches) + 16, np.float32), np.empty(len(matches) + 16, np.int32)
    room, wanted = np.empty(room_for_query(queries.shape[1]), np.float32), np.empty(nlist, np.uint8)
    everything = probes.shape[1] == 0
    for i in range(n):
        found = 0
        if everything:
            found = len(matches)
            names[:found] = matches
        else:
            wanted[:] = 0
            for t in range(probes.shape[1]):
                wanted[probes[i, t]] = 1
            for j in range(len(matches)):
                row_id = matches[j]
                number = list_of[row_id] if row_id < len(list_of) else np.int32(-1)
                names[found] = row_id
                found += 1 if number < 0 or wanted[number] else 0
        nearest_of(
            rows,
            queries[i].ctypes.data,
            room.ctypes.data,
            values.ctypes.data,
            names.ctypes.data,
            found,
            k,
            ids[i].ctypes.data,
            distances[i].ctypes.data,
        )
    hold(values, names, room)


def matches_of(allowed: U8, n_rows: int, n_matches: int) -> I32:
    """Return the rows below ``n_rows`` that a packed bitmap has set, i32[n_matches]."""
    words = np.zeros((n_rows + 63) >> 6, np.uint64)
    n_bytes = (n_rows + 7) >> 3
    words.view(np.uint8)[:n_bytes] = allowed[:n_bytes]
    if n_rows & 63:
        words[-1] &= np.uint64((1 << (n_rows & 63)) - 1)
    out = np.empty(n_matches, np.int32)
    write_matches(words, out)
    return out


class ListNumbers:
    """Remembers the list of each row, for each version of lists that is searched this way."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[BlockLists, I32] = WeakKeyDictionary()
        self._lock = Lock()

    def of(self, lists: BlockLists, n_rows: int) -> I32:
        """Return i32[rows], -1 for rows in no list; rows past its end are in none either."""
        known = self._known.get(lists)
        if known is not None:
            return known
        numbers = np.full(n_rows, -1, np.int32)
        write_list_numbers(lists.described.at, lists.codec.nlist, numbers)
        with self._lock:
            self._known[lists] = numbers
        return numbers


class MatchSearch:
    """Searches among a filter's matches; remembers which list each row is in."""

    def __init__(
        self, threads: int, choose_lists: Callable[[Codec, F32, int], tuple[I32, F32]]
    ) -> None:
        self._threads, self._numbers = threads, ListNumbers()
        self._choose_lists = choose_lists

    def search(
        self, lists: BlockLists, raw: Described, queries: F32, depth: Depth, filtered: Filtered
    ) -> SearchResult | None:
        """See ``Backend.search_matches``; queries f32[q, d] as kernels read them."""
        way = self._way(lists, raw, depth, filtered)
        if way is Way.LISTS:
            return None
        probes = np.empty((len(queries), 0), np.int32)
        if way is Way.NEAR_MATCHES:
            placed = _placed(lists.codec, queries)
            if placed is None:
                return None
            probes, _ = self._choose_lists(lists.codec, placed, depth.nprobe)
        matches = matches_of(filtered.allowed, filtered.n_rows, filtered.matches)
        found = self._compare(lists, raw, queries, depth.k, matches, probes, filtered.n_rows)
        open_ = np.flatnonzero(found.ids[:, -1] < 0)
        if len(open_) and probes.shape[1]:
            rest = self._compare(
                lists, raw, queries[open_], depth.k, matches, probes[open_, :0], filtered.n_rows
            )
            found.ids[open_], found.distances[open_] = rest.ids, rest.distances
        return None if np.isnan(found.distances).any() else found

    def _way(self, lists: BlockLists, raw: Described, depth: Depth, filtered: Filtered) -> Way:
        row_bytes = int(raw.values[RAW_BYTES])
        block_bytes = int(lists.prepared.values[BLOCK_BYTES])
        probed = min(1.0, depth.nprobe / lists.codec.nlist)
        return cheapest(
            filtered.matches,
            filtered.live_rows,
            probed,
            row_bytes,
            block_bytes // BLOCK,
            depth.rerank,
        )

    def _compare(
        self,
        lists: BlockLists,
        raw: Described,
        queries: F32,
        k: int,
        matches: I32,
        probes: I32,
        n_rows: int,
    ) -> SearchResult:
        n = len(queries)
        list_of = self._numbers.of(lists, n_rows) if probes.shape[1] else NO_NUMBERS
        ids, distances = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
        nlist, at = lists.codec.nlist, raw.at

        def work(part: slice) -> None:
            nearest_matches(
                at,
                queries[part],
                matches,
                list_of,
                np.ascontiguousarray(probes[part]),
                nlist,
                ids[part],
                distances[part],
            )

        run(work, parts(n, MOST_QUERIES, self._threads), self._threads)
        return SearchResult(ids, distances)


def _placed(codec: Codec, queries: F32) -> F32 | None:
    """Return the queries f32[q, D] as lists see them; None when one is too far out for them."""
    n = len(queries)
    placed, far = np.empty((n, codec.dim), np.float32), np.empty(n, np.uint8)
    place(describe(codec).at, address(queries), n, address(placed), address(far))
    return None if far.any() else placed
