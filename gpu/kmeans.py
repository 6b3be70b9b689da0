"""k-means: D^2 seeding in growing batches, Lloyd's iterations, repair of empty lists, balance.

Seeding follows k-means++ (Arthur and Vassilvitskii, 2007): a next centre is a point drawn with
probability proportional to its squared distance from the centres so far. Drawing several at a time
against the same distances (as k-means|| does, Bahmani et al. 2012) turns k passes of matrix-vector
products into a few matrix products. The first iterations see a part of the points only: they move
the centres far, and a quarter of the points tells the direction. Same points and seed give the same
centres.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .arrays import F32, F64, I32, I64

if TYPE_CHECKING:
    from .backend import ClusterStep

#: Each seeding round adds a quarter of the centres there are: small enough that a draw knows nearly
#: all centres before it, and some 25 rounds make 1,000.
GROWTH_DIVISOR = 4
#: Points per centre that seeding looks at, and that the first and the next iterations see.
SEEDING_POINTS, FEW_POINTS, MORE_POINTS = 16, 16, 32
#: Fewer points than this are all looked at every time.
SMALL_SET = 4096
#: The last iterations see all points.
WHOLE_ITERATIONS = 3
#: Balance: a list longer than this many times the mean is split, by a centre taken from a list
#: shorter than this share of the mean. A search pays for long lists, short ones only cost choosing.
LONG_LIST, SHORT_LIST = 2.5, 0.2


class Clustering(Protocol):
    """The operations of a ``Backend`` that k-means is made of."""

    def nearest(self, points: F32, centroids: F32) -> tuple[I32, F32]:
        """See ``Backend.nearest``."""
        ...

    def cluster_step(self, points: F32, centroids: F32) -> ClusterStep:
        """See ``Backend.cluster_step``."""
        ...


def kmeans(
    points: F32,
    k: int,
    *,
    rng: np.random.Generator,
    backend: Clustering,
    iterations: int = 10,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> F32:
    """Return k centroids f32[k, d] of ``points`` f32[n, d], n >= 1.

    ``points`` are in random order: prefixes serve as samples. With fewer than k distinct points
    some centroids repeat. ``on_step(done, total)`` is called between iterations and may raise to
    stop.
    """
    on_step(0, iterations + 1)
    centroids = _seed(points[: max(SEEDING_POINTS * k, SMALL_SET)], k, rng, backend)
    for step, size in enumerate(_sizes(len(points), k, iterations)):
        on_step(step + 1, iterations + 1)
        seen = points[:size]
        assigned, error, sums, counts = backend.cluster_step(seen, centroids)
        means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        centroids = np.where(counts[:, None] > 0, means, centroids)
        _repair(seen, centroids, counts, error, rng)
        if step < iterations - WHOLE_ITERATIONS:
            _balance(seen, centroids, counts, assigned, rng)
    return centroids


def _sizes(n_points: int, k: int, iterations: int) -> list[int]:
    """Return how many points each iteration sees."""
    whole = min(WHOLE_ITERATIONS, iterations)
    more = (iterations - whole) // 3
    few = iterations - whole - more
    wanted = [FEW_POINTS * k] * few + [MORE_POINTS * k] * more + [n_points] * whole
    return [min(n_points, max(size, SMALL_SET)) for size in wanted]


def _seed(points: F32, k: int, rng: np.random.Generator, backend: Clustering) -> F32:
    chosen = [int(rng.integers(len(points)))]
    _, error = backend.nearest(points, points[chosen])
    while len(chosen) < k and error.max() > 0:
        batch = min(k - len(chosen), max(1, len(chosen) // GROWTH_DIVISOR))
        drawn = draw_by_weight(error, batch, rng)
        chosen += drawn.tolist()
        _, closer = backend.nearest(points, points[drawn])
        error = np.minimum(error, closer)
    repeated = np.resize(np.array(chosen), k)
    return points[repeated]


def draw_by_weight(weights: F32, count: int, rng: np.random.Generator) -> I64:
    """Draw up to ``count`` distinct places with probability proportional to ``weights`` f32[n].

    Places of weight 0 are never drawn (Efraimidis and Spirakis 2006: smallest exponential / w).
    """
    with np.errstate(divide="ignore"):
        keys: F64 = rng.standard_exponential(len(weights)) / weights
    count = min(count, int(np.count_nonzero(weights > 0)))
    if count == 0:
        return np.empty(0, np.int64)
    return np.sort(np.argpartition(keys, count - 1)[:count])


def _repair(points: F32, centroids: F32, counts: I64, error: F32, rng: np.random.Generator) -> None:
    """Put empty centroids on points that are badly served, drawn like the seeds."""
    empty = np.flatnonzero(counts == 0)
    drawn = draw_by_weight(error, len(empty), rng)
    centroids[empty[: len(drawn)]] = points[drawn]


def _balance(
    points: F32, centroids: F32, counts: I64, assigned: I32, rng: np.random.Generator
) -> None:
    """Move centroids of very short lists onto points of very long ones, which splits those."""
    mean = counts.mean()
    short = np.flatnonzero((counts > 0) & (counts < SHORT_LIST * mean))
    long = np.argsort(-counts, kind="stable")[: len(short)]
    long = long[counts[long] > LONG_LIST * mean]
    short = short[np.argsort(counts[short], kind="stable")][: len(long)]
    shuffled = rng.permutation(len(points))
    _, first = np.unique(assigned[shuffled], return_index=True)
    member_of = np.zeros(len(counts), np.int64)
    member_of[np.flatnonzero(counts)] = shuffled[first]
    centroids[short] = points[member_of[long]]
