"""parse and Filter: the two things the rest of the server uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gpu.filter_program import FilterProgram
from server.columns import ColumnView

from .checker import Parameters, check_expression, check_filter, columns_of
from .compiling import compile_program
from .emitting import NoProgram
from .folding import fold
from .literals import Value
from .nodes import Const, Node, Rows
from .parser import parse_syntax
from .syntax import Syntax
from .values import Mask, Values, Vector, from_view


@dataclass(frozen=True, slots=True)
class Filter:
    """A checked filter, ready for any number of evaluations from any thread.

    ``columns`` are the names of the columns it reads.
    """

    text: str
    columns: frozenset[str]
    _root: Node

    def evaluate(
        self,
        column: Callable[[str], ColumnView],
        n_rows: int,
        live: Mask | None = None,
    ) -> Mask:
        """Return bool[n_rows], a new array: the rows for which the filter is TRUE.

        ``live``: bool[n_rows], the rows whose answer matters. Rows of killed versions still have
        values; a division by zero in one of them must not fail the search. Raise FilterError
        when the filter has no answer for a live row: division by zero, a number out of range, a
        cast of text that means nothing.
        """
        vectors: dict[str, Vector] = {}

        def vector(name: str) -> Vector:
            if name not in vectors:
                vectors[name] = from_view(column(name))
            return vectors[name]

        result = self._root.evaluate(Rows(vector, n_rows, live))
        assert isinstance(result, Values)
        return np.array(np.broadcast_to(result.data, n_rows))

    def program(self, column: Callable[[str], ColumnView]) -> FilterProgram | None:
        """Return a program that says the same of the columns' rows; None if there is none.

        It reads the columns' dictionaries, so it is for rows that these columns have.
        """
        try:
            return compile_program(self._root, column)
        except NoProgram:
            return None


def parse(text: str, params: Parameters, types: Mapping[str, str]) -> Filter:
    """Return the filter that ``text``, a SQL WHERE expression, means over columns of ``types``.

    ``params``: a sequence for ``$1, $2, ..`` or a mapping for ``:name``, with the values of
    Python or JSON. ``types``: column name to a member of ``pgsync.table.FILTER_TYPES``. Raise
    FilterError for anything that Postgres would refuse, and for what filters do not offer.
    """
    root = fold(check_filter(parse_syntax(text), params, types))
    return Filter(text, columns_of(root), root)


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression of any type, ready for any number of evaluations from any thread.

    ``constant``: it depends on no column.
    """

    type: str
    columns: frozenset[str]
    _root: Node

    @property
    def constant(self) -> bool:
        """Whether it has one value for all rows."""
        return isinstance(self._root, Const)

    @property
    def value(self) -> Value | None:
        """The value of a constant."""
        assert isinstance(self._root, Const)
        return self._root.value

    def evaluate(self, column: Callable[[str], ColumnView], n_rows: int) -> Vector:
        """Return the value of each row, or one row that stands for all; raise FilterError."""
        return self._root.evaluate(Rows(lambda name: from_view(column(name)), n_rows))


def check_condition(
    tree: Syntax, params: Parameters, types: Mapping[str, str], text: str = ""
) -> Filter:
    """Return what a condition that was read already means; see ``parse``.

    ``params`` may hold more than the condition uses.
    """
    root = fold(check_filter(tree, params, types, exhaustive=False))
    return Filter(text, columns_of(root), root)


def check_value(tree: Syntax, params: Parameters, types: Mapping[str, str]) -> Expression:
    """Return what an expression that was read already means; ``params`` as in check_condition."""
    root = fold(check_expression(tree, params, types))
    return Expression(root.type, columns_of(root), root)
