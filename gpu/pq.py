"""Product quantization (Jegou, Douze, Schmid 2011) of residuals, 4 or 8 bits a sub-quantizer.

A vector of D = m * s components is cut into m pieces of s; each is replaced by the number of the
nearest of K = 2^bits codewords. 4-bit numbers lie two in a byte: sub-quantizer 2i in the low half,
2i + 1 in the high half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from .arrays import F32, I64, U8
from .kmeans import GROWTH_DIVISOR

if TYPE_CHECKING:
    from .backend import CodewordStep

#: Training rows per codeword, and those that seeding looks at; more change the codewords little.
ROWS_PER_CODEWORD = 256
SEEDING_ROWS, FEW_ROWS = 32, 64
#: The last iterations see all training rows, the first ones FEW_ROWS a codeword.
WHOLE_ITERATIONS = 4
ITERATIONS = 12

LutType = Literal["float16", "float32"]


class CodewordSums(Protocol):
    """Sums and counts of the pieces of f32[n, m * s] by their codeword in f32[m, K, s]."""

    def __call__(self, residuals: F32, codebooks: F32) -> CodewordStep:
        """See ``Backend.codeword_step``."""
        ...


def train_codebooks(
    residuals: F32,
    m: int,
    bits: int,
    *,
    rng: np.random.Generator,
    codeword_step: CodewordSums,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> F32:
    """Return codebooks f32[m, 2^bits, s] for ``residuals`` f32[n, m * s], rows in random order.

    k-means in all m sub-spaces at once, each iteration one ``codeword_step``.
    """
    on_step(0, ITERATIONS + 1)
    pieces = np.ascontiguousarray(residuals.reshape(len(residuals), m, -1).transpose(1, 0, 2))
    books = _seeds(pieces[:, : SEEDING_ROWS << bits], 1 << bits, rng)
    for step in range(ITERATIONS):
        on_step(step + 1, ITERATIONS + 1)
        whole = step >= ITERATIONS - WHOLE_ITERATIONS
        size = len(residuals) if whole else min(len(residuals), FEW_ROWS << bits)
        sums, counts = codeword_step(residuals[:size], books)
        means = sums / np.maximum(counts, 1)[:, :, None]
        books = np.where(counts[:, :, None] > 0, means, books).astype(np.float32)
        _refill(pieces[:, :size], books, counts, rng)
    return books


def _seeds(pieces: F32, size: int, rng: np.random.Generator) -> F32:
    """Return seeds f32[m, size, s] of ``pieces`` f32[m, n, s], drawn as in kmeans.py."""
    m, n, _ = pieces.shape
    each = np.arange(m)[:, None]
    chosen = rng.integers(n, size=(m, 1))
    error = np.full((m, n), np.inf, np.float32)
    fresh = chosen
    while True:
        error = np.minimum(error, _squares(pieces, pieces[each, fresh]))
        if chosen.shape[1] >= size:
            return pieces[each, chosen]
        batch = min(size - chosen.shape[1], max(1, chosen.shape[1] // GROWTH_DIVISOR), n)
        with np.errstate(divide="ignore"):
            keys = rng.standard_exponential((m, n), dtype=np.float32) / error
        fresh = np.argpartition(keys, batch - 1, axis=1)[:, :batch]
        chosen = np.concatenate([chosen, fresh], axis=1)


def _squares(pieces: F32, seeds: F32) -> F32:
    """Return the squared distance f32[m, n] of each piece to the nearest of seeds f32[m, b, s]."""
    nearest = np.empty(pieces.shape[:2], np.float32)
    for own, seed, out in zip(pieces, seeds, nearest, strict=True):
        halves = np.einsum("bs,bs->b", seed, seed) / 2
        np.min(halves - own @ seed.T, axis=1, out=out)
    squares = np.einsum("mns,mns->mn", pieces, pieces)
    distances: F32 = np.maximum(squares + 2 * nearest, 0)
    return distances


def _refill(pieces: F32, books: F32, counts: I64, rng: np.random.Generator) -> None:
    """Put codewords that no piece uses on random pieces."""
    of, unused = np.nonzero(counts == 0)
    books[of, unused] = pieces[of, rng.integers(pieces.shape[1], size=len(of))]


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
