"""Training and encoding on the card: every operation is NumPy's, and the same each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu import Index, IndexParams, NumpyBackend, measure_recall, train
from gpu.arrays import F32, AnyArray
from gpu.cuda import teaching
from gpu.cuda_backend import CudaBackend
from tests.cuda.backend.conftest import DIM, NLIST, rows_and_queries
from tests.cuda.emulator import EmulatedDevice, why_not
from tests.cuda.kernels.codecs import Sizes, made_codec

OPERATIONS = ["nearest", "encode", "cluster_step", "codeword_step", "rotate", "covariance"]


def on_card(**options: Any) -> CudaBackend:
    """Return a backend that leaves nothing to the host."""
    if reason := why_not():
        pytest.skip(reason)
    return CudaBackend(EmulatedDevice(**options), small_product=0)


@pytest.fixture
def card() -> CudaBackend:
    return on_card(schedule="random", lazy=True)


def launches(backend: CudaBackend) -> set[str]:
    """Return the names of the kernels that the card has run."""
    return {kernel.name for kernel in backend.device.launched}  # type: ignore[attr-defined]


def operands(operation: str) -> tuple[F32, F32]:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((700, 15)).astype(np.float32)
    others = {
        "nearest": (21, 15),
        "cluster_step": (21, 15),
        "encode": (3, 16, 5),
        "codeword_step": (3, 16, 5),
        "rotate": (15, 18),
    }
    return rows, rng.standard_normal(others.get(operation, (1,))).astype(np.float32)


def called(backend: Any, operation: str) -> tuple[AnyArray, ...]:
    """Return what an operation answers, as a tuple."""
    rows, other = operands(operation)
    arguments = (rows,) if operation == "covariance" else (rows, other)
    answer = getattr(backend, operation)(*arguments)
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("piece_rows", [1 << 20, 64])
def test_an_operation_of_training_is_numpys(
    card: CudaBackend, operation: str, piece_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teaching, "BLOCK_COMPONENTS", 16 * piece_rows)
    ours, theirs = called(card, operation), called(NumpyBackend(), operation)
    assert launches(card)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert mine.dtype == wanted.dtype
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("operation", ["cluster_step", "codeword_step"])
def test_sums_are_the_same_however_the_rows_are_cut_up_and_scheduled(
    card: CudaBackend, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = called(card, operation)
    monkeypatch.setattr(teaching, "BLOCK_COMPONENTS", 16 * 64)
    other = on_card(schedule="reverse")
    for mine, again in zip(first, called(other, operation), strict=True):
        if operation == "cluster_step":  # One row after the other, whatever the pieces.
            np.testing.assert_array_equal(mine, again)
        np.testing.assert_allclose(mine, again, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_finds_no_room_on_the_card_is_done_by_the_host(operation: str) -> None:
    full = on_card(total_bytes=20_000)
    for mine, wanted in zip(
        called(full, operation), called(NumpyBackend(), operation), strict=True
    ):
        np.testing.assert_array_equal(mine, wanted)
    assert not launches(full)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_rows_are_encoded_in_one_trip_as_numpy_encodes_them(
    card: CudaBackend, metric: Any, rotated: bool
) -> None:
    rng = np.random.default_rng(3)
    codec = made_codec(rng, Sizes(metric=metric, rotated=rotated))
    vectors = rng.standard_normal((300, 24)).astype(np.float32)
    vectors[5, 3] = np.float32(1e30)
    vectors[6] *= 1e4
    ours, theirs = card.encode_rows(codec, vectors), NumpyBackend().encode_rows(codec, vectors)
    np.testing.assert_array_equal(ours.fits, theirs.fits)
    same = ours.fits & (ours.list_ids == theirs.list_ids) & (ours.codes == theirs.codes).all(1)
    assert np.count_nonzero(~same) <= np.count_nonzero(~ours.fits) + 1
    np.testing.assert_allclose(ours.bias[same], theirs.bias[same], rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(ours.gain[same], theirs.gain[same], rtol=2e-3)
    np.testing.assert_allclose(ours.squares[same], theirs.squares[same], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_an_index_is_trained_on_the_card_and_finds_what_numpys_finds(
    card: CudaBackend, bits: Any
) -> None:
    rows, queries = rows_and_queries(20)
    recalls = []
    for backend in (NumpyBackend(), card):
        params = IndexParams(dim=DIM, metric="l2", code_bits=bits, m=6, nlist=NLIST)
        index = Index(params, backend)
        index.add(rows)
        index.adopt(train(index.publish()))
        recalls.append(measure_recall(index.state, queries, nprobe=3, rerank=40))
    assert recalls[1] >= recalls[0] - 0.05
    assert {"sum_groups", "add_parts", "covariance", "rotate", "factors"} <= launches(card)
