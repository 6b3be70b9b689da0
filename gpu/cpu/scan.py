"""The scan of a list for one query, with selection inside.

A row's score is  base + unit * bias + gain * (slope * sum + offset), see codec.py; ``sum`` adds up
the entries of the query's table. Scores below the query's limit go to its buffer with the row's
place in the list, and from there with its row id if the row is allowed. No score is ever written
otherwise: memory is what a scan waits for.

Invariants:

- a buffer has room for one segment more than its soft limit, and is shrunk whenever it is beyond;
- rows behind the length of this version of a list may be half written: their places are dropped.
"""

from __future__ import annotations

import numpy as np

from .allowed import keep_allowed
from .factors import widen_halves
from .features import FLAVOUR
from .jit import Float, compiled
from .layout import (
    BITS,
    BLOCK,
    BLOCK_BYTES,
    BLOCKS_AT,
    CODE_BYTES,
    FACTOR_BYTES,
    IDS_AT,
    LENGTHS_AT,
    SIGMA_AT,
    UNIT_AT,
    M,
    code_byte,
)
from .scan_avx512 import scan_wide
from .scan_shuffle import scan_shuffling
from .selection import shrink
from .simd import (
    hold,
    peek_f32,
    peek_i64,
    peek_u8,
    poke_f32,
    poke_i32,
    poke_i64,
    prefetch,
)

#: Blocks between two looks at the buffer.
SEGMENT = 8
#: Bytes of the next list asked for ahead; the machine goes on by itself.
FETCH = 2048
#: Room behind the soft limit: a segment, what vector stores overwrite, and padding.
SLACK = SEGMENT * BLOCK + 64

# A query's record: int64 places, then float32 places.
TABLE, SCORES, IDS, FOUND, PRECISE = range(5)
STEP, SMALLEST, LIMIT = 10, 11, 12
RECORD_BYTES = 64


@compiled
def soft_limit(keep: int) -> int:
    """Return at how many candidates a buffer for ``keep`` is shrunk."""
    return keep + max(keep >> 1, 64)


@compiled
def _no_bytes(
    blocks: int,
    n_blocks: int,
    groups: int,
    table: int,
    slope: Float,
    offset: Float,
    unit: Float,
    base: Float,
    limit: Float,
    first: int,
    scores: int,
    places: int,
    found: int,
) -> int:
    """Stand where a machine has no byte scan; ``largest_step`` is 0 there, so it never runs."""
    return found


# scan_bytes(blocks, n_blocks, groups of four sub-quantizers, byte table, slope, offset, unit,
# base, limit, first place, scores, places, found) -> found. Up to 16 places past the last one
# found are overwritten. Only what the machine can run may ever be compiled.
if FLAVOUR == "avx512":
    scan_bytes = scan_wide
elif FLAVOUR in {"avx2", "neon"}:
    scan_bytes = scan_shuffling
else:
    scan_bytes = _no_bytes


@compiled
def _sum_floats(block: int, bits: int, m: int, table: int, sums: int) -> None:
    """Write the sums f32[64] of float32 tables for the rows of a block."""
    for row in range(BLOCK):
        poke_f32(sums + 4 * row, np.float32(0))
    for j in range(m):
        if bits == 8:
            entries = table + 1024 * j
            for row in range(BLOCK):
                at = sums + 4 * row
                code = peek_u8(block + BLOCK * j + row)
                poke_f32(at, peek_f32(at) + peek_f32(entries + 4 * code))
        else:
            entries = table + 64 * j
            for pair in range(32):
                row = 32 * (pair >> 4) + (pair & 15)
                codes = peek_u8(block + code_byte(4, j, row))
                at = sums + 4 * row
                poke_f32(at, peek_f32(at) + peek_f32(entries + 4 * (codes & 15)))
                at += 64
                poke_f32(at, peek_f32(at) + peek_f32(entries + 4 * (codes >> 4)))


