"""The devices that kernel tests run on: the emulator by schedule, checked, and a real card."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from gpu.cuda.cupy_device import CupyDevice
from gpu.cuda.device import Device
from gpu.errors import BackendError
from tests.cuda.emulator import SCHEDULES, EmulatedDevice, why_not

#: Cards without bulk copies and tensor cores: the same cases as sm_75 by `make test-all`; what
#: `make test` runs of them is tests/cuda/backend/test_cuda_old_cards.py.
OLD_CARD = "sm_75"
#: Modules about kernels that such cards do not have.
NEWER = {"test_scan_tiles.py"}

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what an old card cannot run."""
    items[:] = [i for i in items if not (i.path.name in NEWER and f"[{OLD_CARD}" in i.name)]


def _by_param(param: str) -> Device:
    if param == "cuda":
        return _real()
    if param == OLD_CARD:
        return _emulated(schedule="random", compute_capability=75)
    return _emulated(schedule=param)


_OTHERS = (
    pytest.param(OLD_CARD, marks=pytest.mark.slow),
    pytest.param("cuda", marks=pytest.mark.gpu),
)


@pytest.fixture(params=[*SCHEDULES, *_OTHERS])
def device(request: pytest.FixtureRequest) -> Device:
    """Take each schedule of the emulator; with ``-m gpu`` the real card."""
    return _by_param(request.param)


@pytest.fixture(params=["random", *_OTHERS])
def one_device(request: pytest.FixtureRequest) -> Device:
    """Take the random schedule alone, for long cases; with ``-m gpu`` the real card."""
    return _by_param(request.param)


@pytest.fixture
def checked() -> EmulatedDevice:
    """Watch every access (small cases only); ``checked.traffic()`` has the counts."""
    return _emulated(checked=True)


@pytest.fixture
def emulated() -> MakeEmulated:
    """Make an EmulatedDevice with options of one's own; skips where there is no compiler."""
    return _emulated
