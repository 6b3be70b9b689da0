"""Comparisons of scalars, by Postgres' btree order of each type.

Floats: NaN equals itself and is greater than all other values. Text: by bytes, as COLLATE "C",
which for UTF-8 is the order of code points and so that of Python. Dates and timestamps compare
across types as UTC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .moments import (
    DATE_INFINITY,
    DATE_MINUS_INFINITY,
    TIMESTAMP_INFINITY,
    TIMESTAMP_MINUS_INFINITY,
    US_PER_DAY,
)
from .sqltypes import FLOATS, INTEGERS, MOMENTS
from .values import Mask, Values

COMPARISONS = {
    "=": np.equal,
    "<>": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}

#: What stands in place of an operator when its sides are swapped.
MIRRORED = {"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

#: Up to this many values, a pass over the column for each beats a search for each row.
_FEW_VALUES = 6

#: Up to this distance between smallest and largest, a table of them is small.
_TABLE_RANGE = 4_000_000

#: Below this many words to look up, searching a vocabulary beats building a table of it.
_FEW_WORDS = 8


def compare(operator: str, a: Values, b: Values) -> Mask:
    """Return ``a operator b`` per row, whatever is NULL; the types are comparable."""
    if a.type in FLOATS:
        return _compare_floats(operator, a.data, b.data)
    if a.rows == 1 and b.rows != 1:
        return compare(MIRRORED[operator], b, a)
    if b.type == "numeric" and b.rows == 1 and a.type in INTEGERS:
        return _compare_to_decimal(operator, a.data, b.vocabulary[b.data[0]])
    x, y = comparable(a, b, ordered=operator not in ("=", "<>"))
    if b.rows == 1 and a.type in INTEGERS:
        # A Python integer compares in the column's own type, whatever its size.
        return np.asarray(COMPARISONS[operator](x, int(y[0])))
    return np.asarray(COMPARISONS[operator](x, y))


def is_member(a: Values, wanted: Values) -> Mask:
    """Return whether each row of ``a`` equals one of ``wanted``, neither of which is NULL."""
    if wanted.null is not None:
        wanted = Values(wanted.type, wanted.data[~wanted.null], None, wanted.words)
    if wanted.rows == 1:
        return compare("=", a, wanted)
    x, y = comparable(a, wanted, ordered=False)
    found = _among(x, np.unique(y))
    if a.type in FLOATS and np.isnan(y).any():
        found |= np.isnan(x)
    return found


def _among(x: NDArray[Any], y: NDArray[Any]) -> Mask:
    """Return which of ``x`` are among ``y``, which is sorted and holds each value once."""
    if len(y) <= _FEW_VALUES:
        found = np.zeros(len(x), np.bool_)
        for value in y:
            found |= x == value
        return found
    if y.dtype.kind == "i" and int(y[-1]) - int(y[0]) < _TABLE_RANGE:
        return np.isin(x, y, kind="table")
    places = np.searchsorted(y, x)
    return np.asarray(y[places.clip(max=len(y) - 1)] == x)


def comparable(a: Values, b: Values, *, ordered: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return two arrays whose elements are equal, or ``ordered``, as the values are."""
    if a.type == "text":
        return _ranks(a, b) if ordered else _codes(a, b)
    if a.type != b.type and a.type in MOMENTS:
        return ticks(a), ticks(b)
    if "numeric" in (a.type, b.type):
        return _ranks(decimals(a), decimals(b))
    return a.data, b.data


def decimals(values: Values) -> Values:
    """Return integers as numeric."""
    if values.type == "numeric":
        return values
    unique, codes = np.unique(values.data, return_inverse=True)
    words = [Decimal(value) for value in unique.tolist()]
    return Values("numeric", codes.astype(np.int32), values.null, words)


def ticks(values: Values) -> NDArray[np.int64]:
    """Return moments as microseconds since 2000-01-01 UTC.

    A date beyond the range of timestamps becomes the largest number below infinity, which orders
    it as Postgres does.
    """
    if values.type != "date":
        return values.data
    days = values.data.astype(np.int64)
    result = np.where(days > TIMESTAMP_INFINITY // US_PER_DAY, TIMESTAMP_INFINITY - 1, 0)
    inside = result == 0
    result[inside] = days[inside] * US_PER_DAY
    result[days == DATE_INFINITY] = TIMESTAMP_INFINITY
    result[days == DATE_MINUS_INFINITY] = TIMESTAMP_MINUS_INFINITY
    return result


def _compare_floats(operator: str, x: NDArray[Any], y: NDArray[Any]) -> Mask:
    if np.isnan(y).any():
        if np.isnan(x).any():
            return _compare_with_nan(operator, x, y)
        return _compare_floats(MIRRORED[operator], y, x)
    # y has no NaN; one in x is greater than all of y.
    result: Mask
    if operator in (">", ">="):
        result = ~np.less_equal(x, y) if operator == ">" else ~np.less(x, y)
    else:
        result = COMPARISONS[operator](x, y)
    return result


def _compare_with_nan(operator: str, x: NDArray[Any], y: NDArray[Any]) -> Mask:
    x_nan, y_nan = np.isnan(x), np.isnan(y)
    equal = (x == y) | (x_nan & y_nan)
    less = (x < y) | (~x_nan & y_nan)
    results: dict[str, Mask] = {
        "=": equal,
        "<>": ~equal,
        "<": less,
        "<=": less | equal,
        ">": ~(less | equal),
        ">=": ~less,
    }
    return results[operator]


def _compare_to_decimal(operator: str, integers: NDArray[Any], bound: Decimal) -> Mask:
    """Compare integers to a fraction by comparing them to the integer below or above it."""
    floor = math.floor(bound)
    if floor == bound:
        result: Mask = COMPARISONS[operator](integers, floor)
        return result
    if operator in ("=", "<>"):
        return np.full(len(integers), operator == "<>")
    return np.asarray(integers <= floor if operator in ("<", "<=") else integers > floor)


def _codes(a: Values, b: Values) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return codes of both in the vocabulary of ``a``; -1 for words that it lacks."""
    if a.words is b.words:
        return a.data, b.data
    if len(b.vocabulary) > len(a.vocabulary):
        y, x = _codes(b, a)
        return x, y
    found = find_words(a.vocabulary, b.vocabulary)
    return a.data, found[b.data]


def find_words(words: Sequence[str], wanted: Sequence[str]) -> NDArray[np.int32]:
    """Return the code of each wanted word in ``words``, -1 if it is not among them."""
    if len(wanted) <= _FEW_WORDS:
        return np.array([_find(words, word) for word in wanted], np.int32)
    codes = dict(zip(words, range(len(words)), strict=False))
    return np.fromiter((codes.get(word, -1) for word in wanted), np.int32, len(wanted))


def _find(words: Sequence[str], word: str) -> int:
    try:
        return words.index(word)
    except ValueError:
        return -1


def _ranks(a: Values, b: Values) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return numbers that order the words of both."""
    if b.rows == 1:
        word = b.vocabulary[b.data[0]]
        sides = np.fromiter(((w > word) - (w < word) for w in a.vocabulary), np.int8)
        return sides[a.data], np.zeros(1, np.int8)
    # A vocabulary may grow meanwhile: what is ranked must be what is looked up.
    words_a, words_b = list(a.vocabulary), list(b.vocabulary)
    order = {word: rank for rank, word in enumerate(sorted({*words_a, *words_b}))}
    x = np.fromiter((order[word] for word in words_a), np.int32, len(words_a))
    y = np.fromiter((order[word] for word in words_b), np.int32, len(words_b))
    return x[a.data], y[b.data]
