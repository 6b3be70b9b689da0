"""The CUDA backend (placeholder until its launchers land)."""

from __future__ import annotations

from .cuda.device import Device
from .cuda.options import RawLocation
from .numpy_backend import NumpyBackend


class CudaBackend(NumpyBackend):
    """See ``Backend``."""

    name = "cuda"

    def __init__(self, device: Device, *, raw_location: RawLocation = "device") -> None:
        self.device, self.raw_location = device, raw_location
