"""Lists on the card: versions, shared pages, pages that come back, and what does not fit."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from gpu import IndexFull, NumpyBackend
from gpu.arrays import I64
from gpu.backend import Backend, Lists
from gpu.cuda.device import MemoryInfo
from gpu.cuda.lists import DeviceLists
from gpu.cuda.memory import Budget
from gpu.cuda.slab import Slab
from gpu.cuda_backend import CudaBackend
from gpu.encoding import ListContents
from tests.cuda.backend.conftest import MakeCuda
from tests.cuda.kernels.codecs import Sizes, made_codec

CODEC = made_codec(np.random.default_rng(1), Sizes(m=13, width=2, dim=25, nlist=5))


def batch(n: int, first_id: int = 0, seed: int = 0) -> ListContents:
    rng = np.random.default_rng(seed)
    return ListContents(
        rng.integers(0, 5, n).astype(np.int32),
        first_id + np.arange(n, dtype=np.int64),
        rng.integers(0, 256, (n, 7)).astype(np.uint8),
        rng.normal(size=n).astype(np.float16),
        rng.normal(size=n).astype(np.float16),
    )


def assert_equal(lists: Lists, wanted: Lists) -> None:
    """Compare all rows of two versions."""
    ours, theirs = lists.contents(), wanted.contents()
    np.testing.assert_array_equal(lists.lengths, wanted.lengths)
    for name in ("list_ids", "row_ids", "codes", "bias", "gain"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


def opened(backend: CudaBackend) -> tuple[DeviceLists, Lists, Slab]:
    lists = backend.open_lists(CODEC)
    assert isinstance(lists, DeviceLists)
    return lists, NumpyBackend().open_lists(CODEC), lists.prepared.slab


def test_a_version_never_changes(cuda: CudaBackend) -> None:
    ours, theirs, _ = opened(cuda)
    versions: list[tuple[Lists, Lists]] = [(ours, theirs)]
    for number, size in enumerate((1, 40, 500, 3, 700)):
        more = batch(size, 1000 * number, number)
        versions.append((versions[-1][0].append(more), versions[-1][1].append(more)))
    for mine, wanted in versions:
        assert_equal(mine, wanted)


def test_appending_to_an_older_version_leaves_the_newer_one_alone(cuda: CudaBackend) -> None:
    ours, theirs, _ = opened(cuda)
    old, wanted_old = ours.append(batch(300)), theirs.append(batch(300))
    left, right = batch(200, 1000, 1), batch(250, 2000, 2)
    new, other = old.append(left), old.append(right)
    third = other.append(left)
    assert_equal(new, wanted_old.append(left))
    assert_equal(other, wanted_old.append(right))
    assert_equal(third, wanted_old.append(right).append(left))
    assert_equal(old, wanted_old)


def test_later_versions_share_pages_and_give_them_back_with_the_last(cuda: CudaBackend) -> None:
    ours, _, slab = opened(cuda)
    first = ours.append(batch(300))
    taken = slab.pages - slab.free_pages
    second = first.append(batch(5, 1000))
    assert slab.pages - slab.free_pages <= taken + 5
    del first, ours
    gc.collect()
    assert slab.pages - slab.free_pages >= taken
    del second
    gc.collect()
    assert slab.pages == 0


def test_an_append_that_does_not_fit_changes_nothing(make_cuda: MakeCuda) -> None:
    backend = make_cuda(total_bytes=4 << 20)
    ours, theirs, slab = opened(backend)
    lists, wanted = ours.append(batch(500)), theirs.append(batch(500))
    pages = slab.pages, slab.free_pages
    with pytest.raises(IndexFull, match=r"list pages need .* MiB of device memory"):
        lists.append(batch(200_000, 1000))
    assert (slab.pages, slab.free_pages) == pages
    assert_equal(lists, wanted)
    assert_equal(lists.append(batch(20, 500, 3)), wanted.append(batch(20, 500, 3)))


@pytest.mark.parametrize("operation", ["empty", "upload", "launch", "synchronize", "pinned"])
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_an_append_that_fails_in_the_middle_changes_nothing(
    after: int, operation: str, make_cuda: MakeCuda
) -> None:
    backend = make_cuda()
    ours, theirs, slab = opened(backend)
    lists, wanted = ours.append(batch(300)), theirs.append(batch(300))
    taken = slab.pages - slab.free_pages
    backend.device.failures.plan(operation, IndexFull("no"), after=after)  # type: ignore[attr-defined]
    try:
        made: Lists = lists.append(batch(900, 1000))
    except IndexFull:
        assert slab.pages - slab.free_pages == taken
        made = lists.append(batch(900, 1000))
    backend.device.failures.plan(operation, IndexFull("no"), after=1 << 30)  # type: ignore[attr-defined]
    assert_equal(lists, wanted)
    assert_equal(made, wanted.append(batch(900, 1000)))


def test_pages_that_lie_beyond_two_gigabytes_are_written_and_read(make_cuda: MakeCuda) -> None:
    backend = make_cuda(total_bytes=8 << 30)
    ours, theirs, slab = opened(backend)
    low = slab.take((5 << 30) // 2 // slab.page_bytes)
    slab.give(low[-40:])
    made, wanted = ours.append(batch(600)), theirs.append(batch(600))
    base = int(low[0])
    held = made._table.pages.astype(np.int64) - base
    assert held.min() > 1 << 31
    assert_equal(made, wanted)
    found, expected = _scanned(backend, made), _scanned(NumpyBackend(), wanted)
    np.testing.assert_array_equal(found, expected)
    slab.give(low[:-40])


def _scanned(backend: Backend, lists: Lists) -> I64:
    queries = np.random.default_rng(2).normal(size=(2, 26)).astype(np.float32)
    probes, constants = NumpyBackend().choose_lists(CODEC, queries, 3)
    ids, _ = backend.scan(lists, queries, probes, constants, np.full(100, 0xFF, np.uint8), 20)
    return ids


def test_the_reserve_is_left_for_searches(make_cuda: MakeCuda) -> None:
    device = make_cuda(total_bytes=16 << 20).device
    budget = Budget(device)
    assert budget.reserve_bytes == 1 << 20
    kept = budget.empty(15 << 20, "pages")
    with pytest.raises(IndexFull, match=r"rows need 1\.0 MiB of device memory and 0\.0 MiB"):
        budget.empty(1 << 20, "rows")
    assert device.memory() == MemoryInfo(1 << 20, 16 << 20)
    assert device.empty(1 << 20).nbytes == 1 << 20
    del kept


def test_a_slab_hands_out_each_page_once_and_shrinks(make_cuda: MakeCuda) -> None:
    budget = Budget(make_cuda().device)
    slab = Slab(budget, 4096)
    rng, held = np.random.default_rng(0), []
    for _ in range(60):
        held.append(slab.take(int(rng.integers(1, 200))))
        if rng.random() < 0.4:
            slab.give(held.pop(int(rng.integers(len(held)))))
        taken = np.concatenate(held) if held else np.empty(0, np.uint64)
        assert len(np.unique(taken)) == len(taken)
        assert (taken % 256 == 0).all()
        assert slab.pages - slab.free_pages == len(taken)
    for pages in held:
        slab.give(pages)
    assert slab.held_bytes == 0
