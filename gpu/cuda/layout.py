"""How lists, codecs, raw rows and bitmaps lie in device memory: what every kernel relies on.

All offsets and addresses are 64 bits wide; counts, row ids (below 2^31, see rows.py) and list
numbers are int32. Little-endian. L lists, m sub-quantizers of K = 2^bits codewords and s dims.

Lists
    A list is a chain of *pages*, a page is ``PAGE_GROUPS`` *groups*, a group holds 32 rows. Row
    number ``slot`` of a list (0, 1, ... in the order of arrival) lies in

        page   pages[starts[list] + slot / PAGE_ROWS]       an address: u64
        group  (slot % PAGE_ROWS) / 32                      group_bytes each
        lane   slot % 32

    A group, ``ListLayout.group_bytes`` = 512 * chunks + 256 bytes:

        offset                    content
        512 * c + 16 * lane       bytes [16 c, 16 c + 16) of the row's stored code, zero padded
        512 * chunks + 2 * lane   bias, float16
        ...  +  64 + 2 * lane     gain, float16
        ...  + 128 + 4 * lane     row id, int32

    so a warp reads 512 consecutive bytes at a time, one row a lane. The stored code is what
    ``pq.pack_codes`` makes: 4-bit sub-quantizer 2i in the low half of byte i. Slots at and past a
    list's length hold anything: kernels never let them through. Pages are aligned to 256 bytes
    and lie anywhere, usually in one slab.

    A version of lists is three arrays: ``starts`` i32[L], places in ``pages``; ``lengths`` i32[L],
    dead rows included; ``pages`` u64[...], addresses. Later versions may share pages: an append
    writes slots past the lengths of the versions before it, and nothing that those can see.

Codec
    ``codec_arrays`` says it: rows of centroids and codebooks are zero padded to whole float4s, and
    codebooks lie [m, s, K] so that neighbouring threads read neighbouring codewords.
    ``plain_centroids`` are the centroids turned back by the rotation: p . c = (x R) . c = x . (R c)
    lets lists be chosen before, and while, the query is rotated.

Tables of a query
    float32 [padded m, K], zero for padding; ``largest`` u32, the bits of the largest |entry|. Who
    stages a table in shared memory rounds it to float16 with the power of two of pq.py.

Raw rows
    Row i starts at ``chunks[i >> shift] + (i & (2^shift - 1)) * stride_bytes``: float32 or float16
    components. Chunk addresses (u64) are device memory or pinned host memory alike. Kernels load
    16 bytes at a time where addresses and stride allow it, and single components elsewhere; so
    memory made for the device pads its stride to 16 bytes with zeros.

Bitmaps
    Packed as in bitmap.py and read as 32-bit words: their bytes are padded to a multiple of 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpu.arrays import F32, U8
from gpu.codec import Codec
from gpu.pq import code_bytes

#: Rows of a group: the lanes of a warp.
GROUP_ROWS = 32
#: One load of a lane.
CHUNK_BYTES = 16
#: Biases, gains and row ids of a group.
FACTOR_BYTES = (2 + 2 + 4) * GROUP_ROWS
#: Groups of a page. Lists of sqrt(n) / 3 rows are short (1,200 rows at ten million), and half a
#: page is lost in each, so pages are small; 5 KiB at 64 sub-quantizers is still one DRAM page.
#: Kernels know this number (lists.cuh).
PAGE_GROUPS = 4
PAGE_ROWS = PAGE_GROUPS * GROUP_ROWS
#: Floats of one 16-byte load.
FLOAT4 = 4
#: Metrics as kernels know them.
METRICS = {"l2": 0, "cosine": 1, "ip": 2}


@dataclass(frozen=True, slots=True)
class ListLayout:
    """Sizes that follow from a codec's ``bits`` and ``m``."""

    bits: int
    m: int

    @property
    def code_bytes(self) -> int:
        """Bytes of a stored code."""
        return code_bytes(self.m, self.bits)

    @property
    def chunks(self) -> int:
        """16-byte pieces of a code."""
        return -(-self.code_bytes // CHUNK_BYTES)

    @property
    def group_bytes(self) -> int:
        """Bytes of 32 rows."""
        return CHUNK_BYTES * GROUP_ROWS * self.chunks + FACTOR_BYTES

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, a multiple of its alignment."""
        return PAGE_GROUPS * self.group_bytes

    @property
    def padded_m(self) -> int:
        """Sub-quantizers that whole chunks have room for."""
        return self.chunks * CHUNK_BYTES * 8 // self.bits

    @property
    def codewords(self) -> int:
        """K, codewords of a sub-quantizer."""
        return 1 << self.bits

    @property
    def table_bytes(self) -> int:
        """Bytes of one query's table in device memory."""
        return 4 * self.padded_m * self.codewords

    def pages(self, rows: int) -> int:
        """Pages that a list of ``rows`` takes."""
        return -(-rows // PAGE_ROWS)


class ListsView(NamedTuple):
    """A version of lists as kernels get it: addresses of the arrays above."""

    starts: int
    lengths: int
    pages: int


class RowsView(NamedTuple):
    """Raw rows as kernels get them; ``chunks`` is the address of u64 addresses."""

    chunks: int
    shift: int
    stride_bytes: int
    dim: int
    is_half: bool
    metric: int


class CodecArrays(NamedTuple):
    """A codec as it lies on the device; ``rotation`` is empty where there is none.

    ``centre`` f32[d'], ``rotation`` f32[d, D'], ``centroids`` f32[L, D'], ``plain_centroids``
    f32[L, d'] (f32[L, D'] where nothing is rotated), ``sigma``, ``bias_mean``, ``bias_unit``
    f32[L], ``codebooks`` f32[m, s, K]; d' and D' are d and D padded to whole float4s.
    """

    centre: F32
    rotation: F32
    centroids: F32
    plain_centroids: F32
    sigma: F32
    bias_mean: F32
    bias_unit: F32
    codebooks: F32


class CodecView(NamedTuple):
    """A codec as kernels get it: sizes, and addresses of ``CodecArrays``; 0 for no rotation.

    ``dim`` d, ``placed_dim`` D, ``width`` s. ``rounds`` says whether tables are float16.
    ``largest_decoded`` is at least the norm of every decoded code.
    """

    metric: int
    dim: int
    placed_dim: int
    nlist: int
    m: int
    bits: int
    width: int
    rounds: bool
    scale: float
    query_norm: float
    largest_decoded: float
    centre: int
    rotation: int
    centroids: int
    plain_centroids: int
    sigma: int
    bias_mean: int
    bias_unit: int
    codebooks: int

    @property
    def layout(self) -> ListLayout:
        """The sizes of its lists."""
        return ListLayout(self.bits, self.m)

    @property
    def stride(self) -> int:
        """Floats from one placed query, or centroid, to the next."""
        return padded(self.placed_dim)

    @property
    def plain_stride(self) -> int:
        """Floats from one query before its rotation, or plain centroid, to the next."""
        return padded(self.dim) if self.rotation else self.stride


def padded(floats: int) -> int:
    """Return ``floats`` rounded up to whole float4s."""
    return -(-floats // FLOAT4) * FLOAT4


def codec_arrays(codec: Codec) -> CodecArrays:
    """Return a codec's arrays as the device wants them."""
    centroids = _widened(codec.centroids)
    rotation, plain = np.empty((0, 0), np.float32), centroids
    if codec.rotation is not None:
        rotation = _widened(codec.rotation)
        plain = _widened(codec.centroids @ codec.rotation.T)
    return CodecArrays(
        _widened(codec.centre[None])[0],
        rotation,
        centroids,
        plain,
        codec.sigma,
        codec.bias_mean,
        codec.bias_unit,
        np.ascontiguousarray(codec.codebooks.transpose(0, 2, 1)),
    )


def codec_view(codec: Codec, addresses: Mapping[str, int]) -> CodecView:
    """Return the view of a codec whose ``CodecArrays`` lie at ``addresses``, by name."""
    _, _, width = codec.codebooks.shape
    squares = np.square(codec.codebooks, dtype=np.float64).sum(axis=2)
    return CodecView(
        metric=METRICS[codec.metric],
        dim=codec.dim,
        placed_dim=codec.centroids.shape[1],
        nlist=codec.nlist,
        m=codec.m,
        bits=codec.bits,
        width=width,
        rounds=codec.lut == "float16",
        scale=codec.scale,
        query_norm=codec.query_norm,
        largest_decoded=float(np.sqrt(squares.max(axis=1).sum())),
        **{name: int(addresses[name]) for name in CodecArrays._fields},
    )


def bitmap_bytes(allowed: U8) -> U8:
    """Return a packed bitmap padded to whole words."""
    return np.pad(allowed, (0, -len(allowed) % 4))


def _widened(rows: F32) -> F32:
    """Return f32[n, d] zero padded to whole float4s."""
    width = -rows.shape[1] % FLOAT4
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, width))), np.float32)
