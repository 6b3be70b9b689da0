"""Inverted lists of the CPU backend: each list is one run of blocks that grows by a quarter.

Invariants:

- places of a list below the length of a version never change while that version lives: ``append``
  writes behind them, or into a larger copy of the run;
- a run is written only by the version whose length is how far it has been filled; appending to an
  older version copies the runs that it touches;
- places behind a version's length may be half written; kernels drop them.
"""

from __future__ import annotations

import numpy as np

from gpu.arrays import I32, I64, U8
from gpu.codec import Codec
from gpu.encoding import ListContents, nothing
from gpu.pq import code_bytes as stored_bytes

from . import layout
from .memory import Described, address, aligned_bytes
from .prepared import describe
from .rows import put_rows, take_rows

#: A full run grows to this many times its size: few copies, little unused.
GROWTH = 1.25
#: float16 infinity: scans never choose a place that has not been filled.
INFINITE_HALF = 0x7C00


class Run:
    """Memory of one list: blocks, then ids; ``filled`` places have been written."""

    def __init__(self, capacity: int, code_bytes: int) -> None:
        self.capacity = capacity
        self.block_bytes = code_bytes + layout.FACTOR_BYTES
        size = capacity * self.block_bytes
        self.bytes: U8 = aligned_bytes(size + 4 * layout.BLOCK * capacity)
        self.at = address(self.bytes)
        self.ids_at = self.at + size
        self.filled = 0
        biases = self.bytes[:size].reshape(capacity, self.block_bytes)[
            :, code_bytes : code_bytes + 128
        ]
        biases.view(np.uint16)[:] = INFINITE_HALF

    def ids(self, length: int) -> I32:
        """Return the row ids of the first places, i32[length]."""
        start = self.ids_at - self.at
        ids: I32 = self.bytes[start : start + 4 * length].view(np.int32)
        return ids

    def grown(self, needed: int, length: int, code_bytes: int) -> Run:
        """Return a run for ``needed`` places with the first ``length`` of this one."""
        blocks = -(-needed // layout.BLOCK)
        if self.capacity:
            blocks = max(blocks, int(GROWTH * self.capacity))
        run = Run(blocks, code_bytes)
        used = -(-length // layout.BLOCK) * self.block_bytes
        run.bytes[:used] = self.bytes[:used]
        run.ids(length)[:] = self.ids(length)
        run.filled = length
        return run


class BlockLists:
    """One version of the lists of a codec."""

    def __init__(self, codec: Codec, prepared: Described, runs: list[Run], lengths: I64) -> None:
        self.codec, self.prepared = codec, prepared
        self.lengths = lengths
        self._runs = runs
        self._blocks = np.array([run.at for run in runs], np.int64)
        self._ids = np.array([run.ids_at for run in runs], np.int64)
        self.described = Described(layout.LISTS_PLACES)
        self.described.put(layout.BLOCKS_AT, self._blocks)
        self.described.put(layout.IDS_AT, self._ids)
        self.described.put(layout.LENGTHS_AT, self.lengths)

    @classmethod
    def empty(cls, codec: Codec) -> BlockLists:
        """Return lists without rows."""
        run = Run(0, layout.code_bytes(codec.bits, codec.m))
        lengths = np.zeros(codec.nlist, np.int64)
        return cls(codec, describe(codec), [run] * codec.nlist, lengths)

    def append(self, batch: ListContents) -> BlockLists:
        """Return a version with the rows of ``batch`` added. One writer, on the newest version."""
        if len(batch) == 0:
            return self
        lengths = self.lengths + np.bincount(batch.list_ids, minlength=self.codec.nlist)
        runs = list(self._runs)
        code_bytes = layout.code_bytes(self.codec.bits, self.codec.m)
        for number in np.flatnonzero(lengths > self.lengths).tolist():
            run, length, needed = runs[number], int(self.lengths[number]), int(lengths[number])
            if run.filled != length or needed > run.capacity * layout.BLOCK:
                run = run.grown(needed, length, code_bytes)
            run.filled = needed
            runs[number] = run
        version = BlockLists(self.codec, self.prepared, runs, lengths)
        version.write(batch, self._places(batch.list_ids))
        return version

    def write(self, batch: ListContents, places: I64) -> None:
        """Put the rows of ``batch`` at ``places`` i64[n] of their lists."""
        codes, row_ids = np.ascontiguousarray(batch.codes), np.ascontiguousarray(batch.row_ids)
        bias, gain = np.ascontiguousarray(batch.bias), np.ascontiguousarray(batch.gain)
        list_ids = np.ascontiguousarray(batch.list_ids, dtype=np.int32)
        put_rows(
            self._shape(),
            address(self._blocks),
            address(self._ids),
            address(places),
            len(batch),
            address(codes),
            address(bias),
            address(gain),
            address(row_ids),
            address(list_ids),
        )

    def contents(self) -> ListContents:
        """Return all rows, sorted by list, then by row id."""
        if not self.lengths.any():
            return nothing(self.codec)
        starts = np.cumsum(self.lengths) - self.lengths
        total = int(self.lengths.sum())
        codes = np.empty((total, stored_bytes(self.codec.m, self.codec.bits)), np.uint8)
        bias, gain = np.empty(total, np.float16), np.empty(total, np.float16)
        row_ids = np.empty(total, np.int64)
        for number in np.flatnonzero(self.lengths).tolist():
            run, start, size = self._runs[number], int(starts[number]), int(self.lengths[number])
            row_ids[start : start + size] = run.ids(size)
            take_rows(
                self._shape(),
                run.at,
                0,
                size,
                address(codes[start:]),
                address(bias[start:]),
                address(gain[start:]),
            )
        list_ids = np.repeat(np.arange(self.codec.nlist, dtype=np.int32), self.lengths)
        everything = ListContents(list_ids, row_ids, codes, bias, gain)
        return everything.take(np.lexsort((row_ids, list_ids)))

    def _shape(self) -> tuple[int, int, int, int]:
        bits, m = self.codec.bits, self.codec.m
        return bits, m, layout.code_bytes(bits, m), stored_bytes(m, bits)

    def _places(self, list_ids: I32) -> I64:
        """Return the place that each row of a batch gets in its list, i64[n]."""
        order = np.argsort(list_ids, kind="stable")
        ordered = list_ids[order]
        first = np.searchsorted(ordered, ordered)
        places = np.empty(len(order), np.int64)
        places[order] = self.lengths[ordered] + np.arange(len(order)) - first
        return places
