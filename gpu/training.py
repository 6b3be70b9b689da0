"""Training: from a state's rows to a codec, inverted lists and a plan, in any thread.

It reads one immutable state and changes nothing, so searches and the writer go on meanwhile; the
writer takes the result over with ``Index.adopt``. The order: frame (centre and scale), lists
(k-means), sigma per list, rotation and codebooks by trial, biases, encoding, plan.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .arrays import F32, I32, Bool
from .backend import Backend
from .calibration import calibrate
from .codec import Codec, lengths, placed
from .encoding import LARGEST_RESIDUAL
from .errors import TrainingStopped
from .kmeans import kmeans
from .params import IndexParams, default_m
from .pq import ROWS_PER_CODEWORD, power_of_two_near, train_codebooks
from .rotation import MAX_ROTATED_DIM, balanced_pca
from .sample import MEMORY_BYTES, Sample, draw_sample
from .state import IndexState
from .trained import Trained
from .trial import Trial, run_trial, table_type

Progress = Callable[[str, int, int], None]

KMEANS_ITERATIONS = 10
#: Rows whose component-wise median is the centre.
CENTRE_ROWS = 4096
#: Components of the rows that trials score.
TRIAL_COMPONENTS = 1 << 23
TRIAL_ROWS = 1 << 13
#: A rotation costs d^2 per query; it must find at least this much more.
ROTATION_PAYS = 0.005
#: Residuals below this share of the row itself are rounding, not spread.
ROUNDING = 1e-5
#: Components encoded between two looks at the stop event.
ENCODED_COMPONENTS = 1 << 24
#: Rows per dimension whose covariance decides the rotation.
PCA_ROWS = 32
#: Components of the rows that one pass over the sample works on at a time.
BLOCK_COMPONENTS = 1 << 22


def _silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def train(
    state: IndexState,
    *,
    progress: Progress = _silent,
    stop: threading.Event | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Trained:
    """Learn a codec from a sample of ``state``'s live rows and encode them all.

    ``progress(phase, done, total)`` is called often; phases are sample, lists, codebooks, encode
    and calibrate. ``memory_bytes`` bounds the sample with its copies; blocks of work take up to 200
    MiB whatever it is, and the lists that are made come on top.
    Raise BadInput without rows, TrainingStopped once ``stop`` is set.
    """
    steps = _Steps(progress, stop)
    rng = np.random.default_rng(state.params.seed)
    steps.at("sample", 0, 1)
    sample = draw_sample(state, rng, memory_bytes)
    held_out, queries = sample.held_out, sample.queries
    fit = _Fit(state.params, state.backend, sample, rng, steps)
    del sample  # the fit has its rows, placed
    codec = fit.codec()
    del fit
    trained = _encode_all(state, codec, steps)
    plan = calibrate(state, trained, held_out, queries, steps.of("calibrate"))
    return replace(trained, plan=plan, drift=trained.drift.settled(trained.lists.lengths))


class _Steps:
    """Progress to the caller, and the end of training when it asks for it."""

    def __init__(self, progress: Progress, stop: threading.Event | None) -> None:
        self._progress, self._stop = progress, stop

    def at(self, phase: str, done: int, total: int) -> None:
        if self._stop is not None and self._stop.is_set():
            raise TrainingStopped("training was stopped")
        self._progress(phase, done, total)

    def of(self, phase: str) -> Callable[[int, int], None]:
        return lambda done, total: self.at(phase, done, total)


class _Fit:
    """One codec from one sample."""

    def __init__(
        self,
        params: IndexParams,
        backend: Backend,
        sample: Sample,
        rng: np.random.Generator,
        steps: _Steps,
    ) -> None:
        self._params, self._backend, self._rng, self._steps = params, backend, rng, steps
        self._nlist = sample.nlist
        self._m = params.m or default_m(params.dim, params.code_bits)
        self._width = -(-params.dim // self._m)
        self._centre, self._scale = frame(params, sample.vectors)
        self._rows = self._placed(sample.vectors)
        self._queries = self._placed(sample.queries)
        if params.metric == "ip":
            self._queries *= (self._query_norm() / lengths(self._queries))[:, None]

    def codec(self) -> Codec:
        """Run all steps."""
        centroids = kmeans(
            self._rows,
            self._nlist,
            rng=self._rng,
            backend=self._backend,
            iterations=KMEANS_ITERATIONS,
            on_step=self._steps.of("lists"),
        )
        list_ids, _ = self._backend.nearest(self._rows, centroids)
        sigma = list_scales(self._rows, centroids, list_ids)
        residuals = self._typical_residuals(centroids, sigma, list_ids)
        plain, plain_trial = self._variant(None, centroids, sigma, residuals)
        chosen, trial = plain, plain_trial
        if self._params.dim <= MAX_ROTATED_DIM and self._m > 1:
            covariance = self._backend.covariance(residuals) / len(residuals)
            rotation = balanced_pca(covariance, self._m, self._width)
            turned, turned_trial = self._variant(rotation, centroids, sigma, residuals)
            if turned_trial.recall >= plain_trial.recall + ROTATION_PAYS:
                chosen, trial = turned, turned_trial
        chosen = replace(chosen, use_gain=trial.gain_helps)
        queries = self._turned(self._queries, chosen.rotation)
        chosen = replace(chosen, lut=table_type(chosen, trial, queries))
        return self._with_biases(chosen, list_ids)

    def _placed(self, vectors: F32) -> F32:
        rows = placed(self._params.metric, vectors, self._centre, self._scale)
        kept: Bool = np.all(np.isfinite(rows), axis=1)
        return rows if kept.all() else rows[kept]

    def _query_norm(self) -> np.float32:
        return np.float32(np.median(lengths(self._rows)))

    def _typical_residuals(self, centroids: F32, sigma: F32, list_ids: I32) -> F32:
        """Residuals in units of sigma, f32[r, d], without the few that would be set aside."""
        some = slice(max(ROWS_PER_CODEWORD << self._params.code_bits, self._params.dim * PCA_ROWS))
        residuals = self._rows[some] - centroids[list_ids[some]]
        residuals /= sigma[list_ids[some], None]
        squares = np.einsum("nd,nd->n", residuals, residuals)
        typical: Bool = squares <= LARGEST_RESIDUAL**2 * self._params.dim
        return residuals[typical]

    def _turned(self, vectors: F32, rotation: F32 | None) -> F32:
        """Rotate or pad f32[n, d] to f32[n, m * width]."""
        if rotation is not None:
            return self._backend.rotate(vectors, rotation)
        return np.pad(vectors, ((0, 0), (0, self._m * self._width - vectors.shape[1])))

    def _variant(
        self, rotation: F32 | None, centroids: F32, sigma: F32, residuals: F32
    ) -> tuple[Codec, Trial]:
        """Train codebooks under one rotation and try them."""
        bits = self._params.code_bits
        taught = residuals[: ROWS_PER_CODEWORD << bits]
        codebooks = train_codebooks(
            self._turned(taught, rotation),
            self._m,
            bits,
            rng=self._rng,
            codeword_step=self._backend.codeword_step,
            on_step=self._steps.of("codebooks"),
        )
        codec = Codec(
            metric=self._params.metric,
            bits=bits,
            scale=self._scale,
            query_norm=float(self._query_norm()),
            use_gain=True,
            lut="float32",
            centre=self._centre,
            rotation=rotation,
            centroids=self._turned(centroids, rotation),
            sigma=sigma,
            bias_mean=np.zeros(len(sigma), np.float32),
            bias_unit=np.ones(len(sigma), np.float32),
            codebooks=codebooks,
        )
        limit = min(TRIAL_ROWS, max(256, TRIAL_COMPONENTS // self._params.dim))
        tried = self._turned(self._rows[-limit:], rotation)
        queries = self._turned(self._queries, rotation)
        return codec, run_trial(codec, self._backend, queries, tried)

    def _with_biases(self, codec: Codec, list_ids: I32) -> Codec:
        """Set each list's bias mean and unit from the sample rows in it."""
        biases = []
        step = max(1, BLOCK_COMPONENTS // self._params.dim)
        for first in range(0, len(self._rows), step):
            part = slice(first, first + step)
            rows = self._turned(self._rows[part], codec.rotation)
            terms = self._backend.terms(codec, rows, list_ids[part])
            biases.append(terms.bias_and_gain(codec)[0])
        mean, unit = bias_frame(np.concatenate(biases), list_ids, codec)
        return replace(codec, bias_mean=mean, bias_unit=unit)


def frame(params: IndexParams, vectors: F32) -> tuple[F32, float]:
    """Return the centre f32[d] and a power-of-two scale that brings components near 1.

    The centre is the component-wise median, which outliers cannot move; the origin for ip, whose
    scores depend on it.
    """
    some = vectors[:: max(1, len(vectors) // CENTRE_ROWS)]
    if params.metric == "cosine":
        some = some / lengths(some)[:, None]
    centre = np.zeros(params.dim, np.float32)
    with np.errstate(over="ignore"):
        if params.metric != "ip":
            centre = np.median(some, axis=0).astype(np.float32)
        norms = lengths((some - centre).astype(np.float32))
    size = np.array([np.median(norms) / np.sqrt(params.dim)], np.float32)
    return centre, 1.0 / float(power_of_two_near(size)[0])


def list_scales(rows: F32, centroids: F32, list_ids: I32) -> F32:
    """Return sigma f32[L]: median residual norm per component of each list.

    Rows equal to their centroid up to rounding do not count; a list with no other rows gets the
    median of all. The median, because one outlier among a list's rows must not coarsen the rest.
    """
    norms = np.empty(len(rows), np.float32)
    counts = np.empty(len(rows), np.bool_)
    step = max(1, BLOCK_COMPONENTS // rows.shape[1])
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        residuals = rows[part] - centroids[list_ids[part]]
        norms[part] = np.sqrt(np.einsum("nd,nd->n", residuals, residuals))
        counts[part] = norms[part] > ROUNDING * lengths(rows[part])
    overall = np.median(norms[counts]) if counts.any() else 1.0
    sigma = np.full(len(centroids), overall)
    order = np.lexsort((norms, list_ids))
    order = order[counts[order]]
    lists, starts, sizes = np.unique(list_ids[order], return_index=True, return_counts=True)
    sigma[lists] = norms[order[starts + sizes // 2]]
    scales: F32 = (sigma / np.sqrt(rows.shape[1])).astype(np.float32)
    return scales


def bias_frame(biases: F32, list_ids: I32, codec: Codec) -> tuple[F32, F32]:
    """Return mean f32[L] and a power of two near the spread f32[L] of the biases of each list.

    float16 keeps three digits from 6e-5 to 65,504 units, so rows that come later fit as well.
    """
    counts = np.maximum(np.bincount(list_ids, minlength=codec.nlist), 1)
    mean = np.bincount(list_ids, biases, minlength=codec.nlist) / counts
    off = (biases - mean[list_ids]) ** 2
    spread = np.sqrt(np.bincount(list_ids, off, minlength=codec.nlist) / counts)
    usual = codec.sigma.astype(np.float64) ** 2 * codec.dim / 8
    unit = power_of_two_near(np.maximum(spread, usual).astype(np.float32))
    return mean.astype(np.float32), unit


def _encode_all(state: IndexState, codec: Codec, steps: _Steps) -> Trained:
    trained = Trained.empty(codec, state.backend, state.live_rows)
    step = max(1, ENCODED_COMPONENTS // state.params.dim)
    while trained.encoded_rows < state.n_rows:
        steps.at("encode", trained.encoded_rows, state.n_rows)
        stop = min(trained.encoded_rows + step, state.n_rows)
        trained = trained.encoded(state.backend, state.rows, state.alive_bits, stop)
    steps.at("encode", state.n_rows, state.n_rows)
    return trained
