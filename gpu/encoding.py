"""Rows to list numbers, codes, biases and gains. The formulas are in codec.py.

A row that a codec cannot represent (not finite once placed, or its residual is far longer than its
list's usual one) is set aside: it is never in a list and always searched exactly. Rows without a
direction under cosine are neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .arrays import F16, F32, I32, I64, U8, AnyArray, Bool
from .backend import Backend
from .codec import Codec
from .pq import code_bytes, decode, pack_codes

#: Rows with a residual this many times their list's median are set aside.
LARGEST_RESIDUAL = 16.0
#: Residuals below this share of the median are zero up to rounding: gain 0 says exactly that.
ZERO_RESIDUAL = 1e-4
#: Gains outside are no better than noise (seen on real data: 0.93 to 3.3).
SMALLEST_GAIN, LARGEST_GAIN = 0.5, 4.0
#: The largest finite float16; a clipped bias keeps a row findable.
LARGEST_HALF = 65504.0
#: Components encoded at a time.
BLOCK_COMPONENTS = 1 << 22


class Encoded(NamedTuple):
    """Rows for the lists, ids i64[a] set aside, and the sum of |r|^2 of the rows for the lists."""

    contents: ListContents
    aside: I64
    squares: float


class CodedRows(NamedTuple):
    """What lists hold of n rows: ``list_ids`` i32, ``codes`` u8[n, m], ``bias``, ``gain`` f16.

    ``fits`` bool[n]: whether lists can hold the row at all; where not, the rest says nothing.
    ``squares`` f32[n]: the squared distance of the placed row to its centroid.
    """

    list_ids: I32
    codes: U8
    bias: F16
    gain: F16
    fits: Bool
    squares: F32


@dataclass(frozen=True, slots=True, eq=False)
class ListContents:
    """Encoded rows: lists i32[n], row ids i64[n], stored codes u8[n, bytes], bias, gain f16[n]."""

    list_ids: I32
    row_ids: I64
    codes: U8
    bias: F16
    gain: F16

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, places: I64 | slice | Bool) -> ListContents:
        """Return the rows at ``places``."""
        return ListContents(
            self.list_ids[places],
            self.row_ids[places],
            self.codes[places],
            self.bias[places],
            self.gain[places],
        )


def joined(parts: list[ListContents], codec: Codec) -> ListContents:
    """Return the rows of ``parts`` one after another."""
    parts = [nothing(codec), *parts]
    return ListContents(
        np.concatenate([part.list_ids for part in parts]),
        np.concatenate([part.row_ids for part in parts]),
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.bias for part in parts]),
        np.concatenate([part.gain for part in parts]),
    )


def nothing(codec: Codec) -> ListContents:
    """Return no rows in the codec's shapes."""
    return ListContents(
        np.empty(0, np.int32),
        np.empty(0, np.int64),
        np.empty((0, code_bytes(codec.m, codec.bits)), np.uint8),
        np.empty(0, np.float16),
        np.empty(0, np.float16),
    )


