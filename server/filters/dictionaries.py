"""Expressions over one text column, worked out once for each word of its dictionary.

A table has an entry for each code and a last one for NULL. What a word gives may be an error that
no row would meet; such an expression has no table, and rows are evaluated one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu.arrays import I64, Bool
from server.columns import ColumnView

from .machine_values import numbers, spread
from .nodes import Node, Rows
from .values import Values, is_null


class Table(NamedTuple):
    """Numbers i64[codes + 1] and which of them are NULL, bool[codes + 1]."""

    numbers: I64
    null: Bool


def words_of(view: ColumnView) -> Values:
    """Return each word of a dictionary as a row, and a last row that is NULL."""
    assert view.dictionary is not None
    words = list(view.dictionary)
    codes = np.arange(len(words) + 1, dtype=np.int32)
    codes[-1] = 0
    return Values("text", codes, np.arange(len(codes)) == len(words), words)


def evaluated(node: Node, words: Values) -> Values:
    """Return what ``node`` is for each row of ``words``, its column; raise FilterError."""
    found = node.evaluate(Rows(lambda name: words, words.rows))
    assert isinstance(found, Values)
    data, null = spread(found.data, words.rows), spread(is_null(found), words.rows)
    return Values(found.type, data, null, found.words)


def table(values: Values) -> Table:
    """Return values of a machine type as a table."""
    null = is_null(values)
    return Table(np.where(null, 0, numbers(values)), null)


def rank_tables(left: Values, right: Values) -> tuple[Table, Table]:
    """Return tables of two texts whose numbers have the order of the words."""
    ordered = {w: rank for rank, w in enumerate(sorted({*left.vocabulary, *right.vocabulary}))}
    return _ranked(left, ordered), _ranked(right, ordered)


def _ranked(values: Values, ranks: dict[str, int]) -> Table:
    by_word = np.fromiter((ranks[word] for word in values.vocabulary), np.int64)
    return Table(by_word[values.data], is_null(values))
