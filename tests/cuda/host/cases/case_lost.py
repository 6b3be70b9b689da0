"""A fault of a kernel ends the device for good. Alone in its process: the fake card is lost too."""

from __future__ import annotations

import numpy as np
import pytest

from gpu.cuda.cupy_device import CupyDevice
from gpu.cuda.device import Kernel, address_of
from gpu.errors import DeviceLost


def test_after_a_kernel_fault_every_call_says_that_the_device_is_lost() -> None:
    device = CupyDevice()
    stream, buffer = device.stream(), device.empty(64)
    address = address_of(buffer)
    arguments: list[np.generic] = [address, np.int32(1), np.int32(1), address]
    # One thread more than a block can have: the driver reports it when the stream is waited for.
    device.launch(Kernel("products", "half_squares"), (1, 1, 1), 1025, arguments, stream)
    with pytest.raises(DeviceLost):
        stream.synchronize()
    with pytest.raises(DeviceLost):
        device.empty(64)
    with pytest.raises(DeviceLost):
        stream.synchronize()
    assert device.lost is not None
