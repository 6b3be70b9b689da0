"""Cards for kernel tests."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda.emulator import EmulatedDevice
from tests.cuda.emulator.build import why_not
from tests.cuda.kernels.cards import Card


@pytest.fixture
def card() -> Card:
    """Return a card whose threads and blocks run in a random order."""
    if reason := why_not():
        pytest.skip(reason)
    return Card(EmulatedDevice(schedule="random"))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return random numbers that depend on the test's name only."""
    return np.random.default_rng(list(request.node.name.encode()))
