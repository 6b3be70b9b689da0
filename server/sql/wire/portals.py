"""Prepared statements and portals of one connection, by name; the empty name is the unnamed one.

Invariants:

- What a connection holds is bounded in number and in bytes, however it was prepared.
- PREPARE and Parse make statements of the same kind, under the same names.
- A portal runs once; what is left of its rows is fetched by later Executes. Portals end with the
  transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from functools import lru_cache

from server.sql.answers import Answer, Column, Prepared
from server.sql.errors import SqlError

from . import messages
from .encoding import Writer, writers_of

#: Named statements, and portals, that one connection may hold.
_MOST = 5_000
#: Different lists of columns whose messages are kept; a few hundred bytes each.
_MOST_SHAPES = 1_024


@dataclass(slots=True)
class Statement:
    """A statement ready to run; ``prepared`` None: an empty one. ``size``: bytes of its message."""

    prepared: Prepared | None
    size: int

    def description(self, formats: tuple[int, ...]) -> bytes:
        """Return RowDescription, or NoData; ``formats``: one for each column."""
        return self._shape(formats)[0]

    def writers(self, formats: tuple[int, ...]) -> tuple[Writer, ...]:
        """Return what writes the columns' values."""
        return self._shape(formats)[1]

    @property
    def n_columns(self) -> int:
        """Number of columns that it returns."""
        return len(self.prepared.columns or ()) if self.prepared else 0

    def _shape(self, formats: tuple[int, ...]) -> tuple[bytes, tuple[Writer, ...]]:
        """Return what is the same each time it runs."""
        columns = self.prepared.columns if self.prepared else None
        return (messages.NO_DATA, ()) if columns is None else _shape_of(columns, formats)


@lru_cache(_MOST_SHAPES)
def _shape_of(
    columns: tuple[Column, ...], formats: tuple[int, ...]
) -> tuple[bytes, tuple[Writer, ...]]:
    """Return RowDescription and the writers of columns; clients use few different ones."""
    writers = writers_of(columns, formats)
    return messages.row_description(columns, formats), writers


@dataclass(slots=True)
class Portal:
    """A statement with its parameters; ``answer`` None: it has not been run."""

    statement: Statement
    parameters: tuple[object, ...]
    formats: tuple[int, ...]
    size: int
    answer: Answer | None = None
    finished: bool = False


class Holdings:
    """Everything that a connection has prepared. ``max_bytes`` bounds it."""

    def __init__(self, max_bytes: int) -> None:
        self._statements: dict[str, Statement] = {}
        self._portals: dict[str, Portal] = {}
        self._max_bytes, self._bytes = max_bytes, 0

    def statement(self, name: str) -> Statement:
        """Return a prepared statement; raise 26000."""
        found = self.find(name)
        if found is None:
            called = f'prepared statement "{name}"' if name else "unnamed prepared statement"
            raise SqlError("26000", f"{called} does not exist")
        return found

    def find(self, name: str) -> Statement | None:
        """Return a prepared statement, if there is one of this name."""
        return self._statements.get(name)

    def portal(self, name: str) -> Portal:
        """Return a portal; raise 34000."""
        try:
            return self._portals[name]
        except KeyError:
            raise SqlError("34000", f'portal "{name}" does not exist') from None

    def add_statement(self, name: str, statement: Statement) -> None:
        """Hold a statement; only the unnamed one may replace another."""
        if name and name in self._statements:
            raise SqlError("42P05", f'prepared statement "{name}" already exists')
        self.close_statement(name)
        self._take(statement.size, len(self._statements))
        self._statements[name] = statement

    def add_portal(self, name: str, portal: Portal) -> None:
        """Hold a portal; only the unnamed one may replace another."""
        if name and name in self._portals:
            raise SqlError("42P03", f'portal "{name}" already exists')
        self.close_portal(name)
        self._take(portal.size, len(self._portals))
        self._portals[name] = portal

    def close_statement(self, name: str) -> bool:
        """Let go of a statement; return whether there was one. As in Postgres, portals stay."""
        closed = self._statements.pop(name, None)
        self._bytes -= 0 if closed is None else closed.size
        return closed is not None

    def close_portal(self, name: str) -> None:
        """Let go of a portal, if there is one of this name."""
        closed = self._portals.pop(name, None)
        self._bytes -= 0 if closed is None else closed.size

    def names(self) -> list[str]:
        """Return the names of the statements that have one."""
        return [name for name in self._statements if name]

    def close_portals(self) -> None:
        """Let go of all portals: the transaction has ended."""
        if self._portals:
            for name in list(self._portals):
                self.close_portal(name)

    def _take(self, size: int, held: int) -> None:
        if held >= _MOST or self._bytes + size > self._max_bytes:
            raise SqlError(
                "54000",
                "this connection holds too many prepared statements or portals",
                hint="close those that are no longer needed",
            )
        self._bytes += size


class Named(MutableMapping[str, Prepared]):
    """The named statements of a connection as its session sees them: for EXECUTE and so on."""

    def __init__(self, held: Holdings) -> None:
        self._held = held

    def __getitem__(self, name: str) -> Prepared:
        found = self._held.find(name) if name else None
        if found is None or found.prepared is None:
            raise KeyError(name)
        return found.prepared

    def __setitem__(self, name: str, prepared: Prepared) -> None:
        """Hold a statement; raise 42P05 where the name is taken, and 54000."""
        self._held.add_statement(name, Statement(prepared, len(prepared.text)))

    def __delitem__(self, name: str) -> None:
        if not name or not self._held.close_statement(name):
            raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._held.names())

    def __len__(self) -> int:
        return len(self._held.names())

    def clear(self) -> None:
        """Let go of all of them, be they empty: DEALLOCATE ALL."""
        for name in self._held.names():
            self._held.close_statement(name)
