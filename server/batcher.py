"""Merges concurrent searches into batches, without making anyone wait for company.

Invariants:

- Requests of one lane (same index, same parameters) run one batch at a time; whatever arrives
  meanwhile is the next batch. A lone request starts at once.
- A batch has at most ``max_rows`` queries, or is one request.
- Every request gets its own answer or its own error; one that was given up is not run.
- At most ``max_queued`` requests wait; one more raises Overloaded.

All methods run on the event loop; only ``run`` runs in the thread pool.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


class Overloaded(Exception):
    """More work waits than the server bears; ``retry_after_s`` says when to try again."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


@dataclass(slots=True)
class _Ticket(Generic[Job, Result]):
    job: Job
    rows: int
    answer: asyncio.Future[Result]


@dataclass(slots=True)
class _Lane(Generic[Job, Result]):
    waiting: deque[_Ticket[Job, Result]] = field(default_factory=deque)


class Batcher(Generic[Job, Result]):
    """Runs jobs in an executor; ``run`` takes one batch of jobs and gives one result for each.

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
    ) -> None:
        self._run, self._executor = run, executor
        self._max_rows, self._max_queued = max_rows, max_queued
        self._on_batch = on_batch
        self._lanes: dict[Hashable, _Lane[Job, Result]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._queued = 0

    @property
    def queued(self) -> int:
        """Requests that wait or run, given up or not: what still has to go through the threads."""
        return self._queued

    async def submit(self, lane: Hashable | None, job: Job, rows: int) -> Result:
        """Run ``job`` (of ``rows`` queries), merged with others of ``lane``; None: on its own."""
        if self._queued >= self._max_queued:
            raise Overloaded("the server has more searches waiting than it bears; try again soon")
        ticket = _Ticket[Job, Result](job, rows, asyncio.get_running_loop().create_future())
        self._enqueue(object() if lane is None or rows > self._max_rows else lane, ticket)
        return await ticket.answer

    def _enqueue(self, name: Hashable, ticket: _Ticket[Job, Result]) -> None:
        self._queued += 1
        lane = self._lanes.get(name)
        if lane is not None:
            lane.waiting.append(ticket)
            return
        lane = self._lanes[name] = _Lane(deque([ticket]))
        task = asyncio.create_task(self._drain(name, lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self, name: Hashable, lane: _Lane[Job, Result]) -> None:
        """Run batch after batch until nothing waits, then close the lane."""
        loop = asyncio.get_running_loop()
        try:
            while batch := self._next_batch(lane):
                self._on_batch(sum(ticket.rows for ticket in batch))
                jobs = [ticket.job for ticket in batch]
                try:
                    results = await loop.run_in_executor(self._executor, self._run, jobs)
                except Exception as error:
                    results = [error] * len(batch)
                self._queued -= len(batch)
                _hand_out(batch, results)
        finally:
            del self._lanes[name]

    def _next_batch(self, lane: _Lane[Job, Result]) -> list[_Ticket[Job, Result]]:
        batch: list[_Ticket[Job, Result]] = []
        rows = 0
        while lane.waiting and (not batch or rows + lane.waiting[0].rows <= self._max_rows):
            ticket = lane.waiting.popleft()
            if ticket.answer.done():
                self._queued -= 1
                continue
            batch.append(ticket)
            rows += ticket.rows
        return batch


def _hand_out(batch: Sequence[_Ticket[Job, Result]], results: Sequence[Result | Exception]) -> None:
    for ticket, result in zip(batch, results, strict=True):
        if ticket.answer.done():
            continue
        if isinstance(result, Exception):
            ticket.answer.set_exception(result)
        else:
            ticket.answer.set_result(result)
