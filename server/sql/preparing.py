"""Statements understood: read, planned and described, and kept by their text.

postgres_fdw repeats its statements, and so do drivers; the second time costs a look-up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from server.catalog import CatalogLike
from server.filters import FilterError, syntax

from . import catalog_queries, constants
from .answers import Column
from .binding import constant
from .constants import Facts
from .errors import SqlError
from .grammar import read_statement
from .lifting import FIRST_LIFTED, Lifted
from .outputs import output_columns
from .parameters import parameter_oids, select_trees, unknown_values
from .plans import Plan, call_arguments, plan_select
from .statements import CatalogQuery, Declare, Explain, Query, SearchCall, Select, Show, Statement
from .tables import SCHEMAS, IndexTable, table_of
from .types import TEXT

#: Understood statements that are kept, and the longest text that is worth it.
_KEPT_STATEMENTS, _LONGEST_TEXT = 2_000, 4_000

PLAN_COLUMN = Column("QUERY PLAN", TEXT)


@dataclass(frozen=True, slots=True)
class Understood:
    """A statement, and for queries over an index the plan of them.

    ``columns`` None: no rows. ``cursor_columns``: those of a cursor that it declares.
    """

    statement: Statement
    oids: tuple[int, ...]
    columns: tuple[Column, ...] | None
    plan: Plan | None = None
    lifted: int = 0
    cursor_columns: tuple[Column, ...] = ()


class Statements:
    """Understood statements of all sessions; only the event loop uses it."""

    def __init__(self, catalog: CatalogLike) -> None:
        self._catalog = catalog
        self._kept: OrderedDict[tuple[str, tuple[int, ...]], Understood] = OrderedDict()

    def understand(self, text: Lifted, oids: Sequence[int], facts: Facts) -> Understood:
        """Return what a statement means; raise SqlError or FilterError."""
        key = text.text, tuple(oids)
        found = self._kept.get(key)
        if found is not None and self._still_true(found):
            self._kept.move_to_end(key)
            return found
        found = self._read(text, oids, facts)
        if _depends_on_its_text_only(found) and len(text.text) <= _LONGEST_TEXT:
            self._kept[key] = found
            if len(self._kept) > _KEPT_STATEMENTS:
                self._kept.popitem(last=False)
        return found

    def _still_true(self, found: Understood) -> bool:
        if found.plan is None:
            return True
        table = found.plan.table
        return self._catalog.get(table.name).spec is table.spec

    def _read(self, text: Lifted, oids: Sequence[int], facts: Facts) -> Understood:
        statement = read_statement(text.text)
        lifted = len(text.values)
        match statement:
            case Select() | CatalogQuery():
                return self._query(statement, statement, oids, facts, text)
            case Declare():
                inner = self._query(statement, statement.query, oids, facts, text)
                columns = inner.columns or ()
                return Understood(statement, inner.oids, None, inner.plan, lifted, columns)
            case Explain():
                return self._explain(statement, oids, facts, text)
            case Show():
                return Understood(statement, tuple(oids), _show_columns(statement))
        return Understood(statement, tuple(oids), None, lifted=lifted)

    def _explain(
        self, statement: Explain, oids: Sequence[int], facts: Facts, text: Lifted
    ) -> Understood:
        plan, found_oids = None, tuple(oids)
        if statement.query is not None:
            try:
                inner = self._query(statement, statement.query, oids, facts, text)
                plan, found_oids = inner.plan, inner.oids
            except FilterError:
                pass  # what is not served has its price: see explaining.py
            except SqlError as error:
                if error.sqlstate == "42P01":
                    raise
        return Understood(statement, found_oids, (PLAN_COLUMN,), plan, len(text.values))

    def _query(
        self,
        statement: Statement,
        query: Query,
        oids: Sequence[int],
        facts: Facts,
        text: Lifted,
    ) -> Understood:
        lifted = len(text.values)
        if isinstance(query, CatalogQuery):
            fixed = catalog_queries.parameter_oids(query)
            return Understood(statement, fixed, catalog_queries.columns_of(query))
        table = self._table(query, text)
        found_oids = parameter_oids(list(select_trees(query)), table, oids)
        unknown = unknown_values(found_oids, lifted)
        if table is None:
            constants.check_shape(query)
            columns = constants.columns_of(query, facts, unknown)
            return Understood(statement, found_oids, columns, None, lifted)
        plan = plan_select(query, table)
        return Understood(statement, found_oids, output_columns(plan, unknown), plan, lifted)

    def _table(self, query: Select, text: Lifted) -> IndexTable | None:
        """Return the table of FROM; raise SqlError or UnknownIndex."""
        source = query.source
        if source is None:
            return None
        if isinstance(source, SearchCall):
            return table_of(self._catalog.get(_index_name(source, text)).spec)
        name = source.name[-1]
        if len(source.name) > 1 and source.name[0] not in SCHEMAS:
            shown = ".".join(source.name)
            message = f'relation "{shown}" does not exist'
            hint = "indexes are tables of the schema vecmirror"
            raise SqlError("42P01", message, hint=hint, position=source.position + 1)
        return table_of(self._catalog.get(name).spec)


def _index_name(call: SearchCall, text: Lifted) -> str:
    """Return the index that a call of search names; raise SqlError."""
    tree = call_arguments(call)["index"]
    if any(isinstance(part, syntax.Parameter) for part in syntax.parts(tree)):
        values = dict(enumerate(text.values, FIRST_LIFTED))
        try:
            found = constant(tree, values, "text")
        except Exception as error:
            message = "the index must be a literal: its columns are those of the answer"
            raise SqlError("0A000", message, position=tree.position + 1) from error
    else:
        found = constant(tree, {}, "text")
    name = str(found)
    for schema in SCHEMAS:
        name = name.removeprefix(f"{schema}.")
    return name.strip('"')


def _depends_on_its_text_only(found: Understood) -> bool:
    """Whether the same text means the same for every session, whatever was lifted out of it."""
    statement = found.statement
    source = statement.source if isinstance(statement, Select) else None
    return not (isinstance(source, SearchCall) and found.lifted and found.plan is None)


def _show_columns(statement: Show) -> tuple[Column, ...]:
    if statement.name is None:
        return tuple(Column(name, TEXT) for name in ("name", "setting", "description"))
    return (Column(statement.name, TEXT),)
