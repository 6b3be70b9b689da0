"""Rows computed as they are asked for, in the threads that search."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

from server.state import MirrorState

from .binding import Bound
from .hits import Batch, OneSearch, count
from .outputs import Page, rows_of, writers
from .running import Runner

Row = tuple[object, ...]
#: Rows made in one step: their values take memory and the interpreter.
_STEP_ROWS = 2048


class FixedRows:
    """Rows that are there already."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows, self._at = rows, 0

    async def fetch(self, limit: int) -> list[Row]:
        """Return the next rows."""
        part = self._rows[self._at : self._at + limit]
        self._at += len(part)
        return part


class LazyRows:
    """The rows of one execution over one state; one reader.

    A fetch that was given up while a thread worked for it loses no rows: the next one waits for
    that thread and gets what it made.
    """

    def __init__(
        self, state: MirrorState, bound: Bound, found: Iterator[Batch] | OneSearch, runner: Runner
    ) -> None:
        """``found``: what the rows are, or the search that finds them."""
        self._state, self._bound, self._found = state, bound, found
        self._runner, self._begun = runner, False
        self._made: list[Row] = []
        self._left: Batch | None = None
        self._ended = self._working = False
        self._error: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._writers = writers(bound)

    async def fetch(self, limit: int) -> list[Row]:
        """Return the next ``limit`` rows; raise what computing them raises."""
        while self._working or not (len(self._made) >= limit or self._ended or self._error):
            if not self._working:
                self._begin(min(limit - len(self._made), _STEP_ROWS))
            await self._worked()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if len(self._made) <= limit:
            rows, self._made = self._made, []
        else:
            rows, self._made = self._made[:limit], self._made[limit:]
        return rows

    def _begin(self, wanted: int) -> None:
        """Let up to ``wanted`` rows be made."""
        bound = self._bound
        # The search is part of the first step, and of others of an answer without an end.
        kind = id(bound.plan), bound.wanted, wanted, self._begun
        self._begun = True
        if isinstance(self._found, OneSearch):
            self._runner.post_search(
                kind, self._found, partial(self._make_of, wanted), self._have_worked
            )
        else:
            self._runner.post(kind, partial(self._make, wanted, self._found), self._have_worked)
        self._working = True

    async def _worked(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _have_worked(self, result: Exception | None) -> None:
        self._working, self._error = False, result
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _make_of(self, wanted: int, found: Iterator[Batch]) -> None:
        """Make rows of what the search has found."""
        self._found = found
        self._make(wanted, found)

    def _make(self, wanted: int, found: Iterator[Batch]) -> None:
        """Make up to ``wanted`` rows, in a thread."""
        while wanted > 0 and not self._ended:
            batch = self._left or next(found, None)
            self._left = None
            if batch is None:
                self._ended = True
                return
            ids, distances = batch
            if len(ids) > wanted:
                later = None if distances is None else distances[wanted:]
                self._left = ids[wanted:], later
                ids, distances = ids[:wanted], None if distances is None else distances[:wanted]
            page = Page(self._state, self._bound, ids, distances)
            self._made += rows_of(page, self._writers)
            wanted -= len(ids)


class CountedRows:
    """The one row of ``count(*)``."""

    def __init__(self, state: MirrorState, bound: Bound, runner: Runner) -> None:
        self._state, self._bound, self._runner = state, bound, runner
        self._given = False

    async def fetch(self, limit: int) -> list[Row]:
        """Return the count, once."""
        if self._given or limit < 1:
            return []
        kind = id(self._bound.plan), "count"
        found = await self._runner.run(kind, partial(count, self._state, self._bound))
        self._given = True
        skipped = self._bound.offset > 0 or self._bound.limit == 0
        return [] if skipped else [(found,)]
