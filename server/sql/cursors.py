"""Cursors: a place in an answer that is computed as far as somebody has read.

Positions are Postgres' (src/backend/tcop/pquery.c): 0 before the first row, p on row p, one past
the last row after it. Going back computes the answer anew up to there: a state never changes, so it
is the same answer, and a cursor holds no rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .answers import Column, Rows
from .errors import SqlError
from .statements import Direction

Row = tuple[object, ...]
_STEP_ROWS = 4096
_FORWARD_ONLY = "Declare it with SCROLL option to enable backward scan."


@dataclass(slots=True)
class Cursor:
    """One open cursor. ``begin`` gives its rows from the first on; ``scroll`` False: forward only.

    ``hold``: it is to outlive its transaction; ``kept``: it has.
    """

    name: str
    columns: tuple[Column, ...]
    begin: Callable[[], Rows]
    scroll: bool | None = None
    hold: bool = False
    kept: bool = False
    _rows: Rows | None = None
    _position: int = 0
    _end: int | None = None
    _current: Row | None = field(default=None)
    _failed: bool = False

    @property
    def after_end(self) -> bool:
        """Whether all rows have been passed."""
        return self._end is not None and self._position > self._end

    @property
    def _on_row(self) -> bool:
        return self._position > 0 and not self.after_end

    async def forward(self, limit: int) -> list[Row]:
        """Return the next ``limit`` rows; fewer mean that the cursor stands after the last."""
        self._check_usable()
        if self.after_end or limit < 1:
            return []
        if self._rows is None:
            self._rows = self.begin()
        try:
            rows = await self._rows.fetch(limit)
        except Exception:
            # As in Postgres, an error ends the cursor: nobody knows where it stands.
            self._failed = True
            raise
        self._position += len(rows)
        if rows:
            self._current = rows[-1]
        if len(rows) < limit:
            self._end = self._position
            self._position += 1
        return rows

    async def fetch(self, direction: Direction, count: int | None) -> list[Row]:
        """Do a FETCH that is not plainly forward; raise SqlError for going back without SCROLL."""
        self._check_usable()
        if direction == "absolute":
            return await self._absolute(count or 0)
        if direction == "relative":
            return await self._relative(count or 0)
        if direction == "backward":
            return await self._directed(-count) if count else await self._back_or_again(count)
        return await self._all() if count is None else await self._directed(count)

    async def move(self, direction: Direction, count: int | None) -> int:
        """Do a MOVE; return the number of rows that FETCH would have returned."""
        self._check_usable()
        if direction == "forward" and (count is None or count > 0):
            return await self._skip(count)
        if direction == "backward" and count is None and self._position == 0:
            return 0
        if count == 0 and direction in ("forward", "backward", "relative"):
            return int(self._on_row)
        return len(await self.fetch(direction, count))

    async def _back_or_again(self, count: int | None) -> list[Row]:
        """Do BACKWARD ALL, or BACKWARD 0."""
        if count is None:
            return await self._back(None)
        self._check_scroll()
        return self._again()

    async def _directed(self, count: int) -> list[Row]:
        if count == 0:
            return self._again()
        return await self.forward(count) if count > 0 else await self._back(-count)

    async def _all(self) -> list[Row]:
        rows: list[Row] = []
        while not self.after_end:
            rows += await self.forward(_STEP_ROWS)
        return rows

    async def _skip(self, count: int | None) -> int:
        """Go forward past ``count`` rows, None for all; return how many there were."""
        passed = 0
        while count is None or passed < count:
            step = _STEP_ROWS if count is None else min(_STEP_ROWS, count - passed)
            found = len(await self.forward(step))
            passed += found
            if found < step:
                break
        return passed

    def _again(self) -> list[Row]:
        """Return the row that the cursor stands on."""
        if not self._on_row:
            return []
        self._check_scroll()
        assert self._current is not None
        return [self._current]

    def _check_usable(self) -> None:
        if self._failed:
            raise SqlError("55000", f'portal "{self.name}" cannot be run')

    def _check_scroll(self) -> None:
        if self.scroll is False:
            self._failed = True
            raise SqlError("55000", "cursor can only scan forward", hint=_FORWARD_ONLY)

    def _rewind(self) -> None:
        self._rows, self._position, self._current = None, 0, None

    async def _back(self, count: int | None) -> list[Row]:
        """Return the rows before the present one, the nearest first; None for all of them."""
        self._check_scroll()
        if self._position == 0:
            return []
        before = self._position - 1
        kept = before if count is None else min(count, before)
        self._rewind()
        await self._skip(before - kept)
        rows: list[Row] = []
        for _ in range(kept):
            rows += await self.forward(1)
        if count is not None and kept == count:
            await self._stand_on(before - kept + 1)
        else:
            self._rewind()
        return rows[::-1]

    async def _stand_on(self, place: int) -> None:
        self._rewind()
        await self._skip(place)

    async def _absolute(self, count: int) -> list[Row]:
        if count > 0:
            if count <= self._position:
                self._check_scroll()
                self._rewind()
            await self._skip(count - 1 - self._position)
            return await self.forward(1)
        if count == 0:
            if self._position:
                self._check_scroll()
            self._rewind()
            return []
        # As in Postgres, the way to the end is gone before it is known to be one-way.
        await self._skip(None)
        if count < -1:
            await self._back(-count - 1)
        return await self._back(1)

    async def _relative(self, count: int) -> list[Row]:
        if count > 0:
            await self._skip(count - 1)
            return await self.forward(1)
        if count == 0:
            return self._again()
        if count < -1:
            await self._back(-count - 1)
        return await self._back(1)


@dataclass(slots=True)
class FetchedRows:
    """What FETCH FORWARD returns, read from the cursor as the client takes it."""

    cursor: Cursor
    left: int | None

    async def fetch(self, limit: int) -> list[Row]:
        """Return the next rows of the FETCH."""
        wanted = limit if self.left is None else min(limit, self.left)
        rows = await self.cursor.forward(wanted)
        if self.left is not None:
            self.left -= len(rows)
        return rows
