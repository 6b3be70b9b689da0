"""Search among the few rows that a filter keeps: compare them, and score nothing.

Which rows those are is read off the bitmap once, and ordered by list once, with the help of an
array of every row's list. Rows in no list (the tail, rows set aside) always count.
"""

from __future__ import annotations

from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from llvmlite import ir
from numba import types

from gpu.arrays import F32, I32, I64, U8
from gpu.backend import Depth, Filtered
from gpu.hits import SearchResult
from gpu.matching import Way, cheapest

from .coarse import choose_roughly
from .jit import compiled, emitted
from .layout import BLOCK, BLOCK_BYTES, DIM, IDS_AT, LENGTHS_AT, RAW_BYTES
from .lists import BlockLists
from .memory import Described
from .place import place
from .rerank import nearest_of, room_for_query
from .simd import I1, function, hold, peek_i32, peek_i64
from .simd import I64 as WORD
from .threads import FEWEST_QUERIES, parts, run

#: Queries of one call of a kernel.
MOST_QUERIES = 1024
#: Depths remembered for one filter's matches; services use a handful.
MOST_WAYS = 64
NO_STARTS: I32 = np.zeros(2, np.int32)


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
def group_by_list(matches: I32, list_of: I32, starts: I32, out: I32) -> None:
    """Write matches i32[m] ordered by list to ``out``, and where each list's begin.

    ``starts`` i32[L + 2], zeros: rows in no list are [0, starts[1]), those of list l are
    [starts[l + 1], starts[l + 2]).
    """
    for j in range(len(matches)):
        row_id = matches[j]
        starts[(list_of[row_id] if row_id < len(list_of) else -1) + 1] += 1
    before = 0
    for group in range(len(starts)):
        size = starts[group]
        starts[group] = before
        before += size
    # What follows moves each start to its end, which is the start of the next.
    for j in range(len(matches)):
        row_id = matches[j]
        group = (list_of[row_id] if row_id < len(list_of) else -1) + 1
        out[starts[group]] = row_id
        starts[group] += 1
    for group in range(len(starts) - 1, 0, -1):
        starts[group] = starts[group - 1]
    starts[0] = 0


@compiled
def _take(grouped: I32, first: int, last: int, names: I32, found: int) -> int:
    """Copy grouped[first:last] behind the ``found`` names there are; return how many there are."""
    for j in range(first, last):
        names[found] = grouped[j]
        found += 1
    return found


