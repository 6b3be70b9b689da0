"""Text kernels. Each distinct word is looked at once; rows are gathered by code.

Letters are those of ASCII, as under COLLATE "C": upper('ä') is 'ä'.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from .errors import INVALID_ESCAPE_CHARACTER
from .guard import Guard, distinct_pairs
from .like import (
    DanglingEscape,
    compile_like,
    dangling_error,
    escape_pattern,
    has_dangling_escape,
    lower,
)
from .values import Mask, Values, text, truth

_ASCII_UPPER = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}


def lower_text(guard: Guard, a: Values) -> Values:
    """Return lower(a)."""
    return text(a.data, [lower(word) for word in a.vocabulary])


def upper_text(guard: Guard, a: Values) -> Values:
    """Return upper(a)."""
    return text(a.data, [_upper(word) for word in a.vocabulary])


def _upper(word: str) -> str:
    return word.upper() if word.isascii() else word.translate(_ASCII_UPPER)


def length_of(guard: Guard, a: Values) -> Values:
    """Return length(a) in characters."""
    return Values("int4", np.fromiter(map(len, a.vocabulary), np.int32)[a.data])


def escaped(guard: Guard, pattern: Values, escape: Values) -> Values:
    """Return patterns whose escape character is the backslash."""
    data, pairs = distinct_pairs(guard, pattern, escape)
    wrong = np.array([len(mark) > 1 for _, mark in pairs], np.bool_)
    message = "the escape string must be empty or one character"
    guard.check(wrong[data], message, INVALID_ESCAPE_CHARACTER)
    words = [escape_pattern(word, mark[:1]) for word, mark in pairs]
    return text(data, words)


def like(operator: str) -> Callable[[Guard, Values, Values], Values]:
    """Return the kernel of ``~~`` (LIKE), ``~~*`` (ILIKE), and of these with ``!`` (NOT)."""
    negated, fold = operator.startswith("!"), operator.endswith("*")

    def kernel(guard: Guard, a: Values, patterns: Values) -> Values:
        found = _like(guard, a, patterns, fold=fold)
        return truth(found != negated)

    return kernel


def _like(guard: Guard, a: Values, patterns: Values, *, fold: bool) -> Mask:
    if patterns.rows != 1:
        data, pairs = distinct_pairs(guard, a, patterns)
        compiled = lru_cache(maxsize=None)(lambda pattern: compile_like(pattern, fold=fold))
        outcomes = [_test(compiled(pattern), word) for word, pattern in pairs]
    else:
        data = a.data
        matches = compile_like(patterns.vocabulary[patterns.data[0]], fold=fold)
        if not has_dangling_escape(patterns.vocabulary[patterns.data[0]]):
            return np.fromiter(map(matches, a.vocabulary), np.bool_)[data]
        outcomes = [_test(matches, word) for word in a.vocabulary]
    table = np.array(outcomes, np.int8)[data]
    if (table < 0).any() and np.any((table < 0) & guard.counting(len(table))):
        raise dangling_error(guard.position)
    return np.asarray(table > 0)


def _test(matches: Callable[[str], bool], word: str) -> int:
    """Return 1 or 0; -1 where the pattern turns out to end in an escape."""
    try:
        return int(matches(word))
    except DanglingEscape:
        return -1


def concatenate(guard: Guard, a: Values, b: Values) -> Values:
    """Return a || b."""
    data, pairs = distinct_pairs(guard, a, b)
    return text(data, [left + right for left, right in pairs])
