"""The checker finds what it must and nothing else: right kernels pass, planted bugs are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gpu.arrays import AnyArray
from gpu.cuda.device import Buffer, Kernel
from gpu.errors import DeviceLost
from tests.cuda.conftest import MakeEmulated
from tests.cuda.emulator import SCHEDULES, EmulatedDevice, Schedule

KERNELS = Path(__file__).parent / "kernels"
THREADS = 64


class Call(NamedTuple):
    """A kernel's inputs and outputs; ``n`` of the list scan."""

    blocks: int
    threads: int
    inputs: Sequence[AnyArray | np.generic]
    outputs: Sequence[AnyArray]
    shared_bytes: int = 0


def _call(kernel: str) -> Call:
    rng = np.random.default_rng(7)
    i32, f32 = np.int32, np.float32
    numbers = rng.integers(0, 1000, THREADS).astype(i32)
    scan: list[AnyArray | np.generic] = [
        rng.standard_normal(16).astype(f32),
        rng.standard_normal((16, 16)).astype(f32),
        rng.integers(0, 256, (THREADS, 16)).astype(np.uint8),
        numbers,
        i32(60),
    ]
    return {
        "table_scan": Call(1, THREADS, scan, [np.zeros(1, f32), np.zeros(1, i32)]),
        "staged": Call(1, 32, [rng.random((32, 4)).astype(f32)], [np.zeros((32, 4), f32)], 32 * 16),
        "rounds": Call(1, THREADS, [numbers], [np.zeros(THREADS, i32)]),
        "last_block": Call(
            8, THREADS, [numbers], [np.zeros(8, i32), np.zeros(1, np.uint32), np.zeros(1, i32)]
        ),
        "histogram": Call(
            3, THREADS, [rng.integers(0, 256, 192).astype(np.uint8)], [np.zeros(16, np.uint32)]
        ),
        "bytes": Call(1, THREADS, [], [np.zeros(THREADS, np.uint8)]),
        "meeting": Call(1, THREADS, [], [np.zeros(THREADS, i32)]),
    }[kernel]


def _expected(kernel: str, call: Call) -> list[AnyArray]:
    given = [np.asarray(a) for a in call.inputs]
    if kernel == "table_scan":
        query, book, codes, ids, n = given
        table = (query[:, None] - book) ** 2
        sums = table[np.arange(16), codes & 15].sum(axis=1, dtype=np.float32)[: int(n)]
        best = int(sums.argmin())
        return [sums[best : best + 1], ids[best : best + 1]]
    if kernel == "staged":
        return [given[0].reshape(16, 2, 4)[:, ::-1].reshape(32, 4)]
    if kernel == "rounds":
        return [np.roll(given[0], -3)]
    if kernel == "last_block":
        return [given[0][:8], np.array([8], np.uint32), given[0][:8].sum(keepdims=True)]
    if kernel == "histogram":
        return [np.bincount(given[0] % 16, minlength=16)]
    x = np.arange(THREADS)
    return [x] if kernel == "bytes" else [x + (x ^ 1)]


def _run(device: EmulatedDevice, kernel: str, bug: str, call: Call) -> list[AnyArray]:
    stream = device.stream()
    buffers: list[Buffer] = []
    arguments: list[Buffer | np.generic] = []
    for array in [*call.inputs, *call.outputs]:
        if isinstance(array, np.generic):
            arguments.append(array)
            continue
        buffers.append(device.empty(array.nbytes))
        arguments.append(buffers[-1])
        device.upload(np.ascontiguousarray(array), buffers[-1], 0, stream)
    name = Kernel("planted", f"{kernel}<{bug}>")
    device.launch(name, (call.blocks, 1, 1), call.threads, arguments, stream, call.shared_bytes)
    results = [np.empty_like(a) for a in call.outputs]
    for buffer, result in zip(buffers[len(buffers) - len(results) :], results, strict=True):
        device.download(buffer, 0, result, stream)
    stream.synchronize()
    return results


class Planted(NamedTuple):
    """A bug, and a word of what must be said about it."""

    kernel: str
    bug: str
    said: str


