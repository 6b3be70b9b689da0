"""The CUDA backend: lists, raw rows and searches on a card. See docs/gpu.md.

Invariants:

- A search queues its work on one stream and waits once; what it uses lives until then.
- Whatever the card cannot do (more than 1,024 hits or lists, raw rows that do not fit) is answered
  all the same, by another kernel or by the host, with the same result.
- After a sticky error every operation raises DeviceLost, and ``when_lost`` has been called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np

from .arrays import F32, F64, I32, I64, U8, AnyArray
from .backend import Backend, ClusterStep, CodewordStep, Depth, Lists
from .codec import Codec
from .cuda.bitmaps import DeviceBitmaps
from .cuda.coding import code_block
from .cuda.columns import DeviceColumns
from .cuda.device import Device
from .cuda.exacting import distances_block, exact_block
from .cuda.filtering import filter_block
from .cuda.lists import DeviceLists, Ground
from .cuda.memory import Budget
from .cuda.options import RawLocation
from .cuda.prepared import PreparedCodecs
from .cuda.rewriting import Survivors, rewritten_lists
from .cuda.rows import DeviceRows
from .cuda.scanning import choose_block, most_queries, scan_block, scan_deep, search_block
from .cuda.teaching import (
    cluster_block,
    codewords_block,
    covariance_block,
    encode_block,
    nearest_block,
    rotate_block,
)
from .cuda.topk import MOST_RESULTS
from .cuda.warming import run_kernels
from .cuda.workspace import NoRoom, Workspace, Workspaces
from .encoding import CodedRows
from .errors import BackendError, DeviceLost, EngineError, IndexFull
from .filter_program import FilterColumn, FilterProgram
from .hits import SearchResult, no_hits
from .numpy_backend import NumpyBackend
from .rows import Rows

#: Products of matrices below this many multiplications are done before the card has been asked:
#: two transfers and a launch take some 50 microseconds.
SMALL_PRODUCT = 1 << 22
#: Rows that a filter tests before the card has been asked: NumPy needs as long as a round trip.
SMALL_FILTER = 1 << 14
#: Queries of one exact search: each reads all rows, so there is nothing to gain from more.
EXACT_QUERIES = 1024

Part = TypeVar("Part")


class CudaBackend(NumpyBackend):
    """See ``Backend``. ``host`` answers what does not fit on the card; None: NumPy.

    Products of matrices of fewer than ``small_product`` multiplications are the host's, too, and
    filters of fewer than ``small_filter`` rows (None: ``SMALL_FILTER``).
    """

    name = "cuda"
    most_queries = 16_384

    def __init__(
        self,
        device: Device,
        *,
        raw_location: RawLocation = "device",
        host: Backend | None = None,
        small_product: int = SMALL_PRODUCT,
        small_filter: int | None = None,
    ) -> None:
        self.device = device
        self.lost: str | None = None
        self.when_lost: Callable[[str], None] = lambda reason: None
        self._host, self._small_product = host or NumpyBackend(), small_product
        self._budget = Budget(device)
        self._spaces = Workspaces(device)
        self._codecs = PreparedCodecs(self._budget)
        self._bitmaps = DeviceBitmaps(device)
        self._rows = DeviceRows(device, self._budget, raw_location)
        self._columns = DeviceColumns(device, self._budget)
        self._small_filter = SMALL_FILTER if small_filter is None else small_filter
        self._budget.give_way = self._give_way

    @property
    def pci_bus_id(self) -> str:
        """Where the card is, as NVML names it; empty for a device that is no card."""
        return str(getattr(self.device, "pci_bus_id", ""))

    @property
    def raw_rows_refused(self) -> int:
        """Indexes whose raw rows did not fit on the card."""
        return self._rows.refused()

    @property
    def columns_refused(self) -> int:
        """Indexes whose filter columns did not fit on the card."""
        return self._columns.refused()

    def warm_up(self) -> None:
        """Compile every kernel, or load it from the cache, by running each once."""
        with self._guarded():
            run_kernels(self)

    def raw_memory(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> AnyArray:
        """Return host memory for raw rows, page-locked where kernels read it there."""
        if not self._rows.reads_host:
            return self._host.raw_memory(shape, dtype)
        with self._guarded():
            return self.device.pinned(shape, dtype)

    def hold(self, rows: Rows, alive_bits: U8) -> None:
        """Upload both if they fit; what fails is told to the search that needs it."""
        if self._rows.holds(rows) and self._bitmaps.holds(alive_bits):
            return
        with suppress(EngineError), self._guarded(), self._spaces.one() as space:
            self._rows.hold(rows, space.stream)
            self._bitmaps.of(alive_bits, space.stream)

    def nearest(self, points: F32, centroids: F32) -> tuple[I32, F32]:
        """Return the nearest of f32[L, d] to each of f32[n, d], and half its squared distance."""
        return self._product(
            points.size * len(centroids),
            lambda space: nearest_block(space, points, centroids),
            lambda host: host.nearest(points, centroids),
        )

    def encode(self, residuals: F32, codebooks: F32) -> U8:
        """Return the nearest codewords of f32[n, m * s] in f32[m, K, s] as u8[n, m]."""
        return self._product(
            residuals.size * codebooks.shape[1],
            lambda space: encode_block(space, residuals, codebooks),
            lambda host: host.encode(residuals, codebooks),
        )

    def cluster_step(self, points: F32, centroids: F32) -> ClusterStep:
        """Return the nearest of f32[L, d] to each of f32[n, d], and the sums by list."""
        return self._product(
            points.size * len(centroids),
            lambda space: cluster_block(space, points, centroids),
            lambda host: host.cluster_step(points, centroids),
        )

    def codeword_step(self, residuals: F32, codebooks: F32) -> CodewordStep:
        """Return the sums of the pieces of f32[n, m * s] by their codeword of f32[m, K, s]."""
        return self._product(
            residuals.size * codebooks.shape[1],
            lambda space: codewords_block(space, residuals, codebooks),
            lambda host: host.codeword_step(residuals, codebooks),
        )

    def rotate(self, vectors: F32, rotation: F32) -> F32:
        """Return f32[n, D]: vectors f32[n, d] times a rotation f32[d, D]."""
        return self._product(
            vectors.size * rotation.shape[1],
            lambda space: rotate_block(space, vectors, rotation),
            lambda host: host.rotate(vectors, rotation),
        )

    def covariance(self, vectors: F32) -> F64:
        """Return the sum of v v^T over the rows of f32[n, d], f64[d, d]."""
        return self._product(
            vectors.size * vectors.shape[1],
            lambda space: covariance_block(space, vectors),
            lambda host: host.covariance(vectors),
        )

    def encode_rows(self, codec: Codec, vectors: F32) -> CodedRows:
        """Return what lists hold of vectors f32[n, d]: place, assign and encode in one trip."""
        return self._product(
            len(vectors) * codec.centroids.size,
            lambda space: code_block(space, codec, self._codecs.of(codec, space.stream), vectors),
            lambda host: host.encode_rows(codec, vectors),
        )

    def _product(
        self,
        multiplications: int,
        on_card: Callable[[Workspace], Part],
        on_host: Callable[[Backend], Part],
    ) -> Part:
        """Run a product of matrices on the card; on the host if it is small, or finds no room."""
        if multiplications < max(1, self._small_product):
            return on_host(self._host)
        try:
            with self._guarded(), self._spaces.one() as space:
                return on_card(space)
        except (NoRoom, IndexFull):
            return on_host(self._host)

    def open_lists(self, codec: Codec) -> Lists:
        """Return empty lists for ``codec``; raise IndexFull where not even that fits."""
        with self._guarded():
            with self._spaces.one() as space:
                prepared = self._codecs.of(codec, space.stream)
            return DeviceLists.empty(codec, Ground(prepared, self._spaces, self._budget))

    def rewrite_lists(
        self, lists: Lists, kept: U8, *, renumber: bool, pause: Callable[[], None]
    ) -> Lists:
        """Copy the rows that ``kept`` has set from page to page; nothing goes over the bus."""
        own = _own(lists)
        with self._guarded():
            with self._spaces.one() as space:
                bits = self._bitmaps.of(kept, space.stream)
            return rewritten_lists(own, Survivors(kept, bits, renumber), pause)

    def choose_lists(self, codec: Codec, queries: F32, nprobe: int) -> tuple[I32, F32]:
        """Return the best lists of placed queries, nearest first, and their constants B."""
        nprobe = min(nprobe, codec.nlist)
        if nprobe > MOST_RESULTS or len(queries) == 0:
            return super().choose_lists(codec, queries, nprobe)
        with self._guarded(), self._spaces.one() as space:
            prepared = self._codecs.of(codec, space.stream)
            parts = _in_parts(
                len(queries),
                self.most_queries,
                lambda part: choose_block(space, prepared, queries[part], nprobe),
            )
        numbers, constants = zip(*parts, strict=True)
        return np.concatenate(numbers), np.concatenate(constants)

    def scan(
        self, lists: Lists, queries: F32, probes: I32, constants: F32, allowed: U8, limit: int
    ) -> tuple[I64, F32]:
        """Return the ``limit`` best rows of the probed lists that ``allowed`` has set."""
        own, n = _own(lists), len(queries)
        ids, scores = np.empty((n, limit), np.int64), np.empty((n, limit), np.float32)
        probes = np.ascontiguousarray(probes, np.int32)
        constants = np.ascontiguousarray(constants, np.float32)
        deep = limit > MOST_RESULTS
        scan_part, most = (scan_deep, 1) if deep else (scan_block, self.most_queries)
        with self._guarded(), self._spaces.one() as space:
            bits = self._bitmaps.of(allowed, space.stream)

            def scan_some(part: slice) -> None:
                chosen = probes[part], constants[part]
                found = scan_part(space, own, queries[part], chosen, bits, limit)
                ids[part], scores[part] = found

            _in_parts(n, most, scan_some)
        return ids, scores

    def search_lists(
        self, lists: Lists, rows: Rows, queries: F32, depth: Depth, allowed: U8
    ) -> SearchResult:
        """Choose lists, scan, and compare the raw rows, without waiting in between."""
        own = _own(lists)
        depth = depth._replace(nprobe=min(depth.nprobe, own.codec.nlist))
        depth = depth._replace(rerank=max(depth.rerank, depth.k))
        with self._guarded(), self._spaces.one() as space:
            visible = self._rows.of(rows, own.rows_end, space.stream)
            if visible is not None and max(depth) <= MOST_RESULTS:
                bits = self._bitmaps.of(allowed, space.stream)
                rows_there = visible
                parts = _in_parts(
                    len(queries),
                    self.most_queries,
                    lambda part: search_block(space, own, rows_there, queries[part], depth, bits),
                )
                return _joined(parts, depth.k)
        return super().search_lists(lists, rows, queries, depth, allowed)

    def runs_filters(self, n_rows: int) -> bool:
        """Say whether the card is faster than the host with that many rows."""
        return n_rows >= max(1, self._small_filter)

    def filter_rows(
        self,
        rows: Rows,
        columns: Mapping[str, FilterColumn],
        program: FilterProgram,
        alive: U8,
        span: range,
    ) -> U8 | None:
        """Return for which rows of ``span`` a program is TRUE; None: the host has to look."""
        read = [columns[name] for name in program.columns]
        with self._guarded(), self._spaces.one() as space:
            visible = self._columns.of(rows, program.columns, read, span.stop, space.stream)
            if visible is None:
                return None
            bits = self._bitmaps.of(alive, space.stream)
            try:
                return filter_block(space, program, visible.places, bits, span)
            except NoRoom:
                return None

    def exact(
        self, rows: Rows, queries: F32, k: int, where: range | I64, allowed: U8 | None
    ) -> SearchResult:
        """Return the k nearest rows of ``where`` that ``allowed`` has set."""
        if len(where) == 0 or len(queries) == 0:
            return no_hits(len(queries), k)
        needed = int(where[-1]) + 1
        with self._guarded(), self._spaces.one() as space:
            visible = self._rows.of(rows, needed, space.stream) if k <= MOST_RESULTS else None
            if visible is not None:
                bits = None if allowed is None else self._bitmaps.of(allowed, space.stream)
                rows_there = visible
                parts = _in_parts(
                    len(queries),
                    EXACT_QUERIES,
                    lambda part: exact_block(space, rows_there, queries[part], k, where, bits),
                )
                return _joined(parts, k)
        return self._host.exact(rows, queries, k, where, allowed)

    def distances(self, rows: Rows, queries: F32, row_ids: I64) -> F32:
        """Return exact distances f32[q, r] to ``row_ids`` i64[q, r]; +inf for id -1."""
        if row_ids.size == 0:
            return np.empty(row_ids.shape, np.float32)
        with self._guarded(), self._spaces.one() as space:
            visible = self._rows.of(rows, int(row_ids.max()) + 1, space.stream)
            if visible is not None:
                rows_there = visible
                parts = _in_parts(
                    len(queries),
                    most_queries(row_ids.shape[1]),
                    lambda part: distances_block(space, rows_there, queries[part], row_ids[part]),
                )
                return np.concatenate(parts)
        return self._host.distances(rows, queries, row_ids)

    def _give_way(self, nbytes: int) -> None:
        """Let go of what is there to be faster: filter columns first, then raw rows."""
        self._columns.give_way(nbytes)
        self._rows.give_way(nbytes)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Refuse to go on with a lost card, and tell whoever cares when it is lost."""
        if self.lost is not None:
            raise DeviceLost(self.lost)
        try:
            yield
        except DeviceLost as error:
            self.lost = str(error)
            self.when_lost(self.lost)
            raise


def _in_parts(n: int, most: int, run: Callable[[slice], Part]) -> list[Part]:
    """Run queries [0, n) at most ``most`` at a time; halve parts that the card has no room for."""

    def attempt(part: slice) -> list[Part]:
        size = part.stop - part.start
        try:
            return [run(part)]
        except NoRoom:
            if size < 2:
                raise
        middle = part.start + size // 2
        return attempt(slice(part.start, middle)) + attempt(slice(middle, part.stop))

    parts = [slice(first, min(n, first + most)) for first in range(0, n, most)]
    return [done for part in parts for done in attempt(part)]


def _joined(parts: list[SearchResult], k: int) -> SearchResult:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return no_hits(0, k)
    ids = np.concatenate([part.ids for part in parts])
    return SearchResult(ids, np.concatenate([part.distances for part in parts]))


def _own(lists: Lists) -> DeviceLists:
    if not isinstance(lists, DeviceLists):
        raise BackendError("these lists belong to another backend")
    return lists