def encode_rows(codec: Codec, backend: Backend, vectors: AnyArray, row_ids: I64) -> Encoded:
    """Encode f32 or f16 [n, d] as rows ``row_ids`` i64[n]."""
    step = max(1, BLOCK_COMPONENTS // codec.centroids.shape[1])
    parts = []
    for first in range(0, len(vectors), step):
        block: F32 = vectors[first : first + step].astype(np.float32, copy=False)
        ids = row_ids[first : first + step]
        if codec.metric == "cosine":
            directed: Bool = np.any(block, axis=1)
            block, ids = (block, ids) if directed.all() else (block[directed], ids[directed])
        parts.append(_encode_block(codec, backend, block, ids))
    return Encoded(
        joined([part.contents for part in parts], codec),
        np.concatenate([np.empty(0, np.int64), *(part.aside for part in parts)]),
        sum(part.squares for part in parts),
    )


def _encode_block(codec: Codec, backend: Backend, vectors: F32, row_ids: I64) -> Encoded:
    rows = backend.encode_rows(codec, vectors)
    codes = pack_codes(rows.codes, codec.bits)
    contents = ListContents(rows.list_ids, row_ids, codes, rows.bias, rows.gain)
    squares = float(rows.squares[rows.fits].sum(dtype=np.float64))
    if rows.fits.all():
        return Encoded(contents, np.empty(0, np.int64), squares)
    return Encoded(contents.take(rows.fits), row_ids[~rows.fits], squares)


def coded_rows(
    codec: Codec, backend: Backend, vectors: F32, lists_of: Callable[[F32], I32]
) -> CodedRows:
    """Return what lists hold of f32[n, d]: what ``Backend.encode_rows`` is defined to return.

    ``lists_of``: the lists i32[n] of placed rows f32[n, D].
    """
    rows = codec.place_rows(vectors)
    fits: Bool = np.all(np.isfinite(rows), axis=1)
    if not fits.all():
        rows = np.where(fits[:, None], rows, np.float32(0))
    list_ids = lists_of(rows)
    terms = backend.terms(codec, rows, list_ids)
    fits &= terms.residual_ratio(codec) <= LARGEST_RESIDUAL
    bias, gain = terms.bias_and_gain(codec)
    with np.errstate(over="ignore", invalid="ignore"):
        relative = (bias - codec.bias_mean[list_ids]) / codec.bias_unit[list_ids]
        stored = np.clip(relative, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
        squares = terms.rr * np.square(terms.sigma)
    return CodedRows(list_ids, terms.codes, stored, gain.astype(np.float16), fits, squares)


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What biases and gains are made of, per row; r and rhat in units of the list's sigma.

    ``rr`` = r.r, ``ss`` = rhat.rhat, ``rs`` = r.rhat, ``cr`` = c.r, ``cs`` = c.rhat, all f32[n].
    """

    codes: U8
    sigma: F32
    rr: F32
    ss: F32
    rs: F32
    cr: F32
    cs: F32

    @classmethod
    def of(cls, codec: Codec, backend: Backend, rows: F32, list_ids: I32) -> Terms:
        """Encode placed rows f32[n, D] with known lists, as ``Backend.terms`` is defined to."""
        centroids, sigma = codec.centroids[list_ids], codec.sigma[list_ids]
        residuals = rows - centroids
        with np.errstate(over="ignore", invalid="ignore"):
            residuals /= sigma[:, None]
            codes = backend.encode(residuals, codec.codebooks)
            decoded = decode(codes, codec.codebooks)
            pairs = (
                (residuals, residuals),
                (decoded, decoded),
                (residuals, decoded),
                (centroids, residuals),
                (centroids, decoded),
            )
            products = [np.einsum("nd,nd->n", a, b) for a, b in pairs]
        return cls(codes, sigma, *products)

    def residual_ratio(self, codec: Codec) -> F32:
        """Return |r| over the list's usual |r|; sigma is that per component, NaN counts as far."""
        with np.errstate(invalid="ignore"):
            ratio = np.sqrt(self.rr / np.float32(codec.dim))
        known: F32 = np.nan_to_num(ratio, nan=np.inf).astype(np.float32)
        return known

    def bias_and_gain(self, codec: Codec) -> tuple[F32, F32]:
        """Return bias and gain f32[n]; the bias is made with the gain as float16 will hold it."""
        if codec.use_gain:
            gain = self.gain(codec)
            return self.unbiased_bias(codec, gain), gain
        return self.standard_bias(codec), np.ones_like(self.rr)

    def standard_bias(self, codec: Codec) -> F32:
        """Return the bias f32[n] that goes with gain 1."""
        if codec.metric == "ip":
            return np.zeros_like(self.rr)
        with np.errstate(over="ignore", invalid="ignore"):
            bias: F32 = np.nan_to_num(self.sigma * (self.sigma * self.ss / 2 + self.cs))
        return bias

    def unbiased_bias(self, codec: Codec, gain: F32) -> F32:
        """Return the bias f32[n] that goes with ``gain`` f32[n]."""
        with np.errstate(over="ignore", invalid="ignore"):
            if codec.metric == "ip":
                bias = self.sigma * (gain * self.cs - self.cr)
            else:
                bias = self.sigma * (self.sigma * self.rr / 2 + gain * self.cs)
        known: F32 = np.nan_to_num(bias)
        return known

    def gain(self, codec: Codec) -> F32:
        """Return r.r / r.rhat, held within bounds; 1 where r.rhat says nothing, 0 where r is 0."""
        tells = self.rs > 0.001 * self.rr
        ratio = np.divide(self.rr, self.rs, out=np.ones_like(self.rr), where=tells)
        bounded = np.clip(ratio, SMALLEST_GAIN, LARGEST_GAIN)
        is_zero = self.rr <= codec.dim * ZERO_RESIDUAL**2
        gain: F16 = np.where(is_zero, 0, bounded).astype(np.float16)
        return gain.astype(np.float32)
