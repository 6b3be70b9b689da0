"""The list scan of the NumPy backend: scores of all rows of the probed lists, best ones kept."""

from __future__ import annotations

import numpy as np

from .arrays import F32, I32, I64, U8
from .bitmap import bits_at
from .codec import Codec
from .lists import Segment, SegmentedLists
from .pq import accumulate, lookup_tables

#: Rows scored at a time: their codes and scores stay in the cache.
BLOCK_ROWS = 1 << 15
#: Queries whose tables are made together.
BLOCK_QUERIES = 64
#: Below this share of |p| |c| the expanded form of |p - c|^2 has lost too many digits.
CANCELLATION = 1e-3


def choose_lists(codec: Codec, queries: F32, nprobe: int) -> tuple[I32, F32]:
    """Return the ``nprobe`` lists of smallest B of placed queries f32[q, D]: i32[q, p], f32[q, p].

    Nearest lists first.
    """
    constants = codec.constants(queries)
    nprobe = min(nprobe, codec.nlist)
    nearest = np.argpartition(constants, nprobe - 1, axis=1)[:, :nprobe]
    chosen = np.take_along_axis(constants, nearest, axis=1)
    order = np.lexsort((nearest, chosen), axis=1)
    lists: I32 = np.take_along_axis(nearest, order, axis=1).astype(np.int32)
    return lists, _accurate(codec, queries, lists, np.take_along_axis(chosen, order, axis=1))


def _accurate(codec: Codec, queries: F32, lists: I32, constants: F32) -> F32:
    """Compute B anew from differences for queries whose expansion cancelled."""
    if codec.metric == "ip":
        return constants
    size = np.einsum("qd,qd->q", queries, queries)
    for i in np.flatnonzero(constants[:, 0] < CANCELLATION * size):
        differences = queries[i] - codec.centroids[lists[i]]
        constants[i] = np.einsum("pd,pd->p", differences, differences) / 2
    return constants


def scan(
    lists: SegmentedLists, queries: F32, probes: I32, constants: F32, allowed: U8, limit: int
) -> tuple[I64, F32]:
    """Return the ``limit`` best-scored allowed rows of the probed lists: i64 and f32 [q, limit].

    ``queries`` f32[q, D] placed; ``probes`` i32[q, p] with ``constants`` f32[q, p] = B. Best first;
    id -1 and score +inf where there are fewer.
    """
    ids = np.full((len(queries), limit), -1, np.int64)
    scores = np.full((len(queries), limit), np.inf, np.float32)
    codec = lists.codec
    for i in range(len(queries)):
        if i % BLOCK_QUERIES == 0:
            part = queries[i : i + BLOCK_QUERIES]
            tables = lookup_tables(part, codec.codebooks, codec.lut)
        table = tables[i % BLOCK_QUERIES]
        found, values = _scan_one(lists, table, probes[i], constants[i], allowed, limit)
        ids[i, : len(found)], scores[i, : len(found)] = found, values
    return ids, scores


def _scan_one(
    lists: SegmentedLists, table: F32, probes: I32, constants: F32, allowed: U8, limit: int
) -> tuple[I64, F32]:
    best_ids, best_scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for segment in lists.segments:
        places, which = segment.places(probes)
        for first in range(0, len(places), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            ids, scores = _score(
                lists.codec, segment, table, places[part], which[part], probes, constants, allowed
            )
            best_ids = np.concatenate([best_ids, ids])
            best_scores = np.concatenate([best_scores, scores])
            if len(best_ids) > limit:
                kept = np.argpartition(best_scores, limit - 1)[:limit]
                best_ids, best_scores = best_ids[kept], best_scores[kept]
    order = np.lexsort((best_ids, best_scores))
    return best_ids[order], best_scores[order]


def _score(
    codec: Codec,
    segment: Segment,
    table: F32,
    places: I64,
    which: I64,
    probes: I32,
    constants: F32,
    allowed: U8,
) -> tuple[I64, F32]:
    rows = segment.contents
    ids = rows.row_ids[places]
    alive = bits_at(allowed, ids)
    if not alive.all():
        ids, places, which = ids[alive], places[alive], which[alive]
    base = constants + codec.bias_mean[probes]
    unit, sigma = codec.bias_unit[probes], codec.sigma[probes]
    scores = base[which] + unit[which] * rows.bias[places].astype(np.float32)
    gain = rows.gain[places].astype(np.float32) * sigma[which]
    scores += gain * accumulate(table, rows.codes[places])
    return ids, scores
