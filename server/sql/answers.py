"""What the wire and the session tell each other: statements in, columns and rows out.

The wire knows messages, passwords and encodings and no SQL; the session knows SQL and no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

#: What ReadyForQuery says: idle, in a transaction, in a failed one.
TransactionStatus = Literal["I", "T", "E"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an answer: its name, the OID of its type, its type modifier (-1: none)."""

    name: str
    oid: int
    typmod: int = -1


class Rows(Protocol):
    """Rows of an answer, computed as they are asked for; one reader."""

    async def fetch(self, limit: int) -> list[tuple[object, ...]]:
        """Return the next ``limit`` rows as Python values; fewer mean that there are no more."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What one statement answered. ``tag`` is the command tag, without a count of rows.

    ``rows`` is None for a statement that returns none. ``counted``: whether the tag ends with the
    number of rows sent (SELECT 3, FETCH 100). ``notices`` are shown to the user.
    """

    tag: str
    rows: Rows | None = None
    counted: bool = False
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A parsed statement: what its parameters are and what it will return (None: no rows)."""

    text: str
    parameter_oids: tuple[int, ...]
    columns: tuple[Column, ...] | None
    plan: object


class SqlSession(Protocol):
    """One connection. Its methods are awaited one after another, never two at a time.

    All raise SqlError. Cancelling the task that awaits one of them leaves the session usable. A
    statement outside a transaction block is a transaction of its own. ``named``: the statements
    prepared by name; PREPARE and Parse share them, so the wire puts its own mapping here.
    """

    named: MutableMapping[str, Prepared]

    @property
    def status(self) -> TransactionStatus:
        """Whether a transaction block is open, and whether it has failed."""
        ...

    @property
    def reported(self) -> Mapping[str, str]:
        """The settings that clients are told of whenever they change, by the names they know."""
        ...

    def statements(self, text: str) -> list[str]:
        """Split the text of a simple query at its semicolons; an empty text has none.

        A syntax error in any of several statements is raised before one of them is run.
        """
        ...

    def begin_implicit(self) -> None:
        """Before each of several statements of a simple query: make them one transaction."""
        ...

    def begin_pipelined(self) -> None:
        """Before each statement of an extended query: those up to its Sync are one transaction."""
        ...

    def end_implicit(self) -> None:
        """End either transaction, if no statement has; undone if ``failed`` was called."""
        ...

    async def prepare(self, text: str, oids: Sequence[int]) -> Prepared:
        """Check one statement. ``oids``: parameter types that the client fixed, 0 for unknown."""
        ...

    async def run(self, prepared: Prepared, parameters: Sequence[object]) -> Answer:
        """Run it with parameters decoded to Python values of ``prepared.parameter_oids``."""
        ...

    def failed(self) -> None:
        """Note an error found outside the session: it fails the open transaction block, too."""
        ...

    def close(self) -> None:
        """Let go of cursors and pinned states."""
        ...
