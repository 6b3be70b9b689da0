"""Product quantization (Jegou, Douze, Schmid 2011) of residuals, 4 or 8 bits a sub-quantizer.

A vector of D = m * s components is cut into m pieces of s; each is replaced by the number of the
nearest of K = 2^bits codewords. 4-bit numbers lie two in a byte: sub-quantizer 2i in the low half,
2i + 1 in the high half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from .arrays import F32, U8
from .kmeans import Nearest, kmeans

#: Training rows per codeword; more change the codewords little.
ROWS_PER_CODEWORD = 256
ITERATIONS = 12

LutType = Literal["float16", "float32"]


def train_codebooks(
    residuals: F32,
    m: int,
    bits: int,
    *,
    rng: np.random.Generator,
    nearest: Nearest,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> F32:
    """Return codebooks f32[m, 2^bits, s] for ``residuals`` f32[n, m * s]."""
    pieces = residuals.reshape(len(residuals), m, -1)
    books = []
    for j in range(m):
        on_step(j, m)
        piece = np.ascontiguousarray(pieces[:, j])
        books.append(kmeans(piece, 1 << bits, rng=rng, nearest=nearest, iterations=ITERATIONS))
    return np.stack(books)


def decode(codes: U8, codebooks: F32) -> F32:
    """Return the codewords of ``codes`` u8[n, m] joined, f32[n, m * s]."""
    m, size, width = codebooks.shape
    places = codes.astype(np.int64) + size * np.arange(m)
    words: F32 = codebooks.reshape(m * size, width)[places]
    return words.reshape(len(codes), m * width)


def pack_codes(codes: U8, bits: int) -> U8:
    """Return u8[n, m] as it is stored: u8[n, m] for 8 bits, u8[n, ceil(m / 2)] for 4."""
    if bits == 8:
        return codes
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    packed: U8 = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    return packed


def lookup_tables(queries: F32, codebooks: F32, lut: LutType) -> F32:
    """Return -query . codeword for each stored byte value: f32[q, bytes, 256].

    ``queries`` f32[q, m * s]. Entries are rounded to ``lut`` after a power of two per query has
    brought the largest into [4, 8), where float16 neither overflows nor loses digits. Pairs of
    4-bit tables are added up to one table per byte.
    """
    m, size, width = codebooks.shape
    pieces = queries.reshape(len(queries), m, width).transpose(1, 0, 2)
    tables: F32 = -np.matmul(pieces, codebooks.transpose(0, 2, 1)).transpose(1, 0, 2)
    if lut == "float16":
        tables = _rounded(tables)
    if size == 256:
        return np.ascontiguousarray(tables)
    if m % 2:
        tables = np.pad(tables, ((0, 0), (0, 1), (0, 0)))
    pairs: F32 = tables[:, 1::2, :, None] + tables[:, 0::2, None, :]
    return pairs.reshape(len(queries), -1, 256)


def accumulate(table: F32, stored: U8) -> F32:
    """Return the sum of one query's table entries f32[bytes, 256] for u8[n, bytes], as f32[n]."""
    columns = np.ascontiguousarray(stored.T)
    total = np.zeros(len(stored), np.float32)
    for entries, column in zip(table, columns, strict=True):
        total += entries.take(column)
    return total


def power_of_two_near(values: F32) -> F32:
    """Return the largest powers of two not above positive ``values``; 1 for zero."""
    exponent = np.frexp(values)[1] - 1
    powers: F32 = np.ldexp(np.float32(1), exponent).astype(np.float32)
    return np.where(values > 0, powers, np.float32(1))


def _rounded(tables: F32) -> F32:
    alpha = power_of_two_near(np.abs(tables).max(axis=(1, 2))) / np.float32(4)
    scaled = (tables / alpha[:, None, None]).astype(np.float16)
    return scaled.astype(np.float32) * alpha[:, None, None]


def code_bytes(m: int, bits: int) -> int:
    """Return the stored bytes of one code."""
    return m if bits == 8 else (m + 1) // 2
