"""Raw vectors in row id order, in chunks that never move.

Invariants:

- a row below ``n_rows`` never changes, so readers of an older state need no lock;
- chunks hold a power of two of rows: row i lies in chunk ``i >> shift``;
- each row has its norm beside it (distance to ``centre`` for l2, which keeps the numbers of far
  away data small; length for the others), the error bounds of exact search need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from .arrays import F32, I64, AnyArray
from .errors import BadInput, IndexFull
from .params import IndexParams

Allocate: TypeAlias = Callable[[tuple[int, ...], np.dtype[np.generic]], AnyArray]

#: Large enough that chunks are few, small enough that the last one wastes little. The system gives
#: memory page by page, so an unused part costs address space only.
CHUNK_BYTES = 64 << 20
#: Components copied at a time, so that what is worked out of them stays in the cache.
BLOCK_COMPONENTS = 1 << 19
#: Device engines number rows with 32 bits.
MAX_ROWS = 1 << 31
#: Rows of the first batch that decide the centre; any place near the data will do.
CENTRE_ROWS = 256
#: Smaller float32 squares lose digits or vanish.
SMALLEST_SAFE_SQUARE = 1e-30


class Block(NamedTuple):
    """Neighbouring rows: first row id, vectors f32 or f16 [b, d] (a view), norms f32[b]."""

    start: int
    vectors: AnyArray
    norms: F32


class Rows:
    """Append-only storage of one index's vectors. One writer; readers stay below their n_rows."""

    def __init__(self, params: IndexParams, allocate: Allocate = np.empty) -> None:
        """Make empty storage; ``allocate(shape, dtype)`` gives the memory of its chunks."""
        self.dim, self.metric = params.dim, params.metric
        self.dtype = np.dtype(params.raw_dtype)
        rows = max(1, CHUNK_BYTES // (self.dim * self.dtype.itemsize))
        self.shift = rows.bit_length() - 1
        self._allocate = allocate
        self.n_rows = 0
        self.centre: F32 = np.zeros(self.dim, np.float32)
        self._vectors: list[AnyArray] = []
        self._norms: list[F32] = []

    @property
    def chunk_rows(self) -> int:
        """Rows of one chunk."""
        return 1 << self.shift

    @property
    def chunks(self) -> list[AnyArray]:
        """The arrays that hold the vectors, ``chunk_rows`` each."""
        return list(self._vectors)

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return len(self._vectors)

    @property
    def row_bytes(self) -> int:
        """Bytes a row takes, its norm included."""
        return self.dim * self.dtype.itemsize + 4

    def append(self, vectors: AnyArray) -> None:
        """Copy f32 or f16 [n, d] behind the last row; raise BadInput if one is not finite.

        Nothing is added when it raises. IndexFull: no memory or row numbers are left.
        """
        if self.n_rows + len(vectors) > MAX_ROWS:
            raise IndexFull(f"an index holds at most {MAX_ROWS} row versions")
        if self.n_rows == 0 and self.metric == "l2" and len(vectors):
            self.centre = _middle(vectors[:CENTRE_ROWS])
        taken = 0
        while taken < len(vectors):
            taken += self._fill_chunk(vectors[taken:], self.n_rows + taken)
        self.n_rows += taken

    def blocks(self, start: int, stop: int, block_rows: int) -> Iterator[Block]:
        """Yield rows [start, stop) in blocks of at most ``block_rows``, never across chunks."""
        while start < stop:
            chunk, offset = start >> self.shift, start & (self.chunk_rows - 1)
            size = min(stop - start, block_rows, self.chunk_rows - offset)
            where = slice(offset, offset + size)
            yield Block(start, self._vectors[chunk][where], self._norms[chunk][where])
            start += size

    def take(self, row_ids: I64) -> F32:
        """Return the vectors of ``row_ids`` i64[n] as a new array f32[n, d]."""
        return _gather(self._vectors, self.shift, row_ids, np.empty((len(row_ids), self.dim), "f4"))

    def norms(self, row_ids: I64) -> F32:
        """Return the norms of ``row_ids`` i64[n] as f32[n]."""
        return _gather(self._norms, self.shift, row_ids, np.empty(len(row_ids), np.float32))

    def zero_norm_ids(self, n_rows: int) -> I64:
        """Return the ids below ``n_rows`` of rows whose norm is 0, ascending."""
        blocks = self.blocks(0, n_rows, self.chunk_rows)
        found = [block.start + np.flatnonzero(block.norms == 0) for block in blocks]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _fill_chunk(self, vectors: AnyArray, start: int) -> int:
        chunk, offset = start >> self.shift, start & (self.chunk_rows - 1)
        if chunk == len(self._vectors):
            self._add_chunk()
        most = max(1, BLOCK_COMPONENTS // self.dim)
        size = min(len(vectors), self.chunk_rows - offset, most)
        stored = self._vectors[chunk][offset : offset + size]
        with np.errstate(over="ignore"):
            stored[:] = vectors[:size]
        self._norms[chunk][offset : offset + size] = self._norms_of(stored)
        return size

    def _add_chunk(self) -> None:
        try:
            norms = np.empty(self.chunk_rows, np.float32)
            vectors = self._allocate((self.chunk_rows, self.dim), self.dtype)
        except MemoryError as error:
            raise IndexFull(f"no memory for {self.chunk_rows} more rows") from error
        self._norms.append(norms)
        self._vectors.append(vectors)

    def _norms_of(self, stored: AnyArray) -> F32:
        centred = stored.astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.metric == "l2":
                centred = centred - self.centre
            squares: F32 = np.einsum("nd,nd->n", centred, centred)
        if np.isfinite(squares).all() and squares.min(initial=1.0) > SMALLEST_SAFE_SQUARE:
            return np.sqrt(squares).astype(np.float32)
        if not np.isfinite(stored).all():
            raise BadInput(f"a component is not finite in {self.dtype}")
        wide = np.sqrt(np.einsum("nd,nd->n", centred, centred, dtype=np.float64))
        norms: F32 = np.minimum(wide, np.finfo(np.float32).max).astype(np.float32)
        return norms


def _middle(vectors: AnyArray) -> F32:
    """Component-wise median; unlike the mean a single huge row cannot move it."""
    with np.errstate(over="ignore", invalid="ignore"):
        middle = np.median(vectors.astype(np.float32), axis=0).astype(np.float32)
    return np.nan_to_num(middle, nan=0.0, posinf=0.0, neginf=0.0)


def _gather(chunks: list[AnyArray], shift: int, row_ids: I64, out: F32) -> F32:
    chunk_of = row_ids >> shift
    offsets = row_ids & ((1 << shift) - 1)
    for chunk in np.unique(chunk_of):
        here = np.flatnonzero(chunk_of == chunk)
        if len(here) == len(row_ids):
            out[:] = chunks[chunk][offsets]
        else:
            out[here] = chunks[chunk][offsets[here]]
    return out
