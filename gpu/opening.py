"""Opening a backend by name: the card if there is one, else the CPU."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec

from .backend import Backend
from .cuda.options import CudaOptions
from .errors import BackendError
from .numpy_backend import NumpyBackend

_CUDA = re.compile(r"cuda(?::(\d{1,3}))?")


def open_backend(name: str = "auto", options: CudaOptions | None = None) -> Backend:
    """Return the backend called ``name``: cuda, cuda:N, cpu, numpy, or auto. Raise BackendError.

    ``auto`` is the first card where CuPy and a driver are, else the CPU. ``options`` are for cards;
    ``cuda:N`` is the N-th that CUDA may see. One process opens a card with the same options once.
    Kernels compile at their first call; ``warm_up`` does that beforehand.
    """
    if name == "numpy":
        return NumpyBackend()
    if name == "cpu":
        return _open_cpu()
    options = options or CudaOptions()
    if name == "auto":
        return _open_best(options)
    asked = _CUDA.fullmatch(name)
    if asked is None:
        raise BackendError(f"there is no backend called {name!r}; use auto, cuda, cpu or numpy")
    if asked[1] is not None:
        options = replace(options, number=int(asked[1]))
    return _open_cuda(options)


def has_cupy() -> bool:
    """Say whether CuPy is installed, whatever it finds then."""
    return find_spec("cupy") is not None


def _open_best(options: CudaOptions) -> Backend:
    if has_cupy():
        try:
            return _open_cuda(options)
        except BackendError:
            pass  # no driver, or no card: not asked for by name, so nothing to complain about
    return _open_host()


def _open_cpu() -> Backend:
    try:
        from .cpu_backend import CpuBackend  # noqa: PLC0415 (compilers take a second to load)
    except ImportError as error:
        raise BackendError("the cpu backend needs numba") from error
    return CpuBackend()


@lru_cache(maxsize=8)
def _open_cuda(options: CudaOptions) -> Backend:
    from .cuda.cupy_device import CupyDevice  # noqa: PLC0415 (nobody else needs them)
    from .cuda.warming import SMALLEST  # noqa: PLC0415
    from .cuda_backend import CudaBackend  # noqa: PLC0415

    device = CupyDevice(options)
    device.prepare(SMALLEST)  # CuPy looks for NVRTC at the first kernel only
    return CudaBackend(device, raw_location=options.raw_location, host=_open_host())


def _open_host() -> Backend:
    try:
        return _open_cpu()
    except BackendError:
        return NumpyBackend()
