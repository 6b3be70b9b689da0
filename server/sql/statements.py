"""What a statement says, before anyone looks at indexes, columns and types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from server.filters.syntax import Syntax

TableName = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Star:
    """``*`` in a list of outputs."""

    position: int


@dataclass(frozen=True, slots=True)
class Output:
    """One output: an expression, None for ``NULL``-free star; ``name`` is its alias."""

    value: Syntax | Star
    name: str | None


@dataclass(frozen=True, slots=True)
class OrderKey:
    """One key of ORDER BY."""

    value: Syntax
    descending: bool
    nulls_first: bool


@dataclass(frozen=True, slots=True)
class TableRef:
    """A table of FROM; ``name`` has one or two parts."""

    name: TableName
    position: int


@dataclass(frozen=True, slots=True)
class SearchCall:
    """``vecmirror.search(index, query, k, filter, ..)`` in FROM."""

    arguments: tuple[Syntax, ...]
    named: tuple[tuple[str, Syntax], ...]
    position: int


@dataclass(frozen=True, slots=True)
class Select:
    """``SELECT .. FROM one table``. ``sample``: the share of rows that TABLESAMPLE asks for."""

    outputs: tuple[Output, ...]
    source: TableRef | SearchCall | None
    where: Syntax | None = None
    order: tuple[OrderKey, ...] = ()
    limit: Syntax | None = None
    offset: Syntax | None = None
    sample: float | None = None


@dataclass(frozen=True, slots=True)
class CatalogQuery:
    """A question about the catalog of a Postgres, known by its text."""

    kind: str
    text: str
    parameters: int = 0


Query = Select | CatalogQuery


@dataclass(frozen=True, slots=True)
class Begin:
    """BEGIN or START TRANSACTION."""

    tag: str


@dataclass(frozen=True, slots=True)
class Commit:
    """COMMIT or END; ``chain``: begin the next transaction at once."""

    chain: bool = False


@dataclass(frozen=True, slots=True)
class Rollback:
    """ROLLBACK or ABORT."""

    chain: bool = False


@dataclass(frozen=True, slots=True)
class Savepoint:
    """SAVEPOINT."""

    name: str


@dataclass(frozen=True, slots=True)
class Release:
    """RELEASE [SAVEPOINT]."""

    name: str


@dataclass(frozen=True, slots=True)
class RollbackTo:
    """ROLLBACK TO [SAVEPOINT]."""

    name: str


@dataclass(frozen=True, slots=True)
class Declare:
    """DECLARE cursor. ``scroll`` None: neither SCROLL nor NO SCROLL was said."""

    name: str
    scroll: bool | None
    hold: bool
    query: Query


Direction = Literal["forward", "backward", "absolute", "relative"]


@dataclass(frozen=True, slots=True)
class Fetch:
    """FETCH, or MOVE when ``silent``. ``count`` None: ALL."""

    cursor: str
    direction: Direction = "forward"
    count: int | None = 1
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """CLOSE; None: ALL."""

    cursor: str | None


@dataclass(frozen=True, slots=True)
class SetVariable:
    """SET; ``value`` None: DEFAULT."""

    name: str
    value: str | None
    local: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """RESET; None: ALL."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Show:
    """SHOW; None: ALL."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Discard:
    """DISCARD."""

    what: str


@dataclass(frozen=True, slots=True)
class PrepareNamed:
    """PREPARE name (types) AS statement."""

    name: str
    types: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class ExecuteNamed:
    """EXECUTE name (values)."""

    name: str
    arguments: tuple[Syntax, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Deallocate:
    """DEALLOCATE; None: ALL."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Explain:
    """EXPLAIN; ``query`` None where we cannot read or answer what it asks about."""

    query: Query | None


@dataclass(frozen=True, slots=True)
class Nothing:
    """A statement that asks for nothing that a reader of indexes has, as UNLISTEN."""

    tag: str


Statement = (
    Select
    | CatalogQuery
    | Begin
    | Commit
    | Rollback
    | Savepoint
    | Release
    | RollbackTo
    | Declare
    | Fetch
    | Close
    | SetVariable
    | Reset
    | Show
    | Discard
    | PrepareNamed
    | ExecuteNamed
    | Deallocate
    | Explain
    | Nothing
)
