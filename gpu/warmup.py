"""What a process does once before it says that it is ready to search."""

from __future__ import annotations

import time

from .numpy_backend import NumpyBackend, open_backend


def warm_up() -> float:
    """Load or compile what the best backend here needs; return the seconds it took.

    Seconds at the first start on a machine, fractions of one later. Nothing to do for NumPy.
    """
    start = time.perf_counter()
    if open_backend().name != NumpyBackend.name:
        from .cpu.warmup import run_kernels  # noqa: PLC0415 (loads the compiler)

        run_kernels()
    return time.perf_counter() - start
