"""CupyDevice keeps the promises of ``Device`` with the real CuPy: memory, streams, errors."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from gpu.cuda.cupy_device import CupyDevice
from gpu.cuda.device import Kernel, address_of
from gpu.cuda.options import CudaOptions
from gpu.errors import BackendError, IndexFull
from tests.cuda.host.cases.conftest import FakeCard

N = 1024


def test_the_card_describes_itself(device: CupyDevice) -> None:
    assert device.name == "emulated"
    assert device.compute_capability == 80
    assert device.multiprocessors == 4
    assert device.memory().total_bytes >= device.memory().free_bytes > 0


def test_a_download_has_arrived_only_after_the_wait(device: CupyDevice, card: FakeCard) -> None:
    stream, buffer = device.stream(), device.empty(4 * N)
    sent = device.pinned((N,), np.dtype(np.float32))
    got = device.pinned((N,), np.dtype(np.float32))
    sent[:], got[:] = np.arange(N), -1
    device.upload(sent, buffer, 0, stream)
    device.download(buffer, 0, got, stream)
    assert (got == -1).all()
    stream.synchronize()
    np.testing.assert_array_equal(got, sent)


def test_an_upload_reads_the_host_array_when_the_stream_gets_there(
    device: CupyDevice, card: FakeCard
) -> None:
    stream, buffer = device.stream(), device.empty(4)
    sent = device.pinned((1,), np.dtype(np.int32))
    got = device.pinned((1,), np.dtype(np.int32))
    sent[0] = 1
    device.upload(sent, buffer, 0, stream)
    sent[0] = 2  # too early: what arrives is the second value
    device.download(buffer, 0, got, stream)
    stream.synchronize()
    assert got[0] == 2


def test_an_event_waits_for_its_own_stream_only(device: CupyDevice, card: FakeCard) -> None:
    first, second = device.stream(), device.stream()
    one, two = device.empty(16), device.empty(16)
    got = device.pinned((2, 16), np.dtype(np.uint8))
    got[:] = 9
    device.fill(one, 0, 16, 1, first)
    device.download(one, 0, got[0], first)
    device.fill(two, 0, 16, 2, second)
    device.download(two, 0, got[1], second)
    first.record().wait()
    assert (got[0] == 1).all()
    assert (got[1] == 9).all()
    second.synchronize()
    assert (got[1] == 2).all()


def test_later_work_of_a_stream_waits_for_the_event_of_another(
    device: CupyDevice, card: FakeCard
) -> None:
    writer, reader, buffer = device.stream(), device.stream(), device.empty(16)
    got = device.pinned((16,), np.dtype(np.uint8))
    device.fill(buffer, 0, 16, 7, writer)
    reader.wait_for(writer.record())
    device.download(buffer, 0, got, reader)
    reader.synchronize()
    assert (got == 7).all()


def test_a_captured_graph_runs_when_it_is_launched(device: CupyDevice, card: FakeCard) -> None:
    stream, buffer = device.stream(), device.empty(16)
    got = device.pinned((16,), np.dtype(np.uint8))
    device.fill(buffer, 0, 16, 1, stream)
    graph = device.capture(stream, lambda: device.fill(buffer, 0, 16, 5, stream))
    device.download(buffer, 0, got, stream)
    stream.synchronize()
    assert (got == 1).all()
    graph.launch(stream)
    device.download(buffer, 0, got, stream)
    stream.synchronize()
    assert (got == 5).all()


def test_parts_are_copied_within_the_device(device: CupyDevice) -> None:
    stream, one, two = device.stream(), device.empty(64), device.empty(64)
    got = np.zeros(64, np.uint8)
    device.upload(np.arange(64, dtype=np.uint8), one, 0, stream)
    device.fill(two, 0, 64, 0, stream)
    device.copy(one, 8, two, 32, 16, stream)
    device.download(two, 0, got, stream)
    stream.synchronize()
    np.testing.assert_array_equal(got[32:48], np.arange(8, 24))
    assert got[:32].sum() == got[48:].sum() == 0


def test_a_kernel_runs_with_sized_arguments(device: CupyDevice, card: FakeCard) -> None:
    rows, dim = 5, 7
    given = np.arange(rows * dim, dtype=np.float32).reshape(rows, dim)
    stream, matrix, out = device.stream(), device.empty(given.nbytes), device.empty(4 * rows)
    got = device.pinned((rows,), np.dtype(np.float32))
    device.upload(given, matrix, 0, stream)
    arguments: list[np.generic] = [
        address_of(matrix),
        np.int32(rows),
        np.int32(dim),
        address_of(out),
    ]
    device.launch(Kernel("products", "half_squares"), (1, 1, 1), 256, arguments, stream)
    device.download(out, 0, got, stream)
    stream.synchronize()
    np.testing.assert_allclose(got, (given**2).sum(axis=1) / 2)


def test_memory_beyond_the_limit_is_refused_and_freed_memory_comes_back() -> None:
    device = CupyDevice(CudaOptions(memory_limit_bytes=1 << 20))
    held = device.empty(900_000)
    with pytest.raises(IndexFull):
        device.empty(900_000)
    del held
    gc.collect()
    assert device.empty(900_000).nbytes == 900_000


def test_a_card_without_memory_is_an_index_that_is_full(device: CupyDevice, card: FakeCard) -> None:
    card.fail("hipMalloc")
    with pytest.raises(IndexFull):
        device.empty(1 << 20)
    card.recover()
    assert device.empty(64).nbytes == 64


def test_a_failed_allocation_leaves_the_card_usable(device: CupyDevice, card: FakeCard) -> None:
    card.fail("hipHostMalloc")
    with pytest.raises(IndexFull):
        device.pinned((1 << 20,), np.dtype(np.uint8))
    card.recover()
    assert device.pinned((16,), np.dtype(np.uint8)).shape == (16,)


def test_copies_beyond_a_buffer_are_refused(device: CupyDevice) -> None:
    stream, buffer = device.stream(), device.empty(16)
    with pytest.raises(BackendError, match="buffer of 16"):
        device.upload(np.zeros(17, np.uint8), buffer, 0, stream)
