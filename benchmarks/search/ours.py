"""Vecmirror's index as the benchmark sees it: default parameters, rows kept as float16."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import gpu
from gpu import Index, IndexParams, train
from gpu.cpu_backend import CpuBackend
from gpu.trained import Trained

from .engines import Cost, F32Rows, Ids, K, Limits, SearchSet, Setting, Variant

#: Files that do not change what an index holds.
SEARCH_ONLY = frozenset({"query.py", "state.py", "cpu_backend.py", "hits.py", "iteration.py"})


class Vecmirror:
    """See ``Engine``; ``plan`` is what recall targets choose."""

    name = "vecmirror"
    reranks_from = "float16"

    def __init__(self, index: Index, cost: Cost, folder: Path) -> None:
        self.state, self.cost, self.folder = index.state, cost, folder
        trained = cast(Trained, self.state.trained_part)
        codec, stats = trained.codec, trained.stats()
        turned = "rotated" if codec.rotation is not None else "not rotated"
        self.label = f"IVF{codec.nlist},PQ{codec.m}x{codec.bits} ({turned}), refined"
        self.limits = Limits((1, codec.nlist), (K, 40 * K))
        rows = cast(int, stats["rows_in_lists"])
        self.index_bytes = rows and (cast(int, stats["list_bytes"]) - 4 * rows) / rows
        self.raw_bytes = float(self.state.rows.row_bytes)
        self.plan = trained.plan
        self._setting = Setting(1, K)
        self._backends = {threads: CpuBackend(threads) for threads in (1, 2)}

    def use(self, setting: Setting, threads: int) -> None:
        """Search like this from now on."""
        self._setting = setting
        backend = self._backends.setdefault(threads, CpuBackend(threads))
        object.__setattr__(self.state, "backend", backend)

    def one(self, query: F32Rows) -> Ids:
        """Search for one query."""
        return self.batch(query)

    def batch(self, queries: F32Rows) -> Ids:
        """Search for all at once."""
        breadth, depth = self._setting
        return self.state.search(queries, K, nprobe=breadth, rerank=depth).ids


def vecmirror(source_only_of_search: frozenset[str] = SEARCH_ONLY) -> Variant:
    """Return the index of default parameters; its version changes with the code that builds it."""
    digest = hashlib.sha256()
    for path in sorted(Path(gpu.__file__).parent.glob("*.py")):
        if path.name not in source_only_of_search:
            digest.update(path.read_bytes())
    return Variant("vecmirror", "default", digest.hexdigest()[:12], _build, _load)


def _build(vectors: SearchSet, folder: Path) -> None:
    params = IndexParams(dim=vectors.rows.shape[1], metric=vectors.metric, raw_dtype="float16")
    index = Index(params, CpuBackend())
    index.add(vectors.rows)
    index.adopt(train(index.publish()))
    index.state.save(folder / "index")


def _load(vectors: SearchSet, folder: Path, cost: Cost) -> Vecmirror:
    return Vecmirror(Index.load(folder / "index", CpuBackend()), cost, folder)
