"""ScaNN: a tree of leaves, 4-bit codes of two dimensions each, reordered from bfloat16 rows."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .engines import (
    Cost,
    F32Rows,
    Ids,
    K,
    Limits,
    Missing,
    SearchSet,
    Setting,
    Variant,
    list_count,
    rows_of,
)

try:
    import scann
    from scann.scann_ops.py.scann_builder import ReorderType
except ImportError:  # An optional rival.
    scann = None

#: The loss that weighs errors along a row more; ScaNN's own examples use 0.2 for unit vectors.
ANISOTROPIC = 0.2
TRAINING_ROWS = 100_000


class Scann:
    """See ``Engine``. More than one thread is for batches only."""

    name = "scann"
    reranks_from = "bfloat16"

    def __init__(self, label: str, searcher: Any, cost: Cost, vectors: SearchSet) -> None:
        self.label, self.cost = label, cost
        self._searcher = searcher
        rows, dim = vectors.rows.shape
        self.limits = Limits((1, list_count(rows)), (K, 40 * K))
        self.raw_bytes, self.index_bytes = 2.0 * dim, dim / 4 + 4
        self._options: dict[str, int] = {}
        self._threads = 1

    def use(self, setting: Setting, threads: int) -> None:
        """Search like this from now on."""
        self._threads = threads
        self._options = {
            "final_num_neighbors": K,
            "leaves_to_search": setting.breadth,
            "pre_reorder_num_neighbors": setting.depth,
        }
        if threads > 1:
            self._searcher.set_num_threads(threads)

    def one(self, query: F32Rows) -> Ids:
        """Search for one query."""
        return rows_of(self._searcher.search(query[0], **self._options)[0])

    def batch(self, queries: F32Rows) -> Ids:
        """Search for all at once."""
        search = self._searcher.search_batched
        if self._threads > 1:
            search = self._searcher.search_batched_parallel
        ids: Ids = search(queries, **self._options)[0]
        return ids


def scann_variants(vectors: SearchSet) -> list[Variant]:
    """Return the one index shape of ScaNN."""
    if scann is None:
        raise Missing("scann is not installed: pip install 'vecmirror[benchmarks]'")
    return [_variant(list_count(len(vectors.rows)))]


def _variant(leaves: int) -> Variant:
    label = f"tree{leaves}, AH 2 dims, reordered"

    def build(vectors: SearchSet, folder: Path) -> None:
        is_l2 = vectors.metric == "l2"
        metric = "squared_l2" if is_l2 else "dot_product"
        sample = min(len(vectors.rows), TRAINING_ROWS)
        builder = scann.scann_ops_pybind.builder(vectors.rows, K, metric)
        builder = builder.tree(leaves, leaves // 10, training_sample_size=sample)
        threshold = float("nan") if is_l2 else ANISOTROPIC
        builder = builder.score_ah(2, anisotropic_quantization_threshold=threshold)
        builder = builder.reorder(10 * K, quantize=ReorderType.BFLOAT16)
        builder.set_n_training_threads(len(os.sched_getaffinity(0)))
        builder.build().serialize(str(folder), relative_path=True)

    def load(vectors: SearchSet, folder: Path, cost: Cost) -> Scann:
        return Scann(label, scann.scann_ops_pybind.load_searcher(str(folder)), cost, vectors)

    return Variant("scann", label, version("scann"), build, load)
