"""Runs what computes rows: in the searchers' threads, or at once if it has always been quick."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from server.batcher import Batcher

Result = TypeVar("Result")


class Runner:
    """The threads of one server, as SQL sessions share them. For the event loop only."""

    def __init__(self, executor: Executor, max_queued: int) -> None:
        self._batcher = Batcher[Callable[[], Any], Any](
            _run, executor, max_rows=1, max_queued=max_queued
        )

    def start(self, kind: Hashable, job: Callable[[], Result]) -> asyncio.Future[Result]:
        """Start ``job`` and return what it will come to; raise Overloaded.

        Jobs of one ``kind`` cost about the same. A job goes on when nobody waits for it any more.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_seen)
        self._batcher.post(None, job, 1, lambda result: _settle(future, result), kind)
        return future

    async def run(self, kind: Hashable, job: Callable[[], Result]) -> Result:
        """Run ``job`` and return its result, or raise its error."""
        return await asyncio.shield(self.start(kind, job))


def _run(jobs: Sequence[Callable[[], Any]]) -> Sequence[Any]:
    return [job() for job in jobs]


def _settle(future: asyncio.Future[Result], result: Result | Exception) -> None:
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _seen(future: asyncio.Future[Any]) -> None:
    """Look at the error of a job that was given up, so that nobody warns of it."""
    if not future.cancelled():
        future.exception()
