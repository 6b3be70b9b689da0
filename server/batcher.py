"""Merges concurrent searches into batches, without making anyone wait for company.

Invariants:

- Requests of one lane (same index, same parameters) run one batch at a time; whatever arrives
  meanwhile is the next batch. What arrives in one turn of the event loop is one batch.
- A batch has at most ``max_rows`` queries, or is one request.
- Every request gets its own answer or its own error; one that was given up is not run.
- At most ``max_queued`` requests wait; one more raises Overloaded.
- The event loop runs a batch itself only when batches of its kind were so quick that this takes
  less than ``inline_s``; all others run in the thread pool.

All methods run on the event loop; only ``run`` may run in the thread pool.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from time import perf_counter
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

#: Handing a batch to a thread and back costs 0.1 to 0.2 ms and two changes of the interpreter's
#: lock; the loop may be away for a few times that without anyone noticing.
INLINE_S = 0.0005
#: A new measurement moves the known cost of a query by this share of the difference.
_LEARNING = 0.2
#: Kinds whose cost is remembered.
_MOST_KINDS = 1024


class Overloaded(Exception):
    """More work waits than the server bears; ``retry_after_s`` says when to try again."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Ticket(Generic[Job, Result]):
    """One request that waits for its answer, or ran."""

    __slots__ = ("_done", "_over", "job", "rows")

    def __init__(self, job: Job, rows: int, done: Callable[[Result | Exception], None]) -> None:
        self.job, self.rows = job, rows
        self._done, self._over = done, False

    @property
    def over(self) -> bool:
        """Whether it was answered or given up."""
        return self._over

    def give_up(self) -> None:
        """Want no answer any more."""
        self._over = True

    def answer(self, result: Result | Exception) -> None:
        """Hand over the result, unless it is wanted no more."""
        if not self._over:
            self._over = True
            self._done(result)


class _Lane(Generic[Job, Result]):
    __slots__ = ("kind", "waiting")

    def __init__(self, kind: Hashable) -> None:
        self.kind = kind
        self.waiting: deque[Ticket[Job, Result]] = deque()


class Batcher(Generic[Job, Result]):
    """Runs jobs, in an executor or at once; ``run`` gives one result for each job of a batch.

    ``run`` may return an exception in the place of a result: it is raised for that request alone.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Sequence[Result | Exception]],
        executor: Executor,
        *,
        max_rows: int,
        max_queued: int,
        on_batch: Callable[[int], None] = lambda rows: None,
        inline_s: float = INLINE_S,
    ) -> None:
        self._run, self._executor = run, executor
        self._max_rows, self._max_queued = max_rows, max_queued
        self._on_batch, self._inline_s = on_batch, inline_s
        self._lanes: dict[Hashable, _Lane[Job, Result]] = {}
        self._costs_s: dict[Hashable, float] = {}
        self._queued = 0

    @property
    def queued(self) -> int:
        """Requests that wait or run, given up or not: what still has to be done."""
        return self._queued

    async def submit(
        self, lane: Hashable | None, job: Job, rows: int, kind: Hashable = None
    ) -> Result:
        """Run ``job`` (of ``rows`` queries), merged with others of ``lane``; None: on its own."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        ticket = self.post(lane, job, rows, lambda result: _settle(answer, result), kind)
        try:
            return await answer
        finally:
            ticket.give_up()

    def post(
        self,
        lane: Hashable | None,
        job: Job,
        rows: int,
        done: Callable[[Result | Exception], None],
        kind: Hashable = None,
    ) -> Ticket[Job, Result]:
        """Do as ``submit``, and call ``done`` with the result or the error, once, on the loop.

        Searches of one ``kind`` cost about the same for each query; None: not known. Raise
        Overloaded.
        """
        if self._queued >= self._max_queued:
            raise Overloaded("the server has more searches waiting than it bears; try again soon")
        ticket: Ticket[Job, Result] = Ticket(job, rows, done)
        self._queued += 1
        name = object() if lane is None or rows > self._max_rows else lane
        found = self._lanes.get(name)
        if found is None:
            found = self._lanes[name] = _Lane(kind)
            asyncio.get_running_loop().call_soon(self._next, name, found)
        found.waiting.append(ticket)
        return ticket

    def _next(self, name: Hashable, lane: _Lane[Job, Result]) -> None:
        """Run the next batch of a lane, here or in a thread; close the lane when nothing waits."""
        batch, rows = self._next_batch(lane)
        if not batch:
            del self._lanes[name]
            return
        self._on_batch(rows)
        jobs = [ticket.job for ticket in batch]
        cost_s = None if lane.kind is None else self._costs_s.get(lane.kind)
        if cost_s is not None and cost_s * rows <= self._inline_s:
            self._finish(name, lane, batch, self._timed(lane.kind, rows, jobs))
            return
        loop = asyncio.get_running_loop()

        def back(future: Future[Sequence[Result | Exception]]) -> None:
            loop.call_soon_threadsafe(self._finish, name, lane, batch, future.result())

        self._executor.submit(self._timed, lane.kind, rows, jobs).add_done_callback(back)

    def _timed(
        self, kind: Hashable, rows: int, jobs: Sequence[Job]
    ) -> Sequence[Result | Exception]:
        """Run a batch and remember what it cost; an error of all is the error of each."""
        began_s = perf_counter()
        try:
            return self._run(jobs)
        except Exception as error:
            return [error] * len(jobs)
        finally:
            if kind is not None:
                self._learn(kind, (perf_counter() - began_s) / rows)

    def _learn(self, kind: Hashable, cost_s: float) -> None:
        before_s = self._costs_s.get(kind)
        if before_s is None and len(self._costs_s) >= _MOST_KINDS:
            self._costs_s.clear()
        self._costs_s[kind] = (
            cost_s if before_s is None else before_s + _LEARNING * (cost_s - before_s)
        )

    def _finish(
        self,
        name: Hashable,
        lane: _Lane[Job, Result],
        batch: Sequence[Ticket[Job, Result]],
        results: Sequence[Result | Exception],
    ) -> None:
        self._queued -= len(batch)
        if lane.waiting:
            asyncio.get_running_loop().call_soon(self._next, name, lane)
        else:
            del self._lanes[name]
        for ticket, result in zip(batch, results, strict=True):
            ticket.answer(result)

    def _next_batch(self, lane: _Lane[Job, Result]) -> tuple[list[Ticket[Job, Result]], int]:
        """Take what runs next off the lane; return it and its number of queries."""
        batch: list[Ticket[Job, Result]] = []
        rows = 0
        while lane.waiting and (not batch or rows + lane.waiting[0].rows <= self._max_rows):
            ticket = lane.waiting.popleft()
            if ticket.over:
                self._queued -= 1
                continue
            batch.append(ticket)
            rows += ticket.rows
        return batch, rows


def _settle(answer: asyncio.Future[Result], result: Result | Exception) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
