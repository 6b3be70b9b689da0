"""How rows of a list lie in memory, and what kernels are told about codecs, lists and rows.

A list is a run of blocks of 64 rows, then their row ids as int32. A block is

    codes | bias float16[64] | gain float16[64]

in one stream, so that a scan reads memory in order. Codes of 4 bits, two rows r and r + 16 a byte:

    avx512   byte 128 (j / 4) + 64 (r / 32) + 4 (r % 16) + j % 4   four sub-quantizers j of a row
             lie side by side: one lookup in 64 entries, and one instruction adds the four up
    others   byte  32 j       + 16 (r / 32) +    r % 16            16 rows of one sub-quantizer lie
             side by side, as byte shuffles want them

Codes of 8 bits: byte 64 j + r. Room for sub-quantizers is a multiple of four.
"""

from __future__ import annotations

from .features import FLAVOUR
from .jit import compiled

#: Rows of a block.
BLOCK = 64
#: Bytes of biases and gains of a block.
FACTOR_BYTES = 2 * 2 * BLOCK

WIDE = FLAVOUR == "avx512"

#: Metrics as kernels know them.
METRICS = {"l2": 0, "cosine": 1, "ip": 2}

# Places in the int64 array that describes a codec; names ending in AT are addresses.
(
    DIM,  # D, placed dims
    NLIST,
    M,  # sub-quantizers
    BITS,
    WIDTH,  # s, dims of a sub-quantizer
    METRIC,  # 0: l2, 1: cosine, 2: ip
    CODE_BYTES,  # of a block
    BLOCK_BYTES,
    CENTROIDS_AT,  # f32[L, D padded to 16]
    BOOKS_AT,  # f32[m, K / 16, s, 16]
    SIGMA_AT,  # f32[L]
    MEAN_AT,  # f32[L]
    UNIT_AT,  # f32[L]
    LIMITS_AT,  # f32[4], see below
    PADDED_LISTS,
    HALVES_AT,  # f32[padded L]: |c|^2 / 2 or 0; BIG for padding
    TILES_AT,  # centroids in tiles of 64, see coarse.py
    COARSE_KIND,  # 0: float32 tiles, 1: int8 tiles, 2: int8 tiles good enough for constants
    MIDDLE_AT,  # f32[D], taken from queries for int8 tiles; zeros for ip
    CORRECTIONS_AT,  # i32[padded L]: -128 times the sum of the bytes
    SCALES_AT,  # f32[padded L]: steps of the bytes
    QUERY_DIM,  # d
    CENTRE_AT,  # f32[d]
    ROTATION_AT,  # minus the rotation, D padded to 64, in tiles as centroids; 0 for none
    TURNED_DIM,  # D padded to 64
    ZEROS_AT,  # f32[max(d, D) padded to 64]
    TURN_KIND,  # 0: float32 tiles of the rotation, 1: int8 tiles
    TURN_CORRECTIONS_AT,  # i32[D padded to 64], as CORRECTIONS_AT
    TURN_SCALES_AT,  # f32[D padded to 64], as SCALES_AT
    SKETCH_DIM,  # s, 0 for none; sketches are int8 where centroids are, see sketch.py
    SKETCH_TILES_AT,  # sketches of the centroids, as TILES_AT
    SKETCH_HALVES_AT,  # f32[padded L], as HALVES_AT
    SKETCH_SCALES_AT,  # f32[padded L], as SCALES_AT
    SKETCH_CORRECTIONS_AT,  # i32[padded L], as CORRECTIONS_AT
    SKETCH_MIDDLE_AT,  # f32[D], taken from queries before they are projected; zeros for ip
    SKETCH_KEPT_AT,  # i64[32]: centroids kept for up to 2^i lists; 0: look at all
    PROJECTION_AT,  # minus the principal components, s padded to 64, in tiles as centroids
    PROJECTION_SCALES_AT,  # f32[s padded to 64], as SCALES_AT
    PROJECTION_CORRECTIONS_AT,  # i32[s padded to 64], as CORRECTIONS_AT
    CENTROID_BYTES_AT,  # int8[L, D padded to 64], where sketches are int8
) = range(40)
CODEC_PLACES = 40
(
    LARGEST_STEP,  # of byte tables
    SCALE,
    QUERY_NORM,
    FARTHEST,  # norm of a placed query that lists can answer
) = range(4)

# Places in the int64 array that describes a version of lists.
(
    BLOCKS_AT,  # i64[L]: addresses
    IDS_AT,  # i64[L]: addresses
    LENGTHS_AT,  # i64[L]
) = range(3)
LISTS_PLACES = 3

# Places in the int64 array that describes raw rows.
(
    RAW_DIM,
    RAW_BYTES,  # of a row
    IS_HALF,
    RAW_METRIC,  # as METRIC
    SHIFT,
    CHUNKS_AT,  # i64[chunks]: addresses
) = range(6)
RAW_PLACES = 6


@compiled
def code_byte(bits: int, j: int, row: int) -> int:
    """Return where in a block the code of sub-quantizer ``j`` of ``row`` lies."""
    if bits == 8:
        return BLOCK * j + row
    if WIDE:
        return 128 * (j >> 2) + 64 * (row >> 5) + 4 * (row & 15) + (j & 3)
    return 32 * j + 16 * (row >> 5) + (row & 15)


def code_bytes(bits: int, m: int) -> int:
    """Return the bytes of the codes of a block."""
    return BLOCK * m if bits == 8 else 128 * ((m + 3) // 4)