@compiled
def nearest_matches(
    codec: int,
    rows: int,
    queries: F32,
    grouped: I32,
    starts: I32,
    nprobe: int,
    ids: I64,
    distances: F32,
) -> bool:
    """Write the k nearest i64[n, k], f32[n, k] of the rows that are in no list or in a near one.

    Queries f32[n, d] as they came; rows and starts as of ``group_by_list``. nprobe = 0, or too few
    near rows: of all. False: a query is too far out for lists, or a distance is NaN.
    """
    n, k = ids.shape
    dim, n_rows = peek_i64(codec + 8 * DIM), len(grouped)
    placed, far = np.empty((n, dim), np.float32), np.empty(n, np.uint8)
    probes, constants = np.empty((n, nprobe), np.int32), np.empty((n, nprobe), np.float32)
    if nprobe:
        place(codec, queries.ctypes.data, n, placed.ctypes.data, far.ctypes.data)
        if far.any():
            return False
        at, at_constants = probes.ctypes.data, constants.ctypes.data
        choose_roughly(codec, placed.ctypes.data, n, nprobe, 0, at, at_constants)
    values, names = np.empty(n_rows + 16, np.float32), np.empty(n_rows + 16, np.int32)
    room = np.empty(room_for_query(queries.shape[1]), np.float32)
    told = True
    for i in range(n):
        found = 0
        if nprobe:
            found = _take(grouped, 0, starts[1], names, found)
            for t in range(nprobe):
                group = probes[i, t] + 1
                found = _take(grouped, starts[group], starts[group + 1], names, found)
        if found < min(k, n_rows):
            found = _take(grouped, 0, n_rows, names, 0)
        told &= nearest_of(
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
    return told


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


class _Matches:
    """Of one filter's matches in one version of lists: how to search among them, and their order.

    Everything is worked out when it is first asked for, and kept.
    """

    def __init__(self, lists: BlockLists, filtered: Filtered) -> None:
        self._lists, self._n_rows = ref(lists), filtered.n_rows
        self._ways: dict[Depth, Way] = {}
        self._rows: I32 | None = None
        self._grouped: tuple[I32, I32] | None = None

    def are_of(self, lists: BlockLists, filtered: Filtered) -> bool:
        """Whether they belong to these lists and this many rows."""
        return self._lists() is lists and self._n_rows == filtered.n_rows

    def way(self, lists: BlockLists, raw: Described, depth: Depth, filtered: Filtered) -> Way:
        """Return how a search of this depth goes about it."""
        known = self._ways.get(depth)
        if known is None:
            probed = min(1.0, depth.nprobe / lists.codec.nlist)
            row_bytes = int(raw.values[RAW_BYTES])
            code_bytes = int(lists.prepared.values[BLOCK_BYTES]) // BLOCK
            rows, many = filtered.live_rows, filtered.matches
            known = cheapest(many, rows, probed, row_bytes, code_bytes, depth.rerank)
            if len(self._ways) < MOST_WAYS:
                self._ways[depth] = known
        return known

    def rows(self, filtered: Filtered) -> I32:
        """Return all matches, i32[m]."""
        if self._rows is None:
            self._rows = matches_of(filtered.allowed, filtered.n_rows, filtered.matches)
        return self._rows

    def grouped(
        self, lists: BlockLists, filtered: Filtered, numbers: ListNumbers
    ) -> tuple[I32, I32]:
        """Return the matches ordered by list, i32[m], and where each list's begin, i32[L + 2]."""
        if self._grouped is None:
            rows = self.rows(filtered)
            starts, out = np.zeros(lists.codec.nlist + 2, np.int32), np.empty_like(rows)
            group_by_list(rows, numbers.of(lists, filtered.n_rows), starts, out)
            self._grouped, self._rows = (out, starts), out
        return self._grouped


class MatchSearch:
    """Searches among a filter's matches.

    Remembers which list each row is in, and of each bitmap what ``_Matches`` does: a filter that
    is asked for again and again costs a search no more than its comparisons. That goes with the
    bitmap, which the mask keeps (gpu/mask.py).
    """

    def __init__(self, threads: int) -> None:
        self._threads, self._numbers = threads, ListNumbers()
        self._known: dict[int, tuple[ref[U8], _Matches]] = {}

    def search(
        self, lists: BlockLists, raw: Described, queries: F32, depth: Depth, filtered: Filtered
    ) -> SearchResult | None:
        """See ``Backend.search_matches``; queries f32[q, d] as kernels read them."""
        matches = self._of(lists, filtered)
        way = matches.way(lists, raw, depth, filtered)
        if way is Way.LISTS:
            return None
        places = lists.prepared.at, raw.at
        if way is Way.ALL_MATCHES:
            return self._compare(places, queries, depth.k, (matches.rows(filtered), NO_STARTS), 0)
        nprobe = min(depth.nprobe, lists.codec.nlist)
        grouped = matches.grouped(lists, filtered, self._numbers)
        return self._compare(places, queries, depth.k, grouped, nprobe)

    def _of(self, lists: BlockLists, filtered: Filtered) -> _Matches:
        """Return what is known of the bitmap, which is not copied: it is known by its address."""
        bits = filtered.allowed
        known = self._known.get(id(bits))
        if known is not None and known[0]() is bits and known[1].are_of(lists, filtered):
            return known[1]
        made, number = _Matches(lists, filtered), id(bits)

        def forget(dead: ref[U8]) -> None:
            now = self._known.get(number)
            if now is not None and now[0] is dead:
                self._known.pop(number, None)

        self._known[number] = ref(bits, forget), made
        return made

    def _compare(
        self,
        places: tuple[int, int],
        queries: F32,
        k: int,
        grouped: tuple[I32, I32],
        nprobe: int,
    ) -> SearchResult | None:
        """Return the nearest of the matches; None where the full way has to look."""
        n = len(queries)
        ids, distances = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
        if n < 2 * FEWEST_QUERIES:
            told = nearest_matches(*places, queries, *grouped, nprobe, ids, distances)
            return SearchResult(ids, distances) if told else None
        answered: list[bool] = []

        def work(part: slice) -> None:
            out = ids[part], distances[part]
            answered.append(nearest_matches(*places, queries[part], *grouped, nprobe, *out))

        run(work, parts(n, MOST_QUERIES, self._threads), self._threads)
        return SearchResult(ids, distances) if all(answered) else None
