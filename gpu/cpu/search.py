"""Search over lists: query by query for few, list by list for many.

List by list, a list's codes are read from memory once for all queries that probe it. Each query's
two nearest lists go first: they give it a limit that keeps most of the rest out of its buffer.
"""

from __future__ import annotations

import numpy as np

from .coarse import choose
from .jit import compiled
from .layout import BITS, DIM, LIMITS_AT, MEAN_AT, NLIST, RAW_DIM, M
from .lut import byte_tables, float_tables
from .rerank import distance, load_query, nearest_of, room_for_query, square_of
from .scan import (
    FOUND,
    IDS,
    LIMIT,
    RECORD_BYTES,
    SCORES,
    SLACK,
    SMALLEST,
    STEP,
    TABLE,
    list_blocks,
    scan_list,
    soft_limit,
)
from .selection import BIG, shrink, sort
from .simd import hold, peek_f32, peek_i32, peek_i64, poke_f32, poke_i64

#: From this many queries on lists are visited once for all.
FEW = 4
#: Lists that give a query its first limit.
FIRST_LISTS = 2
#: Blocks of a list that stay in the first-level cache while queries take turns.
TILE = 32


@compiled
def _prepare(codec: int, queries: int, n: int, records: int, room: int, tables: int) -> int:
    """Write each query's byte table; return how many queries they are too coarse for."""
    dim, m = peek_i64(codec + 8 * DIM), peek_i64(codec + 8 * M)
    coarsest = peek_f32(peek_i64(codec + 8 * LIMITS_AT))
    coarse = 0
    for i in range(n):
        record = records + RECORD_BYTES * i
        table = tables + 64 * ((m + 3) >> 2) * i
        widest = float_tables(codec, queries + 4 * dim * i, room)
        if widest > np.float32(255) * coarsest:
            return n
        smallest, step = byte_tables(room, m, widest, table)
        poke_i64(record + 8 * TABLE, table)
        poke_f32(record + 4 * SMALLEST, smallest)
        poke_f32(record + 4 * STEP, step)
    return coarse


@compiled
def _prepare_precise(codec: int, queries: int, n: int, records: int, tables: int) -> None:
    """Write each query's float32 table."""
    dim, m = peek_i64(codec + 8 * DIM), peek_i64(codec + 8 * M)
    size = 4 * m << peek_i64(codec + 8 * BITS)
    for i in range(n):
        poke_i64(records + RECORD_BYTES * i + 8 * TABLE, tables + size * i)
        float_tables(codec, queries + 4 * dim * i, tables + size * i)


@compiled
def _one_by_one(
    codec: int,
    lists: int,
    n: int,
    probes: int,
    constants: int,
    p: int,
    records: int,
    precise: bool,
    allowed: int,
    keep: int,
) -> None:
    means = peek_i64(codec + 8 * MEAN_AT)
    for i in range(n):
        record = records + RECORD_BYTES * i
        for t in range(p * i, p * i + p):
            number = peek_i32(probes + 4 * t)
            base = peek_f32(constants + 4 * t) + peek_f32(means + 4 * number)
            blocks = list_blocks(lists, number)
            scan_list(codec, lists, number, record, base, precise, allowed, keep, 0, blocks)


