"""The backend's threads: queries or rows are cut into parts, kernels run without the GIL."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

#: Smaller parts visit each list for too few queries.
FEWEST_QUERIES = 64
#: Number of threads; the cores that this process may use by default.
SETTING = "VECMIRROR_CPU_THREADS"
#: Threads of training and encoding; all cores but one by default, which is left to searches.
TRAINING_SETTING = "VECMIRROR_CPU_TRAINING_THREADS"


def thread_count() -> int:
    """Return how many threads a search may use."""
    return _wanted(SETTING) or _cores()


def training_threads() -> int:
    """Return how many threads training and encoding may use."""
    return _wanted(TRAINING_SETTING) or max(1, _cores() - 1)


def _wanted(setting: str) -> int:
    text = os.environ.get(setting, "")
    return int(text) if text.isdecimal() else 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool(pid: int, threads: int, name: str) -> ThreadPoolExecutor:
    """Return the pool of this process; a forked child makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name)


def parts(n_queries: int, most: int, threads: int) -> list[slice]:
    """Cut ``n_queries`` into equal slices of at most ``most``, a multiple of threads if it pays."""
    wanted = max(-(-n_queries // most), min(threads, n_queries // FEWEST_QUERIES), 1)
    bounds = [n_queries * i // wanted for i in range(wanted + 1)]
    return [slice(*pair) for pair in itertools.pairwise(bounds)]


def run(
    work: Callable[[slice], None], slices: list[slice], threads: int, pool: str = "search"
) -> None:
    """Do ``work`` for every slice; the first error is raised once all have ended.

    The caller works too and takes whatever no thread of the pool has begun: nothing waits for a
    thread to wake up, nor for a pool that others keep busy.
    """
    if len(slices) == 1 or threads == 1:
        for part in slices:
            work(part)
        return
    left, errors = iter(slices), list[BaseException]()

    def take() -> None:
        for part in left:  # The interpreter's lock hands each slice to one thread.
            try:
                work(part)
            except BaseException as error:
                errors.append(error)

    helpers = min(threads, len(slices)) - 1
    waiting = [_pool(os.getpid(), threads, pool).submit(take) for _ in range(helpers)]
    take()
    for future in waiting:
        if not future.cancel():
            future.result()
    if errors:
        raise errors[0]
