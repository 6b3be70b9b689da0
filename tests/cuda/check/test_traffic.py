"""Sectors and wavefronts are counted as the hardware's rules say, on reads whose cost is known."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.cuda.device import Kernel
from tests.cuda.check.test_planted_bugs import ALL, KERNELS
from tests.cuda.conftest import MakeEmulated
from tests.cuda.emulator import EmulatedDevice, Report


@pytest.fixture
def report(emulated: MakeEmulated) -> Report:
    """Return what one warp of ``patterns`` did."""
    device = emulated(checked=True, sources=KERNELS, instances=ALL)
    device.traffic()
    _patterns(device)
    return device.traffic()


def _patterns(device: EmulatedDevice) -> None:
    stream = device.stream()
    floats, wide, rows = (
        np.zeros(512, np.float32),
        np.zeros(128, np.uint32),
        np.zeros(32, np.uint32),
    )
    rows[:] = np.repeat([0, 40, 80, 300], 8)
    buffers = [device.empty(a.nbytes) for a in (floats, wide, rows)]
    for buffer, array in zip(buffers, (floats, wide, rows), strict=True):
        device.upload(array, buffer, 0, stream)
    arguments = [*buffers, device.empty(128)]
    device.launch(Kernel("planted", "patterns"), (1, 1, 1), 32, arguments, stream)
    stream.synchronize()


@pytest.mark.parametrize(
    ("label", "sectors", "over_ideal"),
    [
        ("coalesced", 4, 1),
        ("strided", 32, 8),
        ("broadcast", 1, 1),
        ("shifted", 5, 1.25),
        ("gathered", 4, 4),
    ],
)
def test_sectors_of_global_requests(
    report: Report, label: str, sectors: float, over_ideal: float
) -> None:
    assert report.sectors_per_request(label) == sectors
    assert report.sectors_over_ideal(label) == over_ideal


@pytest.mark.parametrize(
    ("label", "wavefronts", "factor"),
    [
        ("free", 1, 1),
        ("two-way", 2, 2),
        ("all-in-one-bank", 32, 32),
        ("padded", 1, 1),
        ("one-word", 1, 1),
    ],
)
def test_wavefronts_of_shared_requests(
    report: Report, label: str, wavefronts: float, factor: float
) -> None:
    assert report.wavefronts_per_request(label) == wavefronts
    assert report.conflict_factor(label) == factor


def test_an_unknown_place_is_an_error_that_names_the_known_ones(report: Report) -> None:
    with pytest.raises(KeyError, match="coalesced"):
        report.sectors_per_request("nowhere")