@compiled
def _list_by_list(
    codec: int,
    lists: int,
    n: int,
    probes: int,
    constants: int,
    p: int,
    columns: tuple[int, int],
    records: int,
    precise: bool,
    allowed: int,
    keep: int,
) -> None:
    """Scan what columns [start, stop) of ``probes`` name, sorted by list."""
    start, stop = columns
    nlist, means = peek_i64(codec + 8 * NLIST), peek_i64(codec + 8 * MEAN_AT)
    ends = np.zeros(nlist + 1, np.int64)
    visits = np.empty(n * (stop - start), np.int64)
    for i in range(n):
        for t in range(p * i + start, p * i + stop):
            ends[peek_i32(probes + 4 * t) + 1] += 1
    for number in range(nlist):
        ends[number + 1] += ends[number]
    for i in range(n):
        for t in range(p * i + start, p * i + stop):
            number = peek_i32(probes + 4 * t)
            visits[ends[number]] = t
            ends[number] += 1
    first = 0
    for number in range(nlist):
        last, blocks = ends[number], list_blocks(lists, number)
        mean = peek_f32(means + 4 * number)
        if last > first:
            for tile in range(0, blocks, TILE):
                end = min(tile + TILE, blocks)
                for visit in range(first, last):
                    t = visits[visit]
                    record = records + RECORD_BYTES * (t // p)
                    base = peek_f32(constants + 4 * t) + mean
                    scan_list(codec, lists, number, record, base, precise, allowed, keep, tile, end)
        first = last


@compiled
def _scan_all(
    codec: int,
    lists: int,
    queries: int,
    n: int,
    probes: int,
    constants: int,
    p: int,
    allowed: int,
    keep: int,
    records: int,
) -> None:
    """Fill the records' buffers with the best rows, ``keep`` or a few more each."""
    m, bits = peek_i64(codec + 8 * M), peek_i64(codec + 8 * BITS)
    room = np.empty(m << bits, np.float32)
    byte_room = np.empty(n * 64 * ((m + 3) >> 2) + 64, np.uint8)
    aligned = (byte_room.ctypes.data + 63) & -64
    precise = _prepare(codec, queries, n, records, room.ctypes.data, aligned) > 0
    fine = np.empty(n * (m << bits) if precise else 1, np.float32)
    if precise:
        _prepare_precise(codec, queries, n, records, fine.ctypes.data)
    if n < FEW:
        _one_by_one(codec, lists, n, probes, constants, p, records, precise, allowed, keep)
        hold(room, byte_room, fine)
        return
    near = min(FIRST_LISTS, p)
    for phase in range(2):
        columns = (near, p) if phase else (0, near)
        _list_by_list(
            codec, lists, n, probes, constants, p, columns, records, precise, allowed, keep
        )
        for i in range(0 if phase else n):
            record = records + RECORD_BYTES * i
            found = peek_i64(record + 8 * FOUND)
            scores, ids = peek_i64(record + 8 * SCORES), peek_i64(record + 8 * IDS)
            found, limit = shrink(scores, ids, found, keep, keep >> 3)
            poke_i64(record + 8 * FOUND, found)
            poke_f32(record + 4 * LIMIT, min(limit, peek_f32(record + 4 * LIMIT)))
    hold(room, byte_room, fine)


@compiled
def _open_records(records: int, n: int, scores: int, ids: int, room: int) -> None:
    for i in range(n):
        record = records + RECORD_BYTES * i
        poke_i64(record + 8 * SCORES, scores + 4 * room * i)
        poke_i64(record + 8 * IDS, ids + 4 * room * i)
        poke_i64(record + 8 * FOUND, 0)
        poke_f32(record + 4 * LIMIT, np.float32(BIG))


@compiled
def scan(
    codec: int,
    lists: int,
    queries: int,
    n: int,
    probes: int,
    constants: int,
    p: int,
    allowed: int,
    limit: int,
    ids: int,
    scores: int,
) -> None:
    """Write the ``limit`` best rows i64[n, limit] and their scores f32, as ``Backend.scan``."""
    room = soft_limit(limit) + SLACK
    records = np.empty(n * (RECORD_BYTES >> 3), np.int64)
    found_scores, found_ids = np.empty(n * room, np.float32), np.empty(n * room, np.int32)
    _open_records(records.ctypes.data, n, found_scores.ctypes.data, found_ids.ctypes.data, room)
    _scan_all(codec, lists, queries, n, probes, constants, p, allowed, limit, records.ctypes.data)
    for i in range(n):
        record = records.ctypes.data + RECORD_BYTES * i
        found = peek_i64(record + 8 * FOUND)
        values, names = peek_i64(record + 8 * SCORES), peek_i64(record + 8 * IDS)
        found, _ = shrink(values, names, found, limit, 0)
        sort(values, names, found)
        for j in range(limit):
            at = limit * i + j
            poke_i64(ids + 8 * at, peek_i32(names + 4 * j) if j < found else -1)
            poke_f32(scores + 4 * at, peek_f32(values + 4 * j) if j < found else np.float32(np.inf))
    hold(records, found_scores, found_ids)


@compiled
def search(
    codec: int,
    lists: int,
    rows: int,
    placed: int,
    queries: int,
    n: int,
    nprobe: int,
    rerank: int,
    k: int,
    allowed: int,
    ids: int,
    distances: int,
) -> None:
    """Write the k nearest i64[n, k], f32[n, k] of the ``rerank`` best rows of ``nprobe`` lists.

    ``placed`` f32[n, D] and ``queries`` f32[n, d] are the same queries; nprobe <= L.
    """
    room = soft_limit(rerank) + SLACK
    records = np.empty(n * (RECORD_BYTES >> 3), np.int64)
    found_scores, found_ids = np.empty(n * room, np.float32), np.empty(n * room, np.int32)
    probes, constants = np.empty(n * nprobe, np.int32), np.empty(n * nprobe, np.float32)
    at = records.ctypes.data
    choose(codec, placed, n, nprobe, probes.ctypes.data, constants.ctypes.data)
    _open_records(at, n, found_scores.ctypes.data, found_ids.ctypes.data, room)
    _scan_all(
        codec,
        lists,
        placed,
        n,
        probes.ctypes.data,
        constants.ctypes.data,
        nprobe,
        allowed,
        rerank,
        at,
    )
    dim = peek_i64(rows + 8 * RAW_DIM)
    query = np.empty(room_for_query(dim), np.float32)
    for i in range(n):
        record = at + RECORD_BYTES * i
        values, names = peek_i64(record + 8 * SCORES), peek_i64(record + 8 * IDS)
        found = peek_i64(record + 8 * FOUND)
        found, _ = shrink(values, names, found, rerank, rerank >> 4)
        nearest_of(
            rows,
            queries + 4 * dim * i,
            query.ctypes.data,
            values,
            names,
            found,
            k,
            ids + 8 * k * i,
            distances + 4 * k * i,
        )
    hold(records, found_scores, found_ids, probes, constants, query)


@compiled
def exact_distances(rows: int, queries: int, n: int, ids: int, r: int, out: int) -> None:
    """Write the distances f32[n, r] of queries f32[n, d] to rows i64[n, r]; +inf for id -1."""
    dim = peek_i64(rows + 8 * RAW_DIM)
    room = np.empty(room_for_query(dim), np.float32)
    for i in range(n):
        query = queries + 4 * dim * i
        load_query(rows, query, room.ctypes.data)
        square = square_of(query, dim)
        for j in range(r * i, r * i + r):
            row_id = peek_i64(ids + 8 * j)
            value = np.float32(np.inf)
            if row_id >= 0:
                value = distance(rows, row_id, room.ctypes.data, square)
            poke_f32(out + 4 * j, value)
    hold(room)
