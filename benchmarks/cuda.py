"""Searches on a real card: latency and throughput beside cuVS and FAISS, at one recall.

    python -m benchmarks.cuda                      1,000,000 made-up rows of 128 dims
    python -m benchmarks.cuda --vectors FOLDER --set sift
    python -m benchmarks.cuda --rehearse           small, once, without figures: does it all run?

Needs a card that the driver's NVML knows, and says so where there is none: it never measures an
emulator or the CPU. Batches of
1, 10, 100 and 10,000 queries; each engine probes as many lists as recall at 10 of 0.95 takes.
Rivals run when they are installed (cuvs, faiss-gpu). Code bandwidth is the bytes of the probed
lists over the time; beside it stands what the card reaches when it copies memory. Queries of one
batch share lists in its caches, so large batches may pass that.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu import BackendError, Index, IndexParams, open_backend, train
from gpu.cuda.device import Device
from gpu.cuda.nvml import read_card
from gpu.cuda_backend import CudaBackend

from .vector_sets import VectorSet, load_set

K, RECALL = 10, 0.95
BATCHES = (1, 10, 100, 10_000)
#: Runs of a batch before and while the clock runs: enough for a p99 of small ones.
WARM_UP, SECONDS, MOST_RUNS = 5, 3.0, 1000
#: Bytes copied at a time, and times, to see the card's bandwidth.
COPIED_BYTES, COPIES = 256 << 20, 20
#: Rows and dims of a rehearsal, and its queries.
REHEARSED, REHEARSED_QUERIES = (1000, 16), 20
#: Queries that recall is measured with.
TRUTH_QUERIES = 500
PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Found = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One engine and batch size; times in milliseconds of a whole batch."""

    engine: str
    batch: int
    nprobe: int
    recall: float
    p50_ms: float
    p99_ms: float
    queries_per_s: float
    code_gbytes_per_s: float | None


class Engine(NamedTuple):
    """Searches of one engine: queries f32[q, d] and lists to probe in, row ids i64[q, 10] out."""

    name: str
    search: Callable[[NDArray[np.float32], int], Found]
    bytes_per_list: float | None = None


def main() -> int:
    """Measure and print one JSON object; 2 where there is no card."""
    given = _arguments()
    try:
        backend = open_backend("cuda")
    except BackendError as error:
        print(f"benchmarks.cuda needs a CUDA card: {error}", file=sys.stderr)
        return 2
    assert isinstance(backend, CudaBackend)
    if given.rehearse:
        return _rehearse(backend, given)
    if read_card(backend.pci_bus_id) is None:
        what = f"the driver's NVML does not know {backend.device.name!r}"
        print(f"benchmarks.cuda measures real cards only: {what} (try --rehearse)", file=sys.stderr)
        return 2
    vectors = _vectors(given)
    truth = _truth(backend, vectors)
    results = [
        asdict(result)
        for engine in _engines(backend, vectors)
        for result in _measured(engine, vectors.queries, truth)
    ]
    card = {
        "name": backend.device.name,
        "compute_capability": backend.device.compute_capability,
        "copied_gbytes_per_s": round(_copied_gbytes_per_s(backend.device), 1),
    }
    shape = {"rows": len(vectors.rows), "dims": vectors.rows.shape[1], "set": vectors.name}
    print(json.dumps({"card": card, **shape, "k": K, "results": results}, indent=1))
    return 0


def _rehearse(backend: CudaBackend, given: argparse.Namespace) -> int:
    """Build and search with every engine there is, at a size that an emulator can do."""
    given.rows, given.dims = REHEARSED
    vectors = _vectors(given)
    vectors = replace(vectors, queries=vectors.queries[:REHEARSED_QUERIES])
    truth = _truth(backend, vectors)
    recalls = {
        engine.name: round(_recall(engine.search(vectors.queries, max(PROBES)), truth), 2)
        for engine in _engines(backend, vectors)
    }
    print(json.dumps({"rehearsed": recalls, "queries": len(truth)}))
    return 0


def _copied_gbytes_per_s(device: Device) -> float:
    """Return the bytes that the card reads and writes in a second while it copies memory."""
    source, target = device.empty(COPIED_BYTES), device.empty(COPIED_BYTES)
    stream = device.stream()
    for run in range(COPIES + 1):
        if run == 1:
            stream.synchronize()
            began = time.perf_counter()
        device.copy(source, 0, target, 0, COPIED_BYTES, stream)
    stream.synchronize()
    return 2 * COPIES * COPIED_BYTES / (time.perf_counter() - began) / 1e9


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--vectors", type=Path, help="folder of <set>_base.npy and _query.npy")
    parser.add_argument("--set", default="sift", help="name of the set there")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rehearse", action="store_true", help="small, and without figures")
    parser.add_argument("--dims", type=int, default=128, help="of made-up rows")
    return parser.parse_args()


def _vectors(given: argparse.Namespace) -> VectorSet:
    if given.vectors is not None:
        return load_set(given.vectors, given.set, given.rows, max(BATCHES))
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1000, given.dims)).astype(np.float32)
    made = [
        centres[rng.integers(0, 1000, n)] + rng.normal(size=(n, given.dims)).astype(np.float32)
        for n in (given.rows, max(BATCHES))
    ]
    return VectorSet("made-up", "l2", made[0], made[1])


def _truth(backend: CudaBackend, vectors: VectorSet) -> Found:
    """Return the ten nearest rows of the first queries, by exact search."""
    index = Index(IndexParams(dim=vectors.rows.shape[1], metric=vectors.metric), backend)
    index.add(vectors.rows)
    return index.publish().search(vectors.queries[:TRUTH_QUERIES], K, exact=True).ids


