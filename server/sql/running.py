"""Runs what computes rows: in the searchers' threads, or at once if it has always been quick.

Searches of several sessions that ask for the same of one state, but for their vectors, wait for
nobody and are one search where they meet (see server/batcher.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from server.batcher import Batcher

from .hits import Batch, OneSearch, search_together

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Job:
    """What runs: ``work`` over what its search has found; None: it is no search."""

    search: OneSearch | None
    work: Callable[..., Any]


class Runner:
    """The threads of one server, as SQL sessions share them. For the event loop only."""

    def __init__(self, executor: Executor, max_queued: int, max_batch: int) -> None:
        self._batcher = Batcher[_Job, Any](
            _run, executor, max_rows=max_batch, max_queued=max_queued
        )

    def post(
        self, kind: Hashable, work: Callable[[], Result], done: Callable[[Result | Exception], None]
    ) -> None:
        """Run ``work`` and call ``done`` with its result or its error; raise Overloaded.

        Jobs of one ``kind`` cost about the same.
        """
        self._batcher.post(None, _Job(None, work), 1, done, kind)

    def post_search(
        self,
        kind: Hashable,
        search: OneSearch,
        work: Callable[[Iterator[Batch]], Result],
        done: Callable[[Result | Exception], None],
    ) -> None:
        """Do as ``post`` with what ``search`` finds, together with others of its lane."""
        self._batcher.post(search.lane, _Job(search, work), 1, done, kind)

    async def run(self, kind: Hashable, work: Callable[[], Result]) -> Result:
        """Run ``work`` and return its result, or raise its error; it goes on if given up."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.post(kind, work, lambda result: _settle(future, result))
        return await future


def _run(jobs: Sequence[_Job]) -> Sequence[Any]:
    """Do jobs of one lane; an error in the rows of one is its own."""
    if jobs[0].search is None:
        return [job.work() for job in jobs]
    found = search_together([job.search for job in jobs if job.search is not None])
    return [_worked(job.work, batches) for job, batches in zip(jobs, found, strict=True)]


def _worked(work: Callable[[Iterator[Batch]], Any], batches: Iterator[Batch]) -> Any:
    try:
        return work(batches)
    except Exception as error:
        return error


def _settle(future: asyncio.Future[Result], result: Result | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
