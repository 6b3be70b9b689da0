"""Fixtures of the engine's tests: every case runs on every backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpu import Backend, Index, IndexParams, open_backend, train
from gpu.arrays import F32

BACKENDS = ["numpy", "cpu"]


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return open_backend(request.param)


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
