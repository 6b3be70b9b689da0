"""FAISS: inverted lists of 4-bit product codes scanned fast, refined from float16 rows."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .engines import Cost, F32Rows, Ids, K, Limits, Missing, SearchSet, Setting, Variant, list_count

try:
    import faiss
except ImportError:  # An optional rival.
    faiss = None

TRAINING_ROWS = 131_072


class Faiss:
    """See ``Engine``."""

    name = "faiss"
    reranks_from = "float16"

    def __init__(self, label: str, index: Any, cost: Cost, vectors: SearchSet) -> None:
        self.label, self.cost = label, cost
        self._index = index
        self._lists = faiss.extract_index_ivf(faiss.downcast_index(index.base_index))
        self.limits = Limits((1, self._lists.nlist), (K, 40 * K))
        rows, dim = vectors.rows.shape
        self.raw_bytes = 2.0 * dim
        self.index_bytes = len(faiss.serialize_index(index)) / rows - self.raw_bytes

    def use(self, setting: Setting, threads: int) -> None:
        """Search like this from now on."""
        faiss.omp_set_num_threads(threads)
        self._lists.nprobe = setting.breadth
        # FAISS cuts k * k_factor down to an integer.
        self._index.k_factor = (setting.depth + 0.01) / K

    def one(self, query: F32Rows) -> Ids:
        """Search for one query."""
        return self.batch(query)

    def batch(self, queries: F32Rows) -> Ids:
        """Search for all at once."""
        ids: Ids = self._index.search(queries, K)[1]
        return ids


def faiss_variants(vectors: SearchSet) -> list[Variant]:
    """Return the index shapes that are fastest on such sets; the better one is compared."""
    if faiss is None:
        raise Missing("faiss is not installed: pip install 'vecmirror[benchmarks]'")
    lists, dim = list_count(len(vectors.rows)), vectors.rows.shape[1]
    shapes = [f"IVF{lists},PQ{dim // 2}x4fs", f"IVF{lists},PQ{dim // 4}x4fs"]
    if dim > 256:
        shapes = [f"OPQ{dim // 4},IVF{lists},PQ{dim // 4}x4fs", f"IVF{lists},PQ{dim // 4}x4fs"]
    return [_variant(shape) for shape in shapes]


def _variant(shape: str) -> Variant:
    def build(vectors: SearchSet, folder: Path) -> None:
        faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
        metric = faiss.METRIC_L2 if vectors.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        dim = vectors.rows.shape[1]
        lists = faiss.index_factory(dim, shape, metric)
        exact = faiss.index_factory(dim, "SQfp16", metric)
        sample = np.random.default_rng(0).permutation(len(vectors.rows))[:TRAINING_ROWS]
        lists.train(vectors.rows[sample])
        lists.add(vectors.rows)
        exact.train(vectors.rows[:1])
        exact.add(vectors.rows)
        faiss.write_index(faiss.IndexRefine(lists, exact), str(folder / "index"))

    def load(vectors: SearchSet, folder: Path, cost: Cost) -> Faiss:
        return Faiss(f"{shape}, refined", faiss.read_index(str(folder / "index")), cost, vectors)

    return Variant("faiss", shape, version("faiss-cpu"), build, load)
