"""Rows computed as they are asked for, in the threads that search."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

from server.state import MirrorState

from .binding import Bound
from .hits import Batch, count
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
        self, state: MirrorState, bound: Bound, found: Iterator[Batch], runner: Runner
    ) -> None:
        self._state, self._bound, self._found = state, bound, found
        self._runner, self._begun = runner, False
        self._made: list[Row] = []
        self._left: Batch | None = None
        self._ended = False
        self._working: asyncio.Future[None] | None = None
        self._writers = writers(bound)

    async def fetch(self, limit: int) -> list[Row]:
        """Return the next ``limit`` rows; raise what computing them raises."""
        if self._working is not None and not self._working.done():
            await asyncio.wait([self._working])
        while len(self._made) < limit and not self._ended:
            wanted = min(limit - len(self._made), _STEP_ROWS)
            # The search is part of the first step, and of others of an answer without an end.
            kind = id(self._bound.plan), self._bound.wanted, wanted, self._begun
            self._begun = True
            self._working = self._runner.start(kind, partial(self._make, wanted))
            await asyncio.shield(self._working)
        rows, self._made = self._made[:limit], self._made[limit:]
        return rows

    def _make(self, wanted: int) -> None:
        """Make up to ``wanted`` rows, in a thread."""
        while wanted > 0 and not self._ended:
            batch = self._left or next(self._found, None)
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
