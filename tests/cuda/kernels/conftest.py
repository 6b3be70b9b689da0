"""Cards for kernel tests."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.cuda.device import Device
from tests.cuda.kernels.cards import Card


@pytest.fixture
def card(one_device: Device) -> Card:
    """Return a card whose threads and blocks run in a random order; with ``-m gpu`` a real one."""
    return Card(one_device)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return random numbers that depend on the test's name only."""
    return np.random.default_rng(list(request.node.name.encode()))