def _engines(backend: CudaBackend, vectors: VectorSet) -> Iterator[Engine]:
    yield _ours(backend, vectors)
    if find_spec("cuvs") is not None:
        yield _cuvs(vectors)
    if find_spec("faiss") is not None:
        yield from _faiss(vectors)


def _ours(backend: CudaBackend, vectors: VectorSet) -> Engine:
    index = Index(IndexParams(dim=vectors.rows.shape[1], metric=vectors.metric), backend)
    index.add(vectors.rows)
    index.adopt(train(index.publish()))
    backend.warm_up()
    state, trained = index.state, index.state.trained_part
    assert trained is not None
    rerank = trained.plan.choose(K, RECALL)[1]
    row_bytes = trained.codec.m * trained.codec.bits / 8 + 8
    per_list = float(trained.lists.lengths.mean()) * row_bytes

    def search(queries: NDArray[np.float32], nprobe: int) -> Found:
        return state.search(queries, K, nprobe=nprobe, rerank=rerank).ids

    return Engine("vecmirror", search, per_list)


def _cuvs(vectors: VectorSet) -> Engine:
    """IVF-PQ with its defaults, 8-bit codes of half the dims, re-ranked from four times k."""
    # Only where the rival is installed; cuVS has no types.
    import cupy  # noqa: PLC0415
    from cuvs.neighbors import ivf_pq, refine  # type: ignore[import-not-found]  # noqa: PLC0415

    metric = {"l2": "sqeuclidean", "ip": "inner_product", "cosine": "cosine"}[vectors.metric]
    rows = cupy.asarray(vectors.rows)
    built = ivf_pq.build(ivf_pq.IndexParams(n_lists=_lists(vectors), metric=metric), rows)

    def search(queries: NDArray[np.float32], nprobe: int) -> Found:
        asked = cupy.asarray(queries)
        parameters = ivf_pq.SearchParams(n_probes=nprobe)
        _, candidates = ivf_pq.search(parameters, built, asked, 4 * K)
        _, ids = refine(rows, asked, candidates, k=K, metric=metric)
        found: Found = cupy.asnumpy(cupy.asarray(ids)).astype(np.int64)
        return found

    return Engine("cuvs ivf_pq + refine", search)


def _faiss(vectors: VectorSet) -> Iterator[Engine]:
    """IVF-PQ of 8-bit codes on the card, without re-ranking, where FAISS has its GPU part."""
    import faiss  # noqa: PLC0415 (only where the rival is installed)

    if not hasattr(faiss, "StandardGpuResources"):
        return
    dims = vectors.rows.shape[1]
    kind = faiss.METRIC_L2 if vectors.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    normal = vectors.metric == "cosine"
    built = faiss.GpuIndexIVFPQ(
        faiss.StandardGpuResources(), dims, _lists(vectors), dims // 2, 8, kind
    )
    rows = _directions(vectors.rows) if normal else vectors.rows
    built.train(rows[:: max(1, len(rows) // 500_000)])
    built.add(rows)

    def search(queries: NDArray[np.float32], nprobe: int) -> Found:
        built.nprobe = nprobe
        asked = _directions(queries) if normal else queries
        found: Found = built.search(asked, K)[1]
        return found

    yield Engine("faiss GpuIndexIVFPQ", search)


def _measured(engine: Engine, queries: NDArray[np.float32], truth: Found) -> Iterator[Result]:
    nprobe, recall = _probes_for_recall(engine, queries, truth)
    for batch in BATCHES:
        times = _times(lambda part: engine.search(part, nprobe), queries, batch)
        p50, p99 = np.percentile(times, [50, 99])
        read = None if engine.bytes_per_list is None else batch * nprobe * engine.bytes_per_list
        yield Result(
            engine=engine.name,
            batch=batch,
            nprobe=nprobe,
            recall=round(recall, 4),
            p50_ms=round(p50 * 1e3, 4),
            p99_ms=round(p99 * 1e3, 4),
            queries_per_s=round(batch / float(np.mean(times)), 1),
            code_gbytes_per_s=None if read is None else round(read / p50 / 1e9, 2),
        )


def _probes_for_recall(
    engine: Engine, queries: NDArray[np.float32], truth: Found
) -> tuple[int, float]:
    """Return the fewest probes of the ladder that reach the recall, else the most."""
    recall, nprobe = 0.0, PROBES[0]
    for nprobe in PROBES:
        recall = _recall(engine.search(queries[: len(truth)], nprobe), truth)
        if recall >= RECALL:
            break
    return nprobe, recall


def _recall(found: Found, truth: Found) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)]))


def _times(
    search: Callable[[NDArray[np.float32]], Any], queries: NDArray[np.float32], batch: int
) -> list[float]:
    """Return seconds of single batches, each of other queries; results are on the host by then."""
    times: list[float] = []
    number, end = 0, float("inf")
    while len(times) < MOST_RUNS and time.perf_counter() < end:
        places = np.arange(number * batch, (number + 1) * batch) % len(queries)
        part = queries[places]
        began = time.perf_counter()
        search(part)
        took = time.perf_counter() - began
        number += 1
        if number == WARM_UP:
            end = time.perf_counter() + SECONDS
        elif number > WARM_UP:
            times.append(took)
    return times


def _lists(vectors: VectorSet) -> int:
    return int(1 << round(np.log2(np.sqrt(len(vectors.rows)))))


def _directions(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    made: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made


if __name__ == "__main__":
    sys.exit(main())
