"""The CUDA backend (placeholder until its launchers land)."""

from __future__ import annotations

from collections.abc import Callable

from .cuda.device import Device
from .cuda.options import RawLocation
from .numpy_backend import NumpyBackend


class CudaBackend(NumpyBackend):
    """See ``Backend``."""

    name = "cuda"

    def __init__(self, device: Device, *, raw_location: RawLocation = "device") -> None:
        self.device, self.raw_location = device, raw_location
        self.lost: str | None = None
        self.when_lost: Callable[[str], None] = lambda reason: None

    @property
    def pci_bus_id(self) -> str:
        """Where the card is, as NVML names it."""
        return getattr(self.device, "pci_bus_id", "")

    @property
    def raw_rows_refused(self) -> int:
        """Indexes whose raw rows did not fit on the card."""
        return 0
