"""Search among the few rows that a filter keeps: compare them, and score nothing.

Which rows those are is read off the bitmap; which of them lie in a query's nearest lists is looked
up in an array of every row's list. Rows in no list (the tail, rows set aside) always count.
"""

from __future__ import annotations

from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from llvmlite import ir
from numba import types

from gpu.arrays import F32, I32, I64, U8
from gpu.backend import Depth, Filtered
from gpu.hits import SearchResult
from gpu.matching import Way, cheapest

from .coarse import choose_roughly
from .jit import compiled, emitted
from .layout import BLOCK, BLOCK_BYTES, DIM, IDS_AT, LENGTHS_AT, NLIST, RAW_BYTES
from .lists import BlockLists
from .memory import Described
from .place import place
from .rerank import nearest_of, room_for_query
from .simd import I1, function, hold, peek_i32, peek_i64
from .simd import I64 as WORD
from .threads import FEWEST_QUERIES, parts, run

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
    codec: int,
    rows: int,
    queries: F32,
    matches: I32,
    list_of: I32,
    nprobe: int,
    ids: I64,
    distances: F32,
) -> bool:
    """Write the k nearest i64[n, k], f32[n, k] of i32[m] rows that are in no list or a near one.

    Queries f32[n, d] as they came. nprobe = 0: all rows. False: one is too far out for lists.
    """
    n, k = ids.shape
    nlist, dim = peek_i64(codec + 8 * NLIST), peek_i64(codec + 8 * DIM)
    placed, far = np.empty((n, dim), np.float32), np.empty(n, np.uint8)
    probes, constants = np.empty((n, nprobe), np.int32), np.empty((n, nprobe), np.float32)
    if nprobe:
        place(codec, queries.ctypes.data, n, placed.ctypes.data, far.ctypes.data)
        if far.any():
            return False
        at, at_constants = probes.ctypes.data, constants.ctypes.data
        choose_roughly(codec, placed.ctypes.data, n, nprobe, 0, at, at_constants)
    values, names = np.empty(len(matches) + 16, np.float32), np.empty(len(matches) + 16, np.int32)
    room, wanted = np.empty(room_for_query(queries.shape[1]), np.float32), np.zeros(nlist, np.uint8)
    for i in range(n):
        for t in range(nprobe):
            wanted[probes[i, t]] = 1
        found = 0
        for j in range(len(matches)):
            row_id = matches[j]
            number = list_of[row_id] if row_id < len(list_of) else np.int32(-1)
            names[found] = row_id
            found += 1 if number < 0 or wanted[number] else 0
        for t in range(nprobe):
            wanted[probes[i, t]] = 0
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
    hold(placed, far, probes, constants, values, names, room)
    return True


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

    def __init__(self, threads: int) -> None:
        self._threads, self._numbers = threads, ListNumbers()

    def search(
        self, lists: BlockLists, raw: Described, queries: F32, depth: Depth, filtered: Filtered
    ) -> SearchResult | None:
        """See ``Backend.search_matches``; queries f32[q, d] as kernels read them."""
        nlist = lists.codec.nlist
        nprobe = min(depth.nprobe, nlist)
        way = cheapest(
            filtered.matches,
            filtered.live_rows,
            nprobe / nlist,
            int(raw.values[RAW_BYTES]),
            int(lists.prepared.values[BLOCK_BYTES]) // BLOCK,
            depth.rerank,
        )
        if way is Way.LISTS:
            return None
        matches = matches_of(filtered.allowed, filtered.n_rows, filtered.matches)
        near, list_of = 0, NO_NUMBERS
        if way is Way.NEAR_MATCHES:
            near, list_of = nprobe, self._numbers.of(lists, filtered.n_rows)
        places = lists.prepared.at, raw.at
        found = self._compare(places, queries, depth.k, matches, list_of, near)
        if found is not None and near and not found.full:
            open_ = np.flatnonzero(found.ids[:, -1] < 0)
            rest = self._compare(places, queries[open_], depth.k, matches, NO_NUMBERS, 0)
            if rest is not None:
                found.ids[open_], found.distances[open_] = rest.ids, rest.distances
        # NaN: a query or a row without a direction; the full way knows what becomes of them.
        return None if found is None or np.isnan(found.distances).any() else found

    def _compare(
        self,
        places: tuple[int, int],
        queries: F32,
        k: int,
        matches: I32,
        list_of: I32,
        nprobe: int,
    ) -> SearchResult | None:
        """Return the nearest of the matches; None where a query is too far out for lists."""
        n, (codec_at, raw_at) = len(queries), places
        ids, distances = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
        if n < 2 * FEWEST_QUERIES:
            near = nearest_matches(
                codec_at, raw_at, queries, matches, list_of, nprobe, ids, distances
            )
            return SearchResult(ids, distances) if near else None
        answered: list[bool] = []

        def work(part: slice) -> None:
            out = ids[part], distances[part]
            answered.append(
                nearest_matches(codec_at, raw_at, queries[part], matches, list_of, nprobe, *out)
            )

        run(work, parts(n, MOST_QUERIES, self._threads), self._threads)
        return SearchResult(ids, distances) if all(answered) else None
