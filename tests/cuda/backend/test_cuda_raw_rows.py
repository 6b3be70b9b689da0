"""Raw rows reach the card before searches ask for them, and leave it before lists go short."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu import BackendError, DeviceLost, Index, IndexFull, IndexParams, NumpyBackend
from gpu.arrays import AnyArray
from gpu.cuda.memory import Budget
from gpu.cuda.rows import FIRST_PIECE_BYTES
from gpu.cuda_backend import CudaBackend
from tests.cuda.backend.conftest import DIM, MakeCuda, rows_and_queries

ROW_BYTES, CHUNK_ADDRESS = 4 * DIM, 8


class Uploads:
    """The bytes of each upload since the last ``taken``."""

    def __init__(self, backend: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self._seen: list[int] = []
        upload = backend.device.upload

        def recorded(host: AnyArray, *where: Any) -> None:
            self._seen.append(host.nbytes)
            upload(host, *where)

        monkeypatch.setattr(backend.device, "upload", recorded)

    def taken(self) -> list[int]:
        """Return what there was, and forget it."""
        seen, self._seen[:] = list(self._seen), []
        return seen


def _index(backend: CudaBackend, n_rows: int = 900) -> Index:
    index = Index(IndexParams(dim=DIM, metric="l2"), backend)
    index.add(rows_and_queries()[0][:n_rows])
    index.publish()
    return index


def test_the_first_search_uploads_no_more_than_later_ones(
    cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, uploads = _index(cuda, 600), Uploads(cuda, monkeypatch)
    rows, queries = rows_and_queries()
    for first in (600, 700):
        index.state.hold()
        uploads.taken()
        index.state.search(queries, 3)
        once = uploads.taken()
        index.state.search(queries, 3)
        assert once == uploads.taken()
        index.add(rows[first : first + 100])
        index.publish()


def test_each_row_is_uploaded_once(cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    index, uploads = _index(cuda, 600), Uploads(cuda, monkeypatch)
    rows, _ = rows_and_queries()
    index.state.hold()
    assert uploads.taken() == [600 * ROW_BYTES, CHUNK_ADDRESS, index.state.alive_bits.nbytes]
    index.state.hold()
    assert uploads.taken() == []
    index.add(rows[600:650])
    index.publish().hold()
    assert uploads.taken()[:2] == [50 * ROW_BYTES, CHUNK_ADDRESS]


def test_holding_without_room_takes_nothing_and_refuses_nothing(make_cuda: MakeCuda) -> None:
    backend = make_cuda(total_bytes=64 << 20)
    index, (_, queries) = _index(backend), rows_and_queries()
    in_the_way = backend.device.empty(backend.device.memory().free_bytes - (4 << 20))
    free = backend.device.memory().free_bytes
    index.state.hold()
    assert free - backend.device.memory().free_bytes < FIRST_PIECE_BYTES
    del in_the_way
    index.state.search(queries, 3)
    assert backend.device.memory().free_bytes <= (64 << 20) - FIRST_PIECE_BYTES
    assert backend.raw_rows_refused == 0


@pytest.mark.parametrize("operation", ["empty", "upload", "synchronize", "stream"])
def test_a_call_that_fails_while_rows_are_held_is_met_by_nobody(
    operation: str, cuda: CudaBackend
) -> None:
    index, (rows, queries) = _index(cuda), rows_and_queries()
    cuda.device.failures.plan(operation, BackendError("it failed"))  # type: ignore[attr-defined]
    index.state.hold()
    wanted = NumpyBackend().exact(index.state.rows, queries, 3, range(len(rows)), None)
    np.testing.assert_array_equal(index.state.search(queries, 3).ids, wanted.ids)


def test_a_card_that_is_lost_while_rows_are_held_is_told_of(cuda: CudaBackend) -> None:
    index = _index(cuda)
    told: list[str] = []
    cuda.when_lost = told.append
    cuda.device.failures.plan("upload", DeviceLost("gone"), sticky=True)  # type: ignore[attr-defined]
    index.state.hold()
    assert told == ["gone"]
    with pytest.raises(DeviceLost):
        index.state.search(rows_and_queries()[1], 3)


def test_raw_rows_give_way_to_what_an_index_needs(make_cuda: MakeCuda) -> None:
    backend = make_cuda(total_bytes=64 << 20)
    index, (_, queries) = _index(backend), rows_and_queries()
    index.state.hold()
    device, budget = backend.device, Budget(backend.device)
    budget.give_way = backend._budget.give_way
    wanted = budget.left_bytes + FIRST_PIECE_BYTES // 2
    with pytest.raises(IndexFull):
        budget.empty(wanted, "spare pages")
    assert backend.raw_rows_refused == 0
    pages = budget.need(wanted, "pages")
    assert backend.raw_rows_refused == 1
    found = index.state.search(queries, 3)
    expected = NumpyBackend().exact(index.state.rows, queries, 3, range(900), None)
    np.testing.assert_array_equal(found.ids, expected.ids)
    with pytest.raises(IndexFull, match="more pages need"):
        budget.need(device.memory().free_bytes, "more pages")
    del pages
