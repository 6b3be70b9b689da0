"""Searches of lists on the device: what is launched for a block of queries, and in which order.

    few queries    coarse_few (places, rotates, chooses)                   | tables | scan_slices
    many           place | rotate | products with centroids | choose | prepare | tables | ...
    ... that share lists (16 queries a list and more, scan_tiles.py)                | scan_tiles
    ... that do not                                                                 | scan_slices

and then the exact distances of what the scan kept. All of it is queued on one stream; the host
waits once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gpu.arrays import F32, I32, I64, AnyArray
from gpu.backend import Depth
from gpu.hits import SearchResult

from .block import Block, Output
from .coarse import choose, coarse_few, prepare, takes_few
from .device import Buffer
from .layout import GROUP_ROWS, CodecView, padded
from .lists import DeviceLists
from .place import place
from .prepared import PreparedCodec
from .products import list_scores, rotate
from .rerank import Candidates, Hits, RerankScratch, rerank
from .rows import VisibleRows
from .scan_slices import KeysOf, scan_slices, score_all
from .scan_tiles import TileScratch, pays, scan_tiles
from .scratch import ALIGNMENT, Queue, Scratch, SearchShape
from .tables import make_tables
from .topk import KEY_BYTES
from .workspace import Parts, Workspace

#: Scores of all lists that are written at a time: 64 MiB.
MOST_SCORES = 1 << 24
NO_KEY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


def most_queries(nlist: int) -> int:
    """Return how many queries may have their scores of all lists written together."""
    return max(1, MOST_SCORES // nlist)


class Plan(NamedTuple):
    """A search as it is laid out: everything but the queries themselves."""

    view: CodecView
    shape: SearchShape
    depth: Depth
    few: bool
    tiled: bool
    rows: float

    @classmethod
    def of(cls, space: Workspace, lists: DeviceLists, queries: int, depth: Depth) -> Plan:
        """Lay out a search of ``queries``."""
        view, queue = lists.prepared.view, Queue(space.device, space.stream)
        rows = lists.n_rows * min(depth.nprobe, view.nlist) / view.nlist
        of = (space.device, view, queries, depth.nprobe, depth.rerank)
        shape = SearchShape.of(*of, rows)
        few, tiled = takes_few(queue, view, shape), pays(queue, view, shape)
        return cls(view, shape, depth, few, tiled, rows)

    @property
    def tile_bytes(self) -> int:
        """Device memory of the throughput scan."""
        return TileScratch.at(0, self.view, self.shape, self.rows).nbytes if self.tiled else 0

    @property
    def zeros_bytes(self) -> int:
        """Counters: one for each query, and of the throughput scan one for each list."""
        return _aligned(4 * self.shape.queries) + 4 * self.view.nlist * self.tiled


def search_block(
    space: Workspace,
    lists: DeviceLists,
    visible: VisibleRows,
    queries: F32,
    depth: Depth,
    allowed: Buffer,
) -> SearchResult:
    """Choose, scan and re-rank; ``depth`` within ``MOST_RESULTS``. One wait."""
    n, k, r = len(queries), depth.k, depth.rerank
    plan = Plan.of(space, lists, n, depth)
    parts = Parts()
    at = parts.add(Scratch.at(0, plan.view, plan.shape).nbytes)
    keys = parts.add(KEY_BYTES * n * r)
    scores = parts.add(0 if plan.few else _score_bytes(n, plan.view.nlist))
    tiles = parts.add(plan.tile_bytes)
    outputs = (Output((n, k), np.int64), Output((n, k), np.float32))
    block = Block(space, (queries,), outputs, parts.nbytes, plan.zeros_bytes)
    scratch = _scratch(block, plan, at)

    def work() -> None:
        block.send()
        _choose(block, plan, lists, scratch, block.scratch + scores)
        _scan(block, plan, lists, allowed, scratch, tiles)
        rerank(
            block.queue,
            visible.view,
            block.input(0),
            Candidates(scratch.ids, n, r),
            k,
            RerankScratch(block.scratch + keys, block.zeros),
            Hits(block.output(0), block.output(1)),
        )
        block.receive()

    if plan.few:
        # Everything that the launches are given: the same key means the same launches.
        key = (plan, lists.view, visible.view, allowed.address, block.place)
        space.graphs.run(key, work)
    else:
        work()
    ids, distances = block.wait()
    return SearchResult(ids, distances)


def choose_block(
    space: Workspace, prepared: PreparedCodec, placed: F32, nprobe: int
) -> tuple[I32, F32]:
    """Return the best lists of placed queries f32[q, D]; at most ``MOST_RESULTS``."""
    n, view = len(placed), prepared.view
    shape = SearchShape.of(space.device, view, n, nprobe, 1, 0)
    outputs = (Output((n, shape.nprobe), np.int32), Output((n, shape.nprobe), np.float32))
    block = Block(space, (as_placed(placed),), outputs, _score_bytes(n, view.nlist))
    scratch = replace(
        Scratch.at(0, view, shape),
        placed=block.input(0),
        probes=block.output(0),
        constants=block.output(1),
    )
    block.send()
    _choose_placed(block.queue, prepared, shape, scratch, block.scratch)
    block.receive()
    numbers, constants = block.wait()
    return numbers, constants


def scan_block(
    space: Workspace,
    lists: DeviceLists,
    placed: F32,
    chosen: tuple[I32, F32],
    allowed: Buffer,
    limit: int,
) -> tuple[I64, F32]:
    """Return the best-scored rows of chosen lists; ``limit`` within ``MOST_RESULTS``."""
    (probes, constants), n = chosen, len(placed)
    plan = _plan_of_scan(space, lists, probes, limit)
    inputs = (as_placed(placed), probes, constants, np.ones(n, np.int32))
    outputs = (Output((n, limit), np.int64), Output((n, limit), np.float32))
    parts = Parts()
    parts.add(Scratch.at(0, plan.view, plan.shape).nbytes)
    tiles = parts.add(plan.tile_bytes)
    block = Block(space, inputs, outputs, parts.nbytes, plan.zeros_bytes)
    scratch = _of_inputs(block, plan)
    scratch = replace(scratch, ids=block.output(0), scores=block.output(1))
    block.send()
    prepare(block.queue, plan.view, lists.view, plan.shape, scratch)
    _scan(block, plan, lists, allowed, scratch, tiles)
    block.receive()
    ids, scores = block.wait()
    return ids, scores


def scan_deep(
    space: Workspace,
    lists: DeviceLists,
    placed: F32,
    chosen: tuple[I32, F32],
    allowed: Buffer,
    limit: int,
) -> tuple[I64, F32]:
    """Return what ``scan_block`` does for one query and any ``limit``; the host sorts."""
    probes, constants = chosen
    plan = _plan_of_scan(space, lists, probes, 1)
    groups = int((-(-lists.lengths[probes[0]] // GROUP_ROWS)).sum())
    inputs: tuple[AnyArray, ...] = (as_placed(placed), probes, constants, np.ones(1, np.int32))
    outputs = (Output((groups * GROUP_ROWS,), np.uint64),)
    block = Block(space, inputs, outputs, Scratch.at(0, plan.view, plan.shape).nbytes)
    scratch, queue = _of_inputs(block, plan), block.queue
    block.send()
    prepare(queue, plan.view, lists.view, plan.shape, scratch)
    make_tables(queue, plan.view, 1, scratch)
    keys = KeysOf(0, groups, block.output(0))
    score_all(queue, plan.view, lists.view, allowed.address, plan.shape, scratch, keys)
    block.receive()
    (found,) = block.wait()
    return _best_of(found, limit)


def as_placed(vectors: F32) -> F32:
    """Return placed queries f32[q, D] with their stride on the device."""
    missing = padded(vectors.shape[1]) - vectors.shape[1]
    if missing == 0:
        return np.ascontiguousarray(vectors, np.float32)
    return np.pad(vectors, ((0, 0), (0, missing)))


def _plan_of_scan(space: Workspace, lists: DeviceLists, probes: I32, limit: int) -> Plan:
    plan = Plan.of(space, lists, len(probes), Depth(limit, probes.shape[1], limit))
    return plan._replace(few=False)


def _scratch(block: Block, plan: Plan, at: int) -> Scratch:
    scratch = Scratch.at(block.scratch + at, plan.view, plan.shape)
    return replace(scratch, coarse_arrived=block.zeros)


def _of_inputs(block: Block, plan: Plan) -> Scratch:
    """Return the scratch of a search whose queries are placed and whose lists are chosen."""
    placed, probes, constants, near = (block.input(number) for number in range(4))
    scratch = Scratch.at(block.scratch, plan.view, plan.shape)
    return replace(scratch, placed=placed, probes=probes, constants=constants, near=near)


def _choose(block: Block, plan: Plan, lists: DeviceLists, scratch: Scratch, scores: int) -> None:
    """Place the queries of input 0, choose their lists and lay out their scan."""
    queue, view, shape = block.queue, plan.view, plan.shape
    if plan.few:
        coarse_few(queue, view, lists.view, block.input(0), shape, scratch)
        return
    n, turned = shape.queries, bool(view.rotation)
    plain = scratch.plain if turned else scratch.placed
    place(queue, view, block.input(0), n, (plain, scratch.near), rows=False)
    if turned:
        rotate(queue, view, plain, n, scratch.placed)
    _choose_placed(queue, lists.prepared, shape, scratch, scores)
    prepare(queue, view, lists.view, shape, scratch)


def _choose_placed(
    queue: Queue, prepared: PreparedCodec, shape: SearchShape, scratch: Scratch, scores: int
) -> None:
    """Write ``probes`` and ``constants``, some queries at a time: scores of lists take room."""
    view, step = prepared.view, most_queries(prepared.view.nlist)
    for first in range(0, shape.queries, step):
        part = replace(shape, queries=min(step, shape.queries - first))
        at = replace(
            scratch,
            placed=scratch.placed + 4 * first * view.stride,
            probes=scratch.probes + 4 * first * shape.nprobe,
            constants=scratch.constants + 4 * first * shape.nprobe,
        )
        list_scores(queue, view, at.placed, part.queries, prepared.halves, scores)
        choose(queue, view, scores, part, at)


def _score_bytes(queries: int, nlist: int) -> int:
    return 4 * nlist * min(queries, most_queries(nlist))


def _scan(
    block: Block, plan: Plan, lists: DeviceLists, allowed: Buffer, scratch: Scratch, at: int
) -> None:
    """Scan what is laid out; ``at``: where the throughput scan's scratch begins."""
    queue, view, shape = block.queue, plan.view, plan.shape
    make_tables(queue, view, shape.queries, scratch)
    given = (queue, view, lists.view, allowed.address, shape, scratch)
    if not plan.tiled:
        scan_slices(*given)
        return
    tiles = TileScratch.at(block.scratch + at, view, shape, plan.rows)
    counts = block.zeros + _aligned(4 * shape.queries)
    scan_tiles(*given, replace(tiles, list_counts=counts))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _best_of(keys: AnyArray, limit: int) -> tuple[I64, F32]:
    """Return the ids i64[1, limit] and scores f32[1, limit] of the smallest keys u64[n]."""
    if limit < len(keys):
        keys = np.partition(keys, limit - 1)[:limit]
    best = np.sort(keys[keys != NO_KEY])
    ids = np.full((1, limit), -1, np.int64)
    scores = np.full((1, limit), np.inf, np.float32)
    ids[0, : len(best)] = (best & np.uint64(0xFFFF_FFFF)).astype(np.int64)
    scores[0, : len(best)] = _floats((best >> np.uint64(32)).astype(np.uint32))
    return ids, scores


def _floats(ordered: AnyArray) -> F32:
    """Undo ``ordered_bits`` of compat.cuh for u32[n]."""
    sign = np.uint32(0x8000_0000)
    bits = np.where(ordered & sign, ordered ^ sign, ~ordered)
    values: F32 = bits.astype(np.uint32).view(np.float32)
    return values
