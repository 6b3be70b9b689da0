"""The devices that kernel tests run on: the emulator by schedule, checked, and a real card."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from gpu.cuda.cupy_device import CupyDevice
from gpu.cuda.device import Device
from gpu.errors import BackendError
from tests.cuda.emulator import SCHEDULES, EmulatedDevice, why_not

MakeEmulated: TypeAlias = Callable[..., EmulatedDevice]


def _emulated(**options: object) -> EmulatedDevice:
    if reason := why_not():
        pytest.skip(reason)
    return EmulatedDevice(**options)  # type: ignore[arg-type]


def _real() -> Device:
    try:
        return CupyDevice()
    except BackendError as error:
        pytest.skip(f"no CUDA device: {error}")


@pytest.fixture(params=[*SCHEDULES, pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Device:
    """Take each schedule of the emulator; with ``-m gpu`` the real card."""
    if request.param == "cuda":
        return _real()
    return _emulated(schedule=request.param)


@pytest.fixture(params=["random", pytest.param("cuda", marks=pytest.mark.gpu)])
def one_device(request: pytest.FixtureRequest) -> Device:
    """Take the random schedule alone, for long cases; with ``-m gpu`` the real card."""
    if request.param == "cuda":
        return _real()
    return _emulated(schedule="random")


@pytest.fixture
def checked() -> EmulatedDevice:
    """Watch every access (small cases only); ``checked.traffic()`` has the counts."""
    return _emulated(checked=True)


@pytest.fixture
def emulated() -> MakeEmulated:
    """Make an EmulatedDevice with options of one's own; skips where there is no compiler."""
    return _emulated