@compiled
def _scan_floats(
    codec: int,
    blocks: int,
    n_blocks: int,
    table: int,
    sigma: Float,
    unit: Float,
    base: Float,
    limit: Float,
    first: int,
    scores: int,
    places: int,
    found: int,
) -> int:
    """Do what ``scan_bytes`` does with float32 tables, for any number of bits."""
    bits, m = peek_i64(codec + 8 * BITS), peek_i64(codec + 8 * M)
    code_bytes = peek_i64(codec + 8 * CODE_BYTES)
    room = np.empty(3 * BLOCK, np.float32)
    at = room.ctypes.data
    for number in range(n_blocks):
        block = blocks + number * (code_bytes + FACTOR_BYTES)
        _sum_floats(block, bits, m, table, at)
        for part in range(8):
            widen_halves(block + code_bytes + 32 * part, at + 4 * BLOCK + 64 * part)
        for row in range(BLOCK):
            score = room[BLOCK + row] * unit + room[2 * BLOCK + row] * (sigma * room[row])
            if score < limit - base:
                poke_f32(scores + 4 * found, score + base)
                poke_i32(places + 4 * found, first + BLOCK * number + row)
                found += 1
    hold(room)
    return found


@compiled
def list_blocks(lists: int, number: int) -> int:
    """Return the number of blocks of a list."""
    length = peek_i64(peek_i64(lists + 8 * LENGTHS_AT) + 8 * number)
    return (length + BLOCK - 1) // BLOCK


@compiled
def fetch_list(codec: int, lists: int, number: int) -> None:
    """Ask for the first blocks of a list that comes next."""
    blocks = peek_i64(peek_i64(lists + 8 * BLOCKS_AT) + 8 * number)
    size = list_blocks(lists, number) * peek_i64(codec + 8 * BLOCK_BYTES)
    for line in range(0, min(size, FETCH), 64):
        prefetch(blocks + line)


@compiled
def scan_list(
    codec: int,
    lists: int,
    number: int,
    record: int,
    base: Float,
    allowed: int,
    keep: int,
    start: int,
    stop: int,
) -> None:
    """Scan blocks [start, stop) of list ``number`` for the query of ``record``.

    ``base``: what the list adds to each score.
    """
    blocks = peek_i64(peek_i64(lists + 8 * BLOCKS_AT) + 8 * number)
    ids = peek_i64(peek_i64(lists + 8 * IDS_AT) + 8 * number)
    length = peek_i64(peek_i64(lists + 8 * LENGTHS_AT) + 8 * number)
    block_bytes = peek_i64(codec + 8 * BLOCK_BYTES)
    groups = (peek_i64(codec + 8 * M) + 3) >> 2
    sigma = peek_f32(peek_i64(codec + 8 * SIGMA_AT) + 4 * number)
    unit = peek_f32(peek_i64(codec + 8 * UNIT_AT) + 4 * number)
    table, scores, found_ids = (
        peek_i64(record + 8 * TABLE),
        peek_i64(record + 8 * SCORES),
        peek_i64(record + 8 * IDS),
    )
    slope = sigma * peek_f32(record + 4 * STEP)
    offset = sigma * peek_f32(record + 4 * SMALLEST)
    found, limit = peek_i64(record + 8 * FOUND), peek_f32(record + 4 * LIMIT)
    soft = soft_limit(keep)
    for block in range(start, stop, SEGMENT):
        at, size, before = blocks + block * block_bytes, min(SEGMENT, stop - block), found
        first = BLOCK * block
        if peek_i64(record + 8 * PRECISE):
            found = _scan_floats(
                codec, at, size, table, sigma, unit, base, limit, first, scores, found_ids, found
            )
        else:
            found = scan_bytes(
                at,
                size,
                groups,
                table,
                slope,
                offset,
                unit,
                base,
                limit,
                first,
                scores,
                found_ids,
                found,
            )
        if found > before:
            found = keep_allowed(ids, length, allowed, scores, found_ids, before, found)
            if found > soft:
                found, lower = shrink(scores, found_ids, found, keep, keep >> 3)
                limit = min(limit, lower)
    poke_i64(record + 8 * FOUND, found)
    poke_f32(record + 4 * LIMIT, limit)
