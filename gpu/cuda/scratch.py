"""Device memory of one search, and how its work is cut up: one buffer, addresses by name.

Invariant: ``zeroed_bytes`` at the start are zero before the first search and after each one; all
else is written before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .device import Device, Stream
from .layout import GROUP_ROWS, CodecView
from .topk import KEY_BYTES, MOST_RESULTS, TOP_WARPS

#: Blocks for each SM: enough to hide the latency of loads, few enough that merging stays short.
BLOCKS_A_MULTIPROCESSOR = 2
#: Groups of 32 rows that a block scans in one step (scan_slices.cu).
STEP_GROUPS = 2 * TOP_WARPS
#: Lists that a block scores in one step (coarse.cu).
STEP_LISTS = 4 * TOP_WARPS
#: Arrays in the buffer start at multiples of this.
ALIGNMENT = 256


class Queue(NamedTuple):
    """Where work goes."""

    device: Device
    stream: Stream


@dataclass(frozen=True, slots=True)
class SearchShape:
    """``queries``, lists probed and rows kept by each; blocks that share one query's work."""

    queries: int
    nprobe: int
    limit: int
    scan_blocks: int
    list_blocks: int
    lists_a_block: int

    @classmethod
    def of(
        cls, device: Device, codec: CodecView, queries: int, nprobe: int, limit: int, rows: float
    ) -> SearchShape:
        """Cut up the work of ``queries`` that scan about ``rows`` rows each."""
        nprobe = min(nprobe, codec.nlist)
        blocks = max(1, BLOCKS_A_MULTIPROCESSOR * device.multiprocessors // max(1, queries))
        steps = int(rows) // (GROUP_ROWS * STEP_GROUPS) + 1
        each = _up(-(-codec.nlist // blocks), STEP_LISTS)
        list_blocks = -(-codec.nlist // each)
        return cls(queries, nprobe, limit, min(blocks, steps), list_blocks, each)

    @property
    def run_length(self) -> int:
        """Lists that a block of lists passes on."""
        return min(self.nprobe, self.lists_a_block)


@dataclass(frozen=True, slots=True)
class Scratch:
    """Addresses; shapes per query are in kernels' comments. ``nbytes``: all of it."""

    coarse_arrived: int
    near: int
    largest: int
    reach: int
    arrived: int
    plain: int
    placed: int
    probes: int
    constants: int
    spans: int
    factors: int
    tables: int
    runs: int
    ids: int
    scores: int
    zeroed_bytes: int
    nbytes: int

    @classmethod
    def at(cls, address: int, codec: CodecView, shape: SearchShape) -> Scratch:
        """Lay out a search of ``shape`` from ``address`` on; 0 tells its size."""
        q, p, r = shape.queries, shape.nprobe, shape.limit
        limit = min(r, MOST_RESULTS)
        keys = max(shape.scan_blocks * limit, shape.list_blocks * min(shape.run_length, p))
        sizes = {
            "coarse_arrived": 4,
            "near": 4,
            "largest": 4,
            "reach": 4,
            "arrived": 4,
            "plain": 4 * codec.plain_stride,
            "placed": 4 * codec.stride,
            "probes": 4 * p,
            "constants": 4 * p,
            "spans": 16 * (p + 1),
            "factors": 16 * p,
            "tables": codec.layout.table_bytes,
            "runs": KEY_BYTES * keys,
            "ids": 8 * r,
            "scores": 4 * r,
        }
        places, at = {}, 0
        for name, size in sizes.items():
            places[name] = address + at
            at += _up(q * size, ALIGNMENT)
        return cls(**places, zeroed_bytes=4 * q, nbytes=at)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
