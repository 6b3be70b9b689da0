"""What goes wrong on a card: no memory, failed calls, a lost context. Never a wrong answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu import BackendError, DeviceLost, EngineError, Index, IndexFull, NumpyBackend
from gpu.cuda.faults import translated
from gpu.cuda_backend import CudaBackend
from tests.cuda.backend.conftest import MakeCuda, MakeFile, rows_and_queries

HOW: dict[str, Any] = {"nprobe": 5, "rerank": 30}


@pytest.mark.parametrize("operation", ["empty", "upload", "launch", "download", "pinned", "stream"])
@pytest.mark.parametrize("after", range(5))
def test_a_search_that_fails_says_so_and_the_next_one_is_right(
    after: int, operation: str, make_cuda: MakeCuda, make_file: MakeFile
) -> None:
    backend = make_cuda(lazy=True)
    state = Index.load(make_file(), backend).state
    wanted = Index.load(make_file(), NumpyBackend()).state
    _, queries = rows_and_queries(2)
    error = IndexFull("none left") if operation == "empty" else BackendError("it failed")
    backend.device.failures.plan(operation, error, after=after)  # type: ignore[attr-defined]
    expected = wanted.search(queries, 6, **HOW)
    failed = 0
    for _ in range(4):
        try:
            found = state.search(queries, 6, **HOW)
        except (IndexFull, BackendError):
            failed += 1
        else:
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-5)
    assert failed <= 1


def test_after_a_sticky_error_nothing_is_answered_and_the_owner_is_told(
    cuda: CudaBackend, make_file: MakeFile
) -> None:
    index = Index.load(make_file(), cuda)
    told: list[str] = []
    cuda.when_lost = told.append
    rows, queries = rows_and_queries(2)
    lost = DeviceLost("an illegal address")
    cuda.device.failures.plan("launch", lost, sticky=True)  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(DeviceLost, match="illegal address"):
            index.state.search(queries, 3)
    index.add(rows[:5])
    index.publish()
    with pytest.raises(DeviceLost):
        index.encode_pending(500)
    assert told == ["an illegal address"]
    assert cuda.lost == "an illegal address"


def test_raw_rows_that_do_not_fit_are_compared_by_the_host(
    make_cuda: MakeCuda, make_file: MakeFile
) -> None:
    roomy, tight = make_cuda(total_bytes=16 << 20), make_cuda(total_bytes=16 << 20)
    _, queries = rows_and_queries(2)
    indexes = [Index.load(make_file(), backend) for backend in (roomy, tight)]
    for index in indexes:
        index.add(queries + 1)
        index.publish()
    states = [index.state for index in indexes]
    held = tight.device.empty(tight.device.memory().free_bytes - (900 << 10))
    answers = [state.search(queries, 6, **HOW) for state in states]
    np.testing.assert_array_equal(answers[0].ids, answers[1].ids)
    np.testing.assert_allclose(answers[0].distances, answers[1].distances, rtol=1e-5)
    assert (roomy.raw_rows_refused, tight.raw_rows_refused) == (0, 1)
    del held


def test_a_card_that_is_too_small_for_an_index_says_how_much_is_missing(
    make_cuda: MakeCuda, make_file: MakeFile
) -> None:
    with pytest.raises(IndexFull, match="MiB of device memory"):
        Index.load(make_file(), make_cuda(total_bytes=16 << 10))


def test_a_search_without_memory_says_what_to_do(make_cuda: MakeCuda, make_file: MakeFile) -> None:
    backend = make_cuda()
    state = Index.load(make_file(), backend).state
    _, queries = rows_and_queries(1)
    state.search(queries, 3)
    held = backend.device.empty(backend.device.memory().free_bytes)
    with pytest.raises(BackendError, match=r"lower server\.device_memory_limit_bytes"):
        state.search(queries, 600, rerank=1000)
    del held
    assert state.search(queries, 600, rerank=1000).full


def test_a_batch_that_is_too_large_is_searched_in_parts(
    make_cuda: MakeCuda, make_file: MakeFile
) -> None:
    backend = make_cuda()
    state = Index.load(make_file(), backend).state
    _, queries = rows_and_queries(60)
    wanted = state.search(queries, 3)
    fresh = Index.load(make_file(), make_cuda(total_bytes=16 << 20)).state
    fresh.search(queries[:1], 3)
    card = fresh.backend.device  # type: ignore[attr-defined]
    held = card.empty(card.memory().free_bytes - (400 << 10))
    np.testing.assert_array_equal(fresh.search(queries, 3).ids, wanted.ids)
    del held


@pytest.mark.parametrize(
    ("status", "kind"),
    [(2, IndexFull), (1, BackendError), (700, DeviceLost), (214, DeviceLost), (719, DeviceLost)],
)
def test_only_errors_known_to_be_harmless_leave_the_context_in_use(
    status: int, kind: type[EngineError]
) -> None:
    assert type(translated("copying", status, "cudaErrorSomething")) is kind
    assert type(translated("copying", 12345, "new in CUDA 99")) is DeviceLost


def test_lists_of_another_backend_are_refused(cuda: CudaBackend, make_file: MakeFile) -> None:
    state = Index.load(make_file(), NumpyBackend()).state
    assert state.trained_part is not None
    lists = state.trained_part.lists
    with pytest.raises(BackendError, match="belong to another backend"):
        cuda.scan(lists, *_nothing(), np.zeros(4, np.uint8), 3)


def _nothing() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((1, 24), "f4"), np.zeros((1, 1), "i4"), np.zeros((1, 1), "f4")
