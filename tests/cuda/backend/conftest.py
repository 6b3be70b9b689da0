"""CUDA backends over the emulator, and small indexes that NumPy has trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpu import Index, IndexParams, Metric, NumpyBackend, train
from gpu.arrays import F32
from gpu.cuda_backend import CudaBackend
from tests.cuda.emulator import EmulatedDevice, why_not

DIM, N_ROWS, NLIST = 24, 900, 12

MakeCuda = Callable[..., CudaBackend]
MakeFile = Callable[..., Path]


@pytest.fixture
def make_cuda() -> MakeCuda:
    """Return a function that makes a backend over a new emulated card."""
    if reason := why_not():
        pytest.skip(reason)

    def make(raw_location: str = "device", **options: object) -> CudaBackend:
        device = EmulatedDevice(**options)  # type: ignore[arg-type]
        return CudaBackend(device, raw_location=raw_location)  # type: ignore[arg-type]

    return make


@pytest.fixture
def cuda(make_cuda: MakeCuda) -> CudaBackend:
    """Return a backend whose card runs blocks and threads in a random order, lazily."""
    return make_cuda(schedule="random", lazy=True)


def rows_and_queries(n_queries: int = 3, seed: int = 0) -> tuple[F32, F32]:
    """Return clustered rows f32[N_ROWS, DIM] and queries f32[n_queries, DIM]."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(NLIST, DIM)) * 2
    rows = centres[rng.integers(0, NLIST, N_ROWS)] + rng.normal(size=(N_ROWS, DIM))
    queries = centres[rng.integers(0, NLIST, n_queries)] + rng.normal(size=(n_queries, DIM))
    return rows.astype(np.float32), queries.astype(np.float32)


@pytest.fixture(scope="session")
def make_file(tmp_path_factory: pytest.TempPathFactory) -> MakeFile:
    """Return a function that gives an index file that NumPy has made; one for each request."""
    known: dict[tuple[object, ...], Path] = {}

    def make(metric: Metric = "l2", bits: int = 4, raw_dtype: str = "float32") -> Path:
        key = (metric, bits, raw_dtype)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("index") / "index.vm"
            params = IndexParams(
                dim=DIM,
                metric=metric,
                raw_dtype=raw_dtype,  # type: ignore[arg-type]
                code_bits=bits,  # type: ignore[arg-type]
                m=6,
                nlist=NLIST,
            )
            _made(params).state.save(known[key])
        return known[key]

    return make


def _made(params: IndexParams) -> Index:
    """Return an index with rows in lists, a tail, and dead rows in both."""
    rows, _ = rows_and_queries()
    index = Index(params, NumpyBackend())
    index.add(rows[:600])
    index.adopt(train(index.publish()))
    index.add(rows[600:])
    index.publish()
    index.encode_pending(200)
    index.kill(np.arange(0, N_ROWS, 7))
    index.publish()
    return index
