"""Trials on held-out rows: which estimator, whether the rotation helps, how fine the tables are.

What is best depends on the data (gains lose under ip with very unequal norms, PCA loses where
neighbouring components already belong together), and one scan of a sample tells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import F32, I64, U8
from .backend import Backend
from .codec import Codec, half_squares
from .pq import LutType, accumulate, decode, lookup_tables, pack_codes

#: True neighbours looked for, and the numbers of candidates in which they may appear.
NEIGHBOURS = 10
DEPTHS = (10, 20, 50)
#: Table rounding is measured among this many nearest rows of this many queries.
ROUNDING_ROWS, ROUNDING_QUERIES = 500, 32
#: Error of rounded tables over the error of the codes themselves: up to 0.1 it costs no recall.
ROUNDING_MEDIAN, ROUNDING_WORST = 0.1, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Scores f32[q, n] of n rows for q queries: true ones and those of both estimators."""

    true: F32
    standard: F32
    unbiased: F32
    recall_standard: float
    recall_unbiased: float
    codes: U8
    factors: F32

    @property
    def recall(self) -> float:
        """Recall of the better estimator."""
        return max(self.recall_standard, self.recall_unbiased)

    @property
    def gain_helps(self) -> bool:
        """Whether the estimator with gains found more."""
        return self.recall_unbiased > self.recall_standard


def run_trial(codec: Codec, backend: Backend, queries: F32, rows: F32) -> Trial:
    """Score ``rows`` f32[n, D] for ``queries`` f32[q, D], both placed, with ``codec``'s codebooks.

    The codec's ``use_gain`` and bias fields are not looked at.
    """
    list_ids, _ = backend.nearest(rows, codec.centroids)
    terms = backend.terms(codec, rows, list_ids)
    products = -queries @ rows.T
    true = products if codec.metric == "ip" else half_squares(rows) + products
    estimate = -queries @ decode(terms.codes, codec.codebooks).T * terms.sigma
    base = codec.constants(queries)[:, list_ids]
    gain = terms.gain(codec)
    standard = base + terms.standard_bias(codec) + estimate
    unbiased = base + terms.unbiased_bias(codec, gain) + gain * estimate
    nearest = _smallest(true, min(NEIGHBOURS, len(rows)))
    return Trial(
        true,
        standard,
        unbiased,
        _recall(nearest, standard),
        _recall(nearest, unbiased),
        terms.codes,
        gain * terms.sigma,
    )


def table_type(codec: Codec, trial: Trial, queries: F32) -> LutType:
    """Return float16 if rounding the tables changes scores less than the codes themselves do."""
    scores = trial.unbiased if codec.use_gain else trial.standard
    stored = pack_codes(trial.codes, codec.bits)
    queries = queries[:ROUNDING_QUERIES]
    fine = lookup_tables(queries, codec.codebooks, "float32")
    rounded = lookup_tables(queries, codec.codebooks, "float16")
    ratios = []
    for i in range(len(queries)):
        near = _smallest(scores[i : i + 1], ROUNDING_ROWS)[0]
        change = accumulate(rounded[i], stored[near]) - accumulate(fine[i], stored[near])
        own_error = np.std(scores[i, near] - trial.true[i, near])
        ratios.append(np.std(change * trial.factors[near]) / max(float(own_error), 1e-30))
    calm = np.median(ratios) <= ROUNDING_MEDIAN and np.quantile(ratios, 0.99) <= ROUNDING_WORST
    return "float16" if calm else "float32"


def _recall(nearest: I64, scores: F32) -> float:
    """Share of the true neighbours i64[q, k] among the best of f32[q, n], averaged over depths."""
    best = _smallest(scores, max(DEPTHS))
    found = (best[:, :, None] == nearest[:, None, :]).any(axis=2)
    return float(
        np.mean([found[:, :depth].sum(axis=1).mean() for depth in DEPTHS]) / len(nearest[0])
    )


def _smallest(values: F32, count: int) -> I64:
    """Return the places of the ``count`` smallest of each row of f32[q, n], smallest first."""
    count = min(count, values.shape[1])
    chosen = np.argpartition(values, count - 1, axis=1)[:, :count]
    chosen.sort(axis=1)
    order = np.argsort(np.take_along_axis(values, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)
