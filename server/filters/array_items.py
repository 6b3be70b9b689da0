"""Columns of arrays in programs: && @> <@ with a constant, a constant with ANY and ALL.

Items are integers, or codes of text: words become the codes that they have in the dictionary, and
an operator on words becomes the set of codes for which it holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import numpy as np

from gpu.arrays import I64
from gpu.filter_program import Op

from .compare import COMPARISONS, find_words
from .compare import compare as compare_values
from .emitting import Emitter, NoProgram
from .literals import Value
from .nodes import Column, Const
from .sqltypes import INTEGERS, element_of
from .values import Values, constant

#: Items of a constant that an array is asked for one by one.
MOST_WANTED = 64

_LEAST, _GREATEST = -(2**63), 2**63 - 1

#: What does not hold where an operator holds.
_NEGATED = {"=": "<>", "<>": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def compare(to: Emitter, symbol: str, column: Column, items: tuple[Value | None, ...]) -> None:
    """Push ``column symbol items``, the symbol being one of && @> <@."""
    wanted = _keys(to, column, [item for item in items if item is not None])
    number = to.number_of(column.name)
    if symbol == "&&":
        to.emit(Op.SOME_IN, number, to.keep(wanted), len(wanted))
    elif symbol == "<@":
        to.emit(Op.SOME_OUTSIDE, number, to.keep(wanted), len(wanted))
        to.emit(Op.NOT)
    elif None in items or len(wanted) < len(set(items)):
        # No array holds a NULL, or a word that no row has.
        to.emit(Op.SOME_IN, number)
    else:
        _contains_all(to, number, wanted)


def _contains_all(to: Emitter, number: int, wanted: I64) -> None:
    if len(wanted) > MOST_WANTED:
        raise NoProgram("too many items")
    if len(wanted) == 0:
        to.emit(Op.SOME_IN, number)
        to.emit(Op.NOT)
    at = to.keep(wanted)
    for place in range(len(wanted)):
        if place:
            to.emit(Op.ALSO)
        to.emit(Op.SOME_IN, number, at + place, 1)
        if place:
            to.emit(Op.AND)


def quantify(to: Emitter, symbol: str, left: Const, column: Column, *, every: bool) -> None:
    """Push ``left symbol ANY (column)``, or ALL (``every``)."""
    if left.value is None or symbol not in COMPARISONS:
        raise NoProgram(symbol)
    # All items do where none does not.
    symbol = _NEGATED[symbol] if every else symbol
    if element_of(column.type) == "text":
        codes = _codes_where(to, symbol, left, column)
        to.emit(Op.SOME_IN, to.number_of(column.name), to.keep(codes), len(codes))
    else:
        _between(to, symbol, left, column)
    to.emit(Op.ALSO)
    to.emit(Op.NULL_ITEM, to.number_of(column.name))
    to.emit(Op.OR)
    if every:
        to.emit(Op.NOT)


def _between(to: Emitter, symbol: str, left: Const, column: Column) -> None:
    if left.type not in INTEGERS or not isinstance(left.value, int):
        raise NoProgram(left.type)
    x = left.value
    ranges = {
        "=": [(x, x)],
        "<>": [(_LEAST, x - 1), (x + 1, _GREATEST)],
        "<": [(x + 1, _GREATEST)],
        "<=": [(x, _GREATEST)],
        ">": [(_LEAST, x - 1)],
        ">=": [(_LEAST, x)],
    }[symbol]
    for place, (low, high) in enumerate(ranges):
        # A range that ends before it begins may lie beyond the integers.
        ends = np.array([low, high] if low <= _GREATEST and high >= _LEAST else [1, 0], np.int64)
        if place:
            to.emit(Op.ALSO)
        to.emit(Op.SOME_BETWEEN, to.number_of(column.name), to.keep(ends))
        if place:
            to.emit(Op.OR)


def _codes_where(to: Emitter, symbol: str, left: Const, column: Column) -> I64:
    """Return the codes of the words for which ``left symbol word`` holds."""
    dictionary = to.view(column.name).dictionary
    assert dictionary is not None
    words = list(dictionary)
    own = Values("text", np.arange(len(words), dtype=np.int32), None, words)
    wanted = constant("text", left.value)
    assert isinstance(wanted, Values)
    return np.flatnonzero(compare_values(symbol, wanted, own)).astype(np.int64)


def _keys(to: Emitter, column: Column, items: Iterable[Value]) -> I64:
    """Return items as sorted numbers; text that no row has is left out."""
    element = element_of(column.type)
    if element == "text":
        dictionary = to.view(column.name).dictionary
        assert dictionary is not None
        codes = find_words(dictionary, [str(item) for item in items])
        return np.unique(codes[codes >= 0]).astype(np.int64)
    if element not in INTEGERS:
        raise NoProgram(element)
    whole = {int(item) for item in items if isinstance(item, (int, Decimal))}
    return np.array(sorted(whole), np.int64)
