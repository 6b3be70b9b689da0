"""Search over lists: query by query for few, list by list for many.

List by list, a list's codes are read from memory once for all queries that probe it. Each query's
two nearest lists go first: they give it a limit that keeps most of the rest out of its buffer.
"""

from __future__ import annotations

import numpy as np

from gpu.arrays import F32, I64, U8

from .coarse import choose_roughly
from .jit import compiled
from .layout import BITS, DIM, LARGEST_STEP, LIMITS_AT, MEAN_AT, NLIST, RAW_DIM, M
from .lut import byte_tables, float_tables
from .place import place
from .rerank import distance, load_query, nearest_of, room_for_query, square_of
from .scan import (
    FOUND,
    IDS,
    LIMIT,
    PRECISE,
    RECORD_BYTES,
    SCORES,
    SLACK,
    SMALLEST,
    STEP,
    TABLE,
    fetch_list,
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
    """Write each query's byte table; return for how many that is too coarse."""
    dim, groups = peek_i64(codec + 8 * DIM), (peek_i64(codec + 8 * M) + 3) >> 2
    largest_step = peek_f32(peek_i64(codec + 8 * LIMITS_AT) + 4 * LARGEST_STEP)
    n_precise = 0
    for i in range(n):
        record, table = records + RECORD_BYTES * i, tables + 64 * groups * i
        precise = True
        if largest_step > 0:
            smallest, step = byte_tables(codec, queries + 4 * dim * i, room, table)
            poke_f32(record + 4 * SMALLEST, smallest)
            poke_f32(record + 4 * STEP, step)
            precise = step > largest_step
        poke_i64(record + 8 * TABLE, table)
        poke_i64(record + 8 * PRECISE, 1 if precise else 0)
        n_precise += 1 if precise else 0
    return n_precise


@compiled
def _prepare_precise(codec: int, queries: int, n: int, records: int, tables: int) -> None:
    """Write the float32 tables of the queries that need one."""
    dim, m = peek_i64(codec + 8 * DIM), peek_i64(codec + 8 * M)
    for i in range(n):
        record = records + RECORD_BYTES * i
        if peek_i64(record + 8 * PRECISE):
            poke_i64(record + 8 * TABLE, tables)
            float_tables(codec, queries + 4 * dim * i, tables)
            tables += 4 * m << peek_i64(codec + 8 * BITS)


@compiled
def _one_by_one(
    codec: int,
    lists: int,
    n: int,
    probes: int,
    constants: int,
    p: int,
    records: int,
    allowed: int,
    keep: int,
) -> None:
    means = peek_i64(codec + 8 * MEAN_AT)
    for i in range(n):
        record = records + RECORD_BYTES * i
        for t in range(p * i, p * i + p):
            number = peek_i32(probes + 4 * t)
            base = peek_f32(constants + 4 * t) + peek_f32(means + 4 * number)
            if t + 1 < p * i + p:
                fetch_list(codec, lists, peek_i32(probes + 4 * (t + 1)))
            blocks = list_blocks(lists, number)
            scan_list(codec, lists, number, record, base, allowed, keep, 0, blocks)


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
                    scan_list(codec, lists, number, record, base, allowed, keep, tile, end)
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
    n_precise = _prepare(codec, queries, n, records, room.ctypes.data, aligned)
    fine = np.empty(n_precise * (m << bits), np.float32)
    if n_precise:
        _prepare_precise(codec, queries, n, records, fine.ctypes.data)
    if n < FEW:
        _one_by_one(codec, lists, n, probes, constants, p, records, allowed, keep)
        hold(room, byte_room, fine)
        return
    near = min(FIRST_LISTS, p)
    for phase in range(2):
        columns = (near, p) if phase else (0, near)
        _list_by_list(codec, lists, n, probes, constants, p, columns, records, allowed, keep)
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
    queries: F32,
    nprobe: int,
    rerank: int,
    allowed: U8,
    ids: I64,
    distances: F32,
) -> None:
    """Write the k nearest i64[n, k], f32[n, k] of the ``rerank`` best rows of ``nprobe`` lists.

    Queries f32[n, d] as they came; nprobe <= L. No hits for a query too far out for scores.
    """
    n, k = ids.shape
    dim, room = peek_i64(rows + 8 * RAW_DIM), soft_limit(rerank) + SLACK
    placed = np.empty((n, peek_i64(codec + 8 * DIM)), np.float32)
    records = np.empty((n, RECORD_BYTES >> 3), np.int64)
    found_scores, found_ids = np.empty((n, room), np.float32), np.empty((n, room), np.int32)
    probes, constants = np.empty((n, nprobe), np.int32), np.empty((n, nprobe), np.float32)
    query = np.empty(room_for_query(dim), np.float32)
    asked, at = placed.ctypes.data, records.ctypes.data
    probes_at, constants_at = probes.ctypes.data, constants.ctypes.data
    far = np.empty(n, np.uint8)
    place(codec, queries.ctypes.data, n, asked, far.ctypes.data)
    _open_records(at, n, found_scores.ctypes.data, found_ids.ctypes.data, room)
    choose_roughly(codec, asked, n, nprobe, FIRST_LISTS, probes_at, constants_at)
    for i in range(n):
        if far[i]:
            poke_f32(at + RECORD_BYTES * i + 4 * LIMIT, np.float32(-BIG))
    allowed_at = allowed.ctypes.data
    _scan_all(codec, lists, asked, n, probes_at, constants_at, nprobe, allowed_at, rerank, at)
    for i in range(n):
        record = at + RECORD_BYTES * i
        values, names = peek_i64(record + 8 * SCORES), peek_i64(record + 8 * IDS)
        found, _ = shrink(values, names, peek_i64(record + 8 * FOUND), rerank, rerank >> 4)
        nearest_of(
            rows,
            queries.ctypes.data + 4 * dim * i,
            query.ctypes.data,
            values,
            names,
            found,
            k,
            ids.ctypes.data + 8 * k * i,
            distances.ctypes.data + 4 * k * i,
        )
    hold(placed, records, found_scores, found_ids, probes, constants, query)


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
