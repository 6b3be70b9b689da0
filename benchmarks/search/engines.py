"""What the benchmark asks of an engine, and the sets that engines are asked about."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.vector_sets import METRICS
from gpu import Metric

#: Neighbours asked for.
K = 10

F32Rows = NDArray[np.float32]
Ids = NDArray[np.int64]


class Missing(Exception):
    """A rival that is not installed."""


class Setting(NamedTuple):
    """How closely an engine looks: lists (or graph candidates), and rows re-ranked exactly."""

    breadth: int
    depth: int


class Limits(NamedTuple):
    """The settings an engine has: breadths and depths, both ends included."""

    breadth: tuple[int, int]
    depth: tuple[int, int]


class Cost(NamedTuple):
    """What building an index took."""

    wall_s: float
    cpu_s: float


class Engine(Protocol):
    """One built index. ``use`` comes before searches; one thread searches at a time."""

    name: str
    label: str
    reranks_from: str
    limits: Limits
    cost: Cost
    index_bytes: float
    raw_bytes: float

    def use(self, setting: Setting, threads: int) -> None:
        """Search like this from now on."""
        ...

    def one(self, query: F32Rows) -> Ids:
        """Return the nearest of a query f32[1, d] as its users ask for one."""
        ...

    def batch(self, queries: F32Rows) -> Ids:
        """Return the nearest of f32[q, d] as i64[q, k]."""
        ...


class Variant(NamedTuple):
    """An index to build: ``build`` writes it to a folder, ``load`` reads it from there."""

    name: str
    label: str
    version: str
    build: Callable[[SearchSet, Path], None]
    load: Callable[[SearchSet, Path, Cost], Engine]


@dataclass(frozen=True, slots=True)
class SearchSet:
    """Rows f32[n, d], queries f32[q, d] and their exact nearest rows i64[q, K].

    Under cosine all have unit length. Row numbers are those of the file.
    """

    name: str
    metric: Metric
    rows: F32Rows
    queries: F32Rows
    truth: Ids

    def recall(self, which: slice, ids: Ids) -> float:
        """Return the share of the exact neighbours of queries ``which`` among ``ids`` i64[q, K]."""
        truth = self.truth[which]
        return float((ids[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def load_search_set(folder: Path, name: str) -> SearchSet:
    """Read a set and its ground truth, which is computed where there is no file of it."""
    metric = METRICS[name]
    rows, queries = (_vectors(folder / f"{name}_{part}.npy", metric) for part in ("base", "query"))
    known = folder / f"{name}_gt.npy"
    truth = np.load(known)[:, :K].astype(np.int64) if known.exists() else _truth(rows, queries)
    return SearchSet(name, metric, rows, queries, truth)


def list_count(n_rows: int) -> int:
    """Return the lists that every engine with lists gets: the power of two nearest 2.2 sqrt(n).

    That is 2,048 for 680,000 rows and 512 for 80,000, where FAISS and ScaNN were fastest.
    """
    return 1 << round(math.log2(2.2 * math.sqrt(n_rows)))


def _vectors(path: Path, metric: Metric) -> F32Rows:
    vectors: F32Rows = np.load(path).astype(np.float32)
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _truth(rows: F32Rows, queries: F32Rows) -> Ids:
    """Return the nearest rows by float64 distances; enough for small sets."""
    wide, asked = rows.astype(np.float64), queries.astype(np.float64)
    scores = (wide**2).sum(axis=1) - 2 * asked @ wide.T
    order: Ids = np.argsort(scores, axis=1, kind="stable")[:, :K].astype(np.int64)
    return order


def rows_of(ids: Sequence[int] | Ids) -> Ids:
    """Return one answer as i64[1, k]."""
    return np.asarray(ids, dtype=np.int64).reshape(1, -1)
