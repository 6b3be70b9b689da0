"""The state of a session's transaction: blocks, failures, savepoints, pinned states, cursors.

Invariants:

- One index version for each transaction: the state first seen of an index stays until its end.
- After an error in a block nothing but its end or ROLLBACK TO is done.
- ROLLBACK TO closes the cursors declared since the savepoint and takes back what was SET.
- The statements of one simple query are one transaction, as far as they do not begin or end one.
- So are those of an extended query up to its Sync. The first of them does not know that more come:
  to it, as in Postgres, there is no block.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.state import MirrorState

from .answers import TransactionStatus
from .cursors import Cursor
from .errors import SqlError
from .variables import Variables


@dataclass(slots=True)
class _Savepoint:
    name: str
    cursors: frozenset[str]
    variables: dict[str, str]


@dataclass(slots=True)
class Block:
    """One transaction. ``pinned``: index name -> state. ``analyzing``: tables being analyzed.

    ``strong``: indexes whose state had all that was committed when it was pinned. ``lone``: of an
    extended query of which one statement has come so far.
    """

    variables: dict[str, str]
    explicit: bool
    failed: bool = False
    lone: bool = False
    pinned: dict[str, MirrorState] = field(default_factory=dict)
    strong: set[str] = field(default_factory=set)
    analyzing: set[str] = field(default_factory=set)
    savepoints: list[_Savepoint] = field(default_factory=list)
    local: dict[str, str | None] = field(default_factory=dict)


class Transactions:
    """The transactions of one session, and its cursors, which live in them."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables
        self._block: Block | None = None
        self.cursors: dict[str, Cursor] = {}

    @property
    def status(self) -> TransactionStatus:
        """What ReadyForQuery says."""
        if self._block is None or not self._block.explicit:
            return "I"
        return "E" if self._block.failed else "T"

    @property
    def open(self) -> bool:
        """Whether a block is open, be it only that of several statements sent together."""
        return self._block is not None and not self._block.lone

    @property
    def explicit(self) -> bool:
        """Whether a block is open that BEGIN opened."""
        return self._block is not None and self._block.explicit

    def current(self) -> Block:
        """Return the open block, else one for a single statement."""
        return self._block or Block(self._variables.saved(), explicit=False)

    def begin(self) -> bool:
        """Open a block, or make that of a simple query one; False if one is open already."""
        if self.explicit:
            return False
        self.begin_implicit()
        block = self.current()
        block.explicit, block.lone = True, False
        return True

    def begin_implicit(self) -> None:
        """Open the block of the statements of a simple query, unless one is open."""
        if self._block is None:
            self._block = Block(self._variables.saved(), explicit=False)

    def begin_pipelined(self) -> None:
        """Open the block of the statements up to a Sync; the second finds it open."""
        if self._block is None:
            self._block = Block(self._variables.saved(), explicit=False, lone=True)
        else:
            self._block.lone = False

    def end_implicit(self) -> None:
        """Close the block of statements sent together; committed unless it has failed."""
        if not self.explicit:
            self.end(commit=True)

    def fail(self) -> None:
        """Note an error: an open block does nothing more, and what it SET is taken back."""
        block = self._block
        if block is not None and not block.failed:
            block.failed = True
            since = block.savepoints[-1] if block.savepoints else block
            self._variables.restore(since.variables)

    def check_not_failed(self) -> None:
        """Raise SqlError in a block that has failed."""
        if self._block is not None and self._block.failed:
            message = (
                "current transaction is aborted, commands ignored until end of transaction block"
            )
            raise SqlError("25P02", message)

    def end(self, *, commit: bool) -> bool:
        """Close the block; return whether it was committed. Harmless when none is open."""
        block, self._block = self._block, None
        if block is None:
            return commit
        committed = commit and not block.failed
        if not committed:
            self._variables.restore(block.variables)
        else:
            self._variables.put_back(block.local)
        self._close_cursors(committed)
        return committed

    def _close_cursors(self, committed: bool) -> None:
        held = {name: one for name, one in self.cursors.items() if one.hold and committed}
        for cursor in held.values():
            cursor.hold = False
            cursor.kept = True
        kept = {name: one for name, one in self.cursors.items() if one.kept}
        self.cursors = {**kept, **held}

    def set_variable(self, name: str, value: str | None, *, local: bool) -> str | None:
        """SET, or SET LOCAL, which ends with the block; return a notice if there is one."""
        before = self._variables.changed(name)
        notice = self._variables.set(name, value)
        if local and not self.open:
            notice = "SET LOCAL can only be used in transaction blocks"
        if self._block is None:
            if local:
                self._variables.put_back({name: before})
        elif local:
            self._block.local.setdefault(name, before)
        else:
            self._block.local.pop(name, None)
        return notice

    # savepoints

    def savepoint(self, name: str) -> None:
        """Set a savepoint; one of the same name is hidden, not replaced."""
        block = self._in_block("SAVEPOINT")
        block.savepoints.append(_Savepoint(name, frozenset(self.cursors), self._variables.saved()))

    def release(self, name: str) -> None:
        """Forget a savepoint and those after it."""
        block = self._in_block("RELEASE SAVEPOINT")
        del block.savepoints[self._find(block, name) :]

    def rollback_to(self, name: str) -> None:
        """Go back to a savepoint; the block is no longer failed."""
        block = self._in_block("ROLLBACK TO SAVEPOINT")
        place = self._find(block, name)
        point = block.savepoints[place]
        del block.savepoints[place + 1 :]
        block.failed = False
        self._variables.restore(point.variables)
        self.cursors = {name: one for name, one in self.cursors.items() if name in point.cursors}

    def _in_block(self, what: str) -> Block:
        if self._block is None or not self._block.explicit:
            raise SqlError("25P01", f"{what} can only be used in transaction blocks")
        return self._block

    @staticmethod
    def _find(block: Block, name: str) -> int:
        for place in range(len(block.savepoints) - 1, -1, -1):
            if block.savepoints[place].name == name:
                return place
        raise SqlError("3B001", f'savepoint "{name}" does not exist')

    # cursors and states

    def declare(self, cursor: Cursor) -> None:
        """Open a cursor."""
        if not (self.open or cursor.hold):
            raise SqlError("25P01", "DECLARE CURSOR can only be used in transaction blocks")
        if cursor.name in self.cursors:
            raise SqlError("42P03", f'cursor "{cursor.name}" already exists')
        if self._block is None:
            cursor.kept = True
        self.cursors[cursor.name] = cursor

    def cursor(self, name: str) -> Cursor:
        """Return an open cursor."""
        if name not in self.cursors:
            raise SqlError("34000", f'cursor "{name}" does not exist')
        return self.cursors[name]

    def close_cursor(self, name: str | None) -> None:
        """Close a cursor, None for all."""
        if name is None:
            self.cursors.clear()
        else:
            self.cursor(name)
            del self.cursors[name]