RIGHT = ["table_scan", "staged", "rounds", "last_block", "histogram", "bytes", "meeting"]
PLANTED = [
    Planted("table_scan", "NO_BARRIER_AFTER_TABLE", "uninitialised"),
    Planted("table_scan", "NO_BARRIER_BEFORE_MERGE", "uninitialised|race"),
    Planted("table_scan", "IDS_PAST_END", "out of bounds"),
    Planted("table_scan", "TABLE_PAST_END", "out of bounds"),
    Planted("table_scan", "VOTE_IN_BRANCH", "different warp functions|barrier|deadlock"),
    Planted("table_scan", "ODD_VECTOR_LOAD", "misaligned"),
    Planted("table_scan", "READS_UNWRITTEN", "uninitialised"),
    Planted("staged", "NO_WAIT", "uninitialised"),
    Planted("staged", "NO_WARP_BARRIER", "race|uninitialised"),
    Planted("rounds", "NO_BARRIER_IN_LOOP", "race"),
    Planted("last_block", "NO_FENCE", "race"),
    Planted("last_block", "PLAIN_COUNTER", "race"),
    Planted("histogram", "SHARED_COUNT_WITHOUT_ATOMIC", "race"),
    Planted("histogram", "GLOBAL_COUNT_WITHOUT_ATOMIC", "race"),
    Planted("bytes", "SAME_BYTE", "race"),
]
#: Found in every run, checked or not.
MEETINGS = [
    Planted("meeting", "BARRIER_IN_BRANCH", "deadlock|ended|exist|mask"),
    Planted("meeting", "TWO_BARRIERS", "barrier divergence"),
    Planted("meeting", "FOREIGN_LANE", "not in the mask"),
    Planted("meeting", "ENDED_LANES", "lanes that have ended"),
    Planted("meeting", "NOT_IN_OWN_MASK", "not in its own mask"),
    Planted("table_scan", "VOTE_IN_BRANCH", "different warp functions|barrier|deadlock"),
    Planted("staged", "NO_WAIT", "never waited for"),
]
ALL = {
    "planted": tuple(
        [f"{k}<NONE>" for k in RIGHT]
        + sorted({f"{p.kernel}<{p.bug}>" for p in PLANTED + MEETINGS})
        + ["patterns"]
    )
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kernel", RIGHT)
def test_right_kernels_pass(emulated: MakeEmulated, kernel: str, schedule: Schedule) -> None:
    device = emulated(checked=True, schedule=schedule, seed=3, sources=KERNELS, instances=ALL)
    call = _call(kernel)
    for result, expected in zip(
        _run(device, kernel, "NONE", call), _expected(kernel, call), strict=True
    ):
        np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("planted", PLANTED, ids=lambda p: p.bug)
def test_planted_bugs_are_named(
    emulated: MakeEmulated, planted: Planted, schedule: Schedule
) -> None:
    device = emulated(checked=True, schedule=schedule, seed=3, sources=KERNELS, instances=ALL)
    with pytest.raises(DeviceLost, match=planted.said) as caught:
        _run(device, planted.kernel, planted.bug, _call(planted.kernel))
    assert "planted.cu:" in str(caught.value)
    assert "thread" in str(caught.value)


@pytest.mark.parametrize(
    "bug", ["NO_BARRIER_AFTER_TABLE", "NO_BARRIER_BEFORE_MERGE"], ids=lambda b: b.lower()
)
def test_races_are_found_where_memory_held_something_before(
    emulated: MakeEmulated, bug: str
) -> None:
    device = emulated(checked=True, sources=KERNELS, instances=ALL)
    assert device.checker is not None
    device.checker.watch(initialisation=False)
    try:
        with pytest.raises(DeviceLost, match="race"):
            _run(device, "table_scan", bug, _call("table_scan"))
    finally:
        device.checker.watch()


@pytest.mark.parametrize(
    ("planted", "checked"),
    # The checked run of NO_WAIT stops earlier, at the read: PLANTED has it.
    [(p, checked) for p in MEETINGS for checked in (False, True) if p.bug != "NO_WAIT"]
    + [(MEETINGS[-1], False)],
    ids=lambda value: value.bug if isinstance(value, Planted) else f"checked={value}",
)
def test_broken_meetings_of_threads_are_named_in_every_run(
    emulated: MakeEmulated, planted: Planted, checked: bool
) -> None:
    device = emulated(checked=checked, sources=KERNELS, instances=ALL)
    with pytest.raises(DeviceLost, match=planted.said):
        _run(device, planted.kernel, planted.bug, _call(planted.kernel))
