"""Every kernel once, so that no search waits for the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .device import Kernel
from .instances import INSTANCES, names_of

if TYPE_CHECKING:
    from gpu.cuda_backend import CudaBackend


def run_kernels(backend: CudaBackend) -> None:
    """Compile all modules or take them from the cache."""
    device = backend.device
    for stem in INSTANCES:
        for name in names_of(stem, device.compute_capability):
            prepare = getattr(device, "prepare", None)
            if prepare is not None:
                prepare(Kernel(stem, name))
