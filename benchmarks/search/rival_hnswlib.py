"""hnswlib: a graph over float32 rows. It re-ranks nothing: all its distances are exact."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .engines import Cost, F32Rows, Ids, K, Limits, Missing, SearchSet, Setting, Variant

try:
    import hnswlib
except ImportError:  # An optional rival.
    hnswlib = None

#: Links of a node, and candidates while the graph is built.
LINKS, CONSTRUCTION = 16, 100


class Hnswlib:
    """See ``Engine``; breadth is ``ef``."""

    name = "hnswlib"
    reranks_from = "float32"

    def __init__(self, graph: Any, cost: Cost, vectors: SearchSet, file_bytes: int) -> None:
        self.label = f"M={LINKS}, ef_construction={CONSTRUCTION}"
        self.limits, self.cost = Limits((K, 1000), (K, K)), cost
        self.raw_bytes = 4.0 * vectors.rows.shape[1]
        self.index_bytes = file_bytes / len(vectors.rows) - self.raw_bytes
        self._graph, self._threads = graph, 1

    def use(self, setting: Setting, threads: int) -> None:
        """Search like this from now on."""
        self._threads = threads
        self._graph.set_ef(setting.breadth)

    def one(self, query: F32Rows) -> Ids:
        """Search for one query."""
        return self.batch(query)

    def batch(self, queries: F32Rows) -> Ids:
        """Search for all at once."""
        ids: Ids = self._graph.knn_query(queries, K, num_threads=self._threads)[0]
        return ids


def hnswlib_variants(vectors: SearchSet) -> list[Variant]:
    """Return the one graph."""
    if hnswlib is None:
        raise Missing("hnswlib is not installed: pip install 'vecmirror[benchmarks]'")
    label = f"M{LINKS} ef_construction {CONSTRUCTION}"
    return [Variant("hnswlib", label, version("hnswlib"), _build, _load)]


def _empty(vectors: SearchSet) -> Any:
    space = "l2" if vectors.metric == "l2" else "ip"
    return hnswlib.Index(space=space, dim=vectors.rows.shape[1])


def _build(vectors: SearchSet, folder: Path) -> None:
    graph = _empty(vectors)
    graph.init_index(len(vectors.rows), ef_construction=CONSTRUCTION, M=LINKS)
    graph.add_items(vectors.rows, num_threads=len(os.sched_getaffinity(0)))
    graph.save_index(str(folder / "index"))


def _load(vectors: SearchSet, folder: Path, cost: Cost) -> Hnswlib:
    graph = _empty(vectors)
    graph.load_index(str(folder / "index"))
    return Hnswlib(graph, cost, vectors, (folder / "index").stat().st_size)
