"""What a process does once before it says that it is ready to search."""

from __future__ import annotations

import time

from .backend import Backend
from .opening import open_backend


def warm_up(backend: Backend | None = None) -> float:
    """Load or compile what ``backend`` (None: the best one here) needs; return the seconds it took.

    Seconds at the first start on a machine, fractions of one later. Nothing to do for NumPy.
    """
    start = time.perf_counter()
    (backend or open_backend()).warm_up()
    return time.perf_counter() - start
