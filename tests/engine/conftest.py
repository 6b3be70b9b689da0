"""Fixtures of the engine's tests: every case runs on every backend.

The CUDA backend runs on the emulated card, which is slow: ``make test`` takes the modules of
``QUICK_ON_CUDA``, ``make test-all`` all. With ``-m gpu`` every case runs on a real card.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpu import Backend, BackendError, Index, IndexParams, open_backend, train
from gpu.arrays import F32
from gpu.cuda_backend import CudaBackend
from tests.cuda.emulator import EmulatedDevice, why_not

EMULATED = "cuda-emulated"
BACKENDS = ["numpy", "cpu", EMULATED, pytest.param("cuda", marks=pytest.mark.gpu)]
QUICK_ON_CUDA = {"test_index.py", "test_files.py"}
#: Products of training are the host's on the emulated card; kernels' own tests have them.
HOST_PRODUCTS = 1 << 62


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        callspec = getattr(item, "callspec", None)
        on_cuda = callspec is not None and callspec.params.get("backend") is EMULATED
        if on_cuda and item.path.name not in QUICK_ON_CUDA:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == EMULATED:
        if reason := why_not():
            pytest.skip(reason)
        return CudaBackend(EmulatedDevice(), small_product=HOST_PRODUCTS)
    try:
        return open_backend(request.param)
    except BackendError as error:
        pytest.skip(f"no CUDA device: {error}")


@pytest.fixture(scope="session")
def text_slice() -> tuple[F32, F32]:
    """4,000 real embeddings and 100 queries, f32, 384 dimensions."""
    with np.load(Path(__file__).parent / "data" / "text_slice.npz") as arrays:
        return arrays["base"].astype(np.float32), arrays["queries"].astype(np.float32)


@pytest.fixture(scope="session")
def text_index(text_slice: tuple[F32, F32], backend: Backend) -> Index:
    """Train an index of the real slice under cosine with the defaults; tests only read it."""
    base, _ = text_slice
    return trained_index(IndexParams(dim=base.shape[1], metric="cosine"), base, backend)


@pytest.fixture(scope="session")
def make_trained() -> Callable[[IndexParams, F32, Backend], Index]:
    return trained_index


def trained_index(params: IndexParams, rows: F32, backend: Backend) -> Index:
    index = Index(params, backend)
    index.add(rows)
    index.adopt(train(index.publish()))
    return index
