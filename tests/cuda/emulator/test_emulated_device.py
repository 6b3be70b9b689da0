"""The emulated device says what a driver would keep to itself, and streams that are lazy wait."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from gpu.cuda.device import Kernel, address_of
from gpu.errors import BackendError, DeviceLost, IndexFull
from tests.cuda.conftest import MakeEmulated
from tests.cuda.emulator import SCHEDULES, EmulatedDevice, Schedule

BASICS = Path(__file__).parent / "kernels"
INSTANCES = {"basics": ("scale", "block_sums<128>", "product")}
SCALE = Kernel("basics", "scale")


@pytest.fixture
def lazy(emulated: MakeEmulated) -> EmulatedDevice:
    """Return a device whose streams run only when they are waited for."""
    return emulated(lazy=True, sources=BASICS, instances=INSTANCES)


def _scaled(device: EmulatedDevice, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Queue ``scale`` by two, wait, and return what went in and came out."""
    given, got = np.arange(n, dtype=np.float32), np.empty(n, np.float32)
    stream, one, two = device.stream(), device.empty(4 * n), device.empty(4 * n)
    device.upload(given, one, 0, stream)
    blocks = -(-n // 64)
    device.launch(SCALE, (blocks, 1, 1), 64, [one, two, np.int64(n), np.float32(2)], stream)
    device.download(two, 0, got, stream)
    stream.synchronize()
    return given, got


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("is_lazy", [False, True], ids=["eager", "lazy"])
def test_kernels_run_in_every_schedule(
    emulated: MakeEmulated, schedule: Schedule, is_lazy: bool
) -> None:
    device = emulated(schedule=schedule, lazy=is_lazy, sources=BASICS, instances=INSTANCES)
    given, got = _scaled(device, 1000)
    np.testing.assert_array_equal(got, 2 * given)
    assert device.launched == [SCALE]


def test_shuffles_and_shared_memory_sum_a_block(lazy: EmulatedDevice) -> None:
    given, got = np.arange(512, dtype=np.float32), np.empty(4, np.float32)
    stream, one, two = lazy.stream(), lazy.empty(2048), lazy.empty(16)
    lazy.upload(given, one, 0, stream)
    lazy.launch(Kernel("basics", "block_sums<128>"), (4, 1, 1), 128, [one, two], stream)
    lazy.download(two, 0, got, stream)
    stream.synchronize()
    np.testing.assert_array_equal(got, given.reshape(4, 128).sum(axis=1))


def test_tensor_core_fragments_multiply_matrices(lazy: EmulatedDevice) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 8, (n, 16)).astype(np.float16) for n in (16, 8))
    got = np.empty((16, 8), np.float32)
    stream, buffers = lazy.stream(), [lazy.empty(512) for _ in range(3)]
    lazy.upload(a, buffers[0], 0, stream)
    lazy.upload(b, buffers[1], 0, stream)
    lazy.launch(Kernel("basics", "product"), (1, 1, 1), 32, buffers, stream, 768)
    lazy.download(buffers[2], 0, got, stream)
    stream.synchronize()
    np.testing.assert_array_equal(got, a.astype(np.float32) @ b.astype(np.float32).T)


def test_a_lazy_download_has_not_arrived_before_the_wait(lazy: EmulatedDevice) -> None:
    stream, buffer = lazy.stream(), lazy.empty(16)
    got = np.zeros(16, np.uint8)
    lazy.fill(buffer, 0, 16, 5, stream)
    lazy.download(buffer, 0, got, stream)
    assert (got != 5).all()
    stream.record().wait()
    assert (got == 5).all()


def test_a_buffer_freed_before_its_kernel_has_run_is_named(lazy: EmulatedDevice) -> None:
    stream, one, two = lazy.stream(), lazy.empty(256), lazy.empty(256)
    lazy.launch(SCALE, (1, 1, 1), 64, [one, two, np.int64(0), np.float32(1)], stream)
    del one
    gc.collect()
    with pytest.raises(BackendError, match="freed before"):
        stream.synchronize()


def test_arguments_of_another_type_or_number_are_refused(lazy: EmulatedDevice) -> None:
    stream, one = lazy.stream(), lazy.empty(256)
    with pytest.raises(BackendError, match="argument 2 is int32, the kernel wants int64"):
        lazy.launch(SCALE, (1, 1, 1), 64, [one, one, np.int32(0), np.float32(1)], stream)
    with pytest.raises(BackendError, match="takes 4 arguments, got 1"):
        lazy.launch(SCALE, (1, 1, 1), 64, [address_of(one)], stream)


def test_memory_beyond_the_limit_is_refused_until_some_is_freed(emulated: MakeEmulated) -> None:
    device = emulated(total_bytes=1 << 20)
    held = device.empty(900_000)
    with pytest.raises(IndexFull):
        device.empty(900_000)
    del held
    gc.collect()
    assert device.empty(900_000).nbytes == 900_000
    assert device.memory().total_bytes == 1 << 20


def test_failures_come_when_they_were_planned(emulated: MakeEmulated) -> None:
    device = emulated()
    device.failures.plan("empty", IndexFull("planned"), after=1)
    device.empty(16)
    with pytest.raises(IndexFull, match="planned"):
        device.empty(16)
    assert device.empty(16).nbytes == 16


def test_after_a_kernel_fault_every_operation_says_that_the_device_is_lost(
    emulated: MakeEmulated,
) -> None:
    device = emulated(sources=BASICS, instances=INSTANCES)
    stream, one = device.stream(), device.empty(16)
    with pytest.raises(DeviceLost, match="1 to 1024 threads"):
        device.launch(SCALE, (1, 1, 1), 2000, [one, one, np.int64(0), np.float32(1)], stream)
    with pytest.raises(DeviceLost):
        device.empty(16)
    with pytest.raises(DeviceLost):
        stream.synchronize()


def test_a_captured_graph_runs_only_when_launched(lazy: EmulatedDevice) -> None:
    stream, buffer, got = lazy.stream(), lazy.empty(16), np.zeros(16, np.uint8)
    lazy.fill(buffer, 0, 16, 1, stream)
    graph = lazy.capture(stream, lambda: lazy.fill(buffer, 0, 16, 7, stream))
    lazy.download(buffer, 0, got, stream)
    stream.synchronize()
    assert (got == 1).all()
    graph.launch(stream)
    lazy.download(buffer, 0, got, stream)
    stream.synchronize()
    assert (got == 7).all()


def test_kernels_read_pinned_memory_by_its_address(lazy: EmulatedDevice) -> None:
    host = lazy.pinned((64,), np.dtype(np.float32))
    host[:] = 3
    stream, out, got = lazy.stream(), lazy.empty(256), np.empty(64, np.float32)
    address = np.uint64(host.ctypes.data)
    lazy.launch(SCALE, (1, 1, 1), 64, [address, out, np.int64(64), np.float32(2)], stream)
    lazy.download(out, 0, got, stream)
    stream.synchronize()
    assert (got == 6).all()
