"""How many bytes an index takes on a card and on the host, before there is one. Arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

from gpu.params import IndexParams, default_m, default_nlist
from gpu.rotation import MAX_ROTATED_DIM

from .layout import PAGE_ROWS, ListLayout, padded
from .memory import RESERVE_BYTES
from .options import RawLocation
from .rows import stride_bytes
from .slab import GROWTH
from .topk import KEY_BYTES, MOST_RESULTS

GIB = 1 << 30
#: What a CUDA context and the loaded kernels take beside our memory, where nobody has measured it
#: (``context.py``): drivers' documentation gives none; reports range from 250 to 500 MiB.
CONTEXT_BYTES = 500 << 20
#: Share of a card's memory that one may count on; the rest is the driver's and ECC's.
USABLE_SHARE = 0.95
#: Queries of one batch in a workspace, and rows each of them keeps.
BATCH_QUERIES, KEPT_ROWS = 64, 100

#: Memory of cards by their vendor's data sheets, GiB.
CARDS: dict[str, int] = {
    "T4": 16,
    "A10": 24,
    "L4": 24,
    "RTX 4090": 24,
    "RTX 5090": 32,
    "A100 40GB": 40,
    "L40S": 48,
    "A100 80GB": 80,
    "H100": 80,
    "H200": 141,
    "B200": 180,
}


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by what takes them. ``peak``: while lists are made anew beside the old ones."""

    params: IndexParams
    rows: int
    nlist: int
    m: int
    device: dict[str, int]
    host: dict[str, int]
    peak_bytes: int

    @property
    def device_bytes(self) -> int:
        """Bytes on the card in normal running."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        """Bytes on the host, without keys and filter columns."""
        return sum(self.host.values())

    def fitting_cards(self) -> list[str]:
        """Return the cards that hold the peak, the smallest first."""
        return [
            name
            for name, gib in sorted(CARDS.items(), key=lambda card: card[1])
            if self.peak_bytes <= USABLE_SHARE * gib * GIB
        ]


def plan_memory(
    params: IndexParams,
    rows: int,
    raw_location: RawLocation = "device",
    *,
    threads: int = 8,
    context_bytes: int = CONTEXT_BYTES,
) -> MemoryPlan:
    """Plan for ``rows`` row versions of an index; ``threads`` search at the same time."""
    nlist = params.nlist or default_nlist(rows)
    m = params.m or default_m(params.dim, params.code_bits)
    itemsize = 2 if params.raw_dtype == "float16" else 4
    layout = ListLayout(params.code_bits, m)
    pages = -(-rows // PAGE_ROWS) + nlist // 2  # the last page of a list is half full
    lists = pages * layout.page_bytes
    raw = rows * stride_bytes(params.dim, itemsize) if raw_location == "device" else 0
    device = {
        "raw_vectors": raw,
        "lists": lists,
        "lists_spare": int(GROWTH * lists),
        "list_tables": 2 * (8 * pages + 8 * nlist),
        "codec": _codec_bytes(params, nlist, m),
        "bitmaps": 4 * (rows // 8),
        "searches": max(RESERVE_BYTES, threads * _search_bytes(layout, params, nlist)),
        "context": context_bytes,
    }
    host = {"raw_vectors": rows * (params.dim * itemsize + 4), "bitmaps": 2 * (rows // 8)}
    return MemoryPlan(params, rows, nlist, m, device, host, sum(device.values()) + lists)


def _codec_bytes(params: IndexParams, nlist: int, m: int) -> int:
    width = -(-params.dim // m)
    placed, plain = padded(m * width), padded(params.dim)
    codebooks = m * width << params.code_bits
    rotated = plain * placed + nlist * plain if params.dim <= MAX_ROTATED_DIM and m > 1 else 0
    return 4 * (nlist * (placed + 4) + codebooks + rotated)


def _search_bytes(layout: ListLayout, params: IndexParams, nlist: int) -> int:
    """Return what a batch of queries takes: tables, scores of lists, candidates."""
    kept = 2 * KEY_BYTES * min(KEPT_ROWS, MOST_RESULTS)
    query = layout.table_bytes + 4 * nlist + 8 * padded(params.dim) + 40 * nlist // 8 + 4 * kept
    return BATCH_QUERIES * query
