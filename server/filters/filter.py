"""parse and Filter: the two things the rest of the server uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from server.columns import ColumnView

from .checker import Parameters, check_filter, columns_of
from .folding import fold
from .nodes import Node, Rows
from .parser import parse_syntax
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


def parse(text: str, params: Parameters, types: Mapping[str, str]) -> Filter:
    """Return the filter that ``text``, a SQL WHERE expression, means over columns of ``types``.

    ``params``: a sequence for ``$1, $2, ..`` or a mapping for ``:name``, with the values of
    Python or JSON. ``types``: column name to a member of ``pgsync.table.FILTER_TYPES``. Raise
    FilterError for anything that Postgres would refuse, and for what filters do not offer.
    """
    root = fold(check_filter(parse_syntax(text), params, types))
    return Filter(text, columns_of(root), root)
