"""Lists are rewritten on the card, from page to page, as the host would have rewritten them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from gpu import Index, IndexFull, NumpyBackend, compacted, rewritten
from gpu.arrays import U8
from gpu.backend import Lists
from gpu.bitmap import pack
from gpu.cuda import rewriting
from gpu.cuda.lists import DeviceLists
from gpu.cuda.slab import Slab
from gpu.cuda_backend import CudaBackend
from tests.cuda.backend.conftest import NLIST, MakeCuda, MakeFile, rows_and_queries
from tests.cuda.backend.test_cuda_lists import CODEC, assert_equal, batch, opened
from tests.cuda.backend.test_cuda_searches import assert_same

N = 700


class Stopped(Exception):
    """Raised by a pause."""


def filled(backend: CudaBackend) -> tuple[DeviceLists, Lists, Slab]:
    """Return lists of N rows on the card and NumPy's, some of them in a second batch."""
    ours, theirs, slab = opened(backend)
    for part in (batch(500), batch(200, 500, 1)):
        ours, theirs = ours.append(part), theirs.append(part)
    return ours, theirs, slab


def kept(share: float) -> U8:
    flags = np.random.default_rng(4).random(N) < share
    return np.concatenate([pack(flags), np.full(9, 0xFF, np.uint8)])  # Rows not born yet.


def rewrite(
    backend: Any, lists: Lists, bits: U8, pause: Callable[[], None], *, renumber: bool = False
) -> Lists:
    made: Lists = backend.rewrite_lists(lists, bits, renumber=renumber, pause=pause)
    return made


def nothing() -> None:
    """Do not wait."""


@pytest.mark.parametrize("renumber", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("slice_rows", [1, 100, 1 << 22])
def test_the_card_rewrites_lists_as_the_host_does(
    cuda: CudaBackend,
    share: float,
    renumber: bool,
    slice_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rewriting, "SLICE_ROWS", slice_rows)
    ours, theirs, _ = filled(cuda)
    pauses: list[int] = []
    bits = kept(share)
    made = rewrite(cuda, ours, bits, lambda: pauses.append(1), renumber=renumber)
    wanted = rewrite(NumpyBackend(), theirs, bits, nothing, renumber=renumber)
    assert_equal(made, wanted)
    assert_equal(ours, theirs)
    assert len(pauses) == (1 if slice_rows > N else 5)
    more = batch(90, 5000, 2)
    assert_equal(made.append(more), wanted.append(more))


def test_nothing_of_a_rewrite_goes_over_the_bus(
    cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _, _ = filled(cuda)
    copied: list[int] = []
    download = cuda.device.download

    def counted(source: Any, at: int, to: Any, stream: Any) -> None:
        copied.append(to.nbytes)
        download(source, at, to, stream)

    monkeypatch.setattr(cuda.device, "download", counted)
    rewrite(cuda, ours, kept(0.5), nothing)
    assert sum(copied) <= 256  # How many rows of each list survive.


def test_a_rewrite_that_does_not_fit_takes_nothing(make_cuda: MakeCuda) -> None:
    backend = make_cuda(total_bytes=6 << 20)
    ours, theirs, slab = filled(backend)
    full = backend.device.empty(backend.device.memory().free_bytes - (300 << 10))
    spare = slab.take(slab.free_pages)
    pages = slab.pages, slab.free_pages
    with pytest.raises(IndexFull, match="list pages need"):
        rewrite(backend, ours, kept(1.0), nothing)
    assert (slab.pages, slab.free_pages) == pages
    assert_equal(ours, theirs)
    slab.give(spare)
    del full


@pytest.mark.parametrize("operation", ["empty", "launch", "synchronize", "pinned"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_rewrite_that_fails_in_the_middle_gives_its_pages_back(
    after: int, operation: str, make_cuda: MakeCuda
) -> None:
    backend = make_cuda()
    ours, theirs, slab = filled(backend)
    taken = slab.pages - slab.free_pages
    backend.device.failures.plan(operation, IndexFull("no"), after=after)  # type: ignore[attr-defined]
    made = None
    with suppress(IndexFull):  # The error holds what was made until it is over.
        made = rewrite(backend, ours, kept(0.5), nothing)
    gc.collect()
    assert (slab.pages - slab.free_pages == taken) == (made is None)
    backend.device.failures.plan(operation, IndexFull("no"), after=1 << 30)  # type: ignore[attr-defined]
    again = made or rewrite(backend, ours, kept(0.5), nothing)
    assert_equal(again, rewrite(NumpyBackend(), theirs, kept(0.5), nothing))


def test_what_pause_raises_ends_a_rewrite_and_gives_its_pages_back(cuda: CudaBackend) -> None:
    ours, theirs, slab = filled(cuda)
    taken = slab.pages - slab.free_pages

    def pause() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        rewrite(cuda, ours, kept(0.5), pause)
    gc.collect()
    assert slab.pages - slab.free_pages == taken
    assert_equal(ours, theirs)


@pytest.mark.parametrize("work", ["rewritten", "compacted"])
def test_searches_go_on_while_lists_are_rewritten(
    cuda: CudaBackend, make_file: MakeFile, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "SLICE_ROWS", 1)
    index, other = (Index.load(make_file(), backend) for backend in (cuda, NumpyBackend()))
    _, queries = rows_and_queries(2)
    wanted = other.state.search(queries, 10, nprobe=NLIST, rerank=200)
    pauses: list[int] = []

    def pause() -> None:
        pauses.append(1)
        assert_same(index.state.search(queries, 10, nprobe=NLIST, rerank=200), wanted)

    if work == "rewritten":
        index.adopt(rewritten(index.state, pause))
        other.adopt(rewritten(other.state))
    else:
        index, other = compacted(index.state, pause), compacted(other.state)
    assert len(pauses) >= NLIST
    wanted = other.state.search(queries, 10, nprobe=NLIST, rerank=200)
    assert_same(index.state.search(queries, 10, nprobe=NLIST, rerank=200), wanted)
    assert {"survivors", "rewrite"} <= {k.name for k in cuda.device.launched}  # type: ignore[attr-defined]


def test_codecs_stay_what_they_are(cuda: CudaBackend) -> None:
    ours, _, _ = filled(cuda)
    assert rewrite(cuda, ours, kept(0.5), nothing).codec is CODEC
