"""Fixtures of what runs inside the fake HIP environment (see ../README.md)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest

from gpu.cuda.cupy_device import CupyDevice


class FakeCard:
    """The test's hand on the card: failures on order, lazy streams."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["FAKE_HIP_LIBRARY"])

    def fail(self, call: str, *, after: int = 0, times: int = 9, status: int = 2) -> None:
        """Let a HIP call fail (2: out of memory) after that many that work.

        CuPy's pools try again after they have freed what they hold: once is not enough.
        """
        self._library.fake_hip_fail(call.encode(), after, times, status)

    def recover(self) -> None:
        """Let nothing fail any more."""
        for call in (b"hipMalloc", b"hipHostMalloc"):
            self._library.fake_hip_fail(call, 0, 0, 0)

    def lazy(self, on: bool) -> None:
        """Run queued work only when it is waited for, or at once."""
        self._library.fake_hip_set_lazy(int(on))


@pytest.fixture
def card() -> Iterator[FakeCard]:
    """Return the card; its streams are lazy again afterwards."""
    fake = FakeCard()
    fake.lazy(True)
    yield fake
    fake.recover()
    fake.lazy(True)


@pytest.fixture
def device() -> CupyDevice:
    """Open the card anew."""
    return CupyDevice()
