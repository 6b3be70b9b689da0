"""ANY and ALL over arrays: of a column, item by item; of a constant, by what the operator allows.

An empty array makes ANY FALSE and ALL TRUE even for NULL; a NULL array makes both NULL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .arrays import any_item
from .compare import is_member
from .errors import PROGRAM_LIMIT_EXCEEDED, FilterError
from .guard import Guard
from .logic import UNKNOWN, and_, not_, or_
from .values import Arrays, Mask, Values, constant, either, is_null, scalar, take, truth

Kernel = Callable[..., Any]

#: Items that an operator other than a comparison is tried with one by one, as in LIKE ANY.
MAX_TRIED_ITEMS = 1_000


def quantify(guard: Guard, kernel: Kernel, left: Values, array: Arrays, every: bool) -> Values:
    """Return ``left operator ANY/ALL (array)`` for arrays that differ by row."""
    owners = array.owners()
    repeated = take(left, owners)
    null = either(repeated.null, array.items.null)
    if null is not None:
        null = np.broadcast_to(null, len(owners))
    active = None if guard.active is None else guard.active[owners]
    found: Mask = kernel(Guard(guard.position, active, null), repeated, array.items).data
    known = np.ones(len(owners), np.bool_) if null is None else ~null
    # One TRUE decides ANY, one FALSE decides ALL.
    decided = any_item(array, known & (found != every))
    unknown = any_item(array, ~known) & ~decided
    return truth(decided != every, either(array.null, unknown))


def quantify_constant(
    guard: Guard, operator: str, kernel: Kernel, left: Values, array: Arrays, every: bool
) -> Values:
    """Return ``left operator ANY/ALL (array)`` for an array of one row that stands for all."""
    if is_null(array)[0]:
        return UNKNOWN
    absent = array.items.null
    items = _distinct(array.items)
    if array.items.rows == 0:
        return truth(np.full(1, every))
    result = truth(np.full(1, every))
    if items.rows:
        result = _known(guard, operator, kernel, left, items, every)
    if absent is None:
        return result
    return and_(result, UNKNOWN) if every else or_(result, UNKNOWN)


def _known(
    guard: Guard, operator: str, kernel: Kernel, left: Values, items: Values, every: bool
) -> Values:
    """Quantify over distinct items of which none is NULL."""
    if (operator, every) in (("=", False), ("<>", True)):
        member = truth(is_member(left, items), left.null)
        return not_(member) if every else member
    if operator in ("<", "<=", ">", ">="):
        # Below one of them is below the greatest; below all of them is below the least.
        greatest = operator.startswith("<") != every
        items = extreme(items, greatest=greatest)
    if items.rows > MAX_TRIED_ITEMS:
        message = f"this operator takes arrays of up to {MAX_TRIED_ITEMS} items"
        raise FilterError(message, guard.position, PROGRAM_LIMIT_EXCEEDED)
    return _try_each(guard, kernel, left, items, every)


def _try_each(guard: Guard, kernel: Kernel, left: Values, items: Values, every: bool) -> Values:
    result = truth(np.full(1, every))
    inner = Guard(guard.position, guard.active, left.null)
    for index in range(items.rows):
        one = take_one(items, index)
        tried = truth(kernel(inner, left, one).data, left.null)
        result = and_(result, tried) if every else or_(result, tried)
    return result


def take_one(values: Values, index: int) -> Values:
    """Return one row as a vector that stands for all rows."""
    return Values(values.type, values.data[index : index + 1], None, values.words)


def _distinct(items: Values) -> Values:
    data = items.data if items.null is None else items.data[~items.null]
    return Values(items.type, np.unique(data), None, items.words)


def extreme(items: Values, *, greatest: bool) -> Values:
    """Return the greatest, or the least, of values of which none is NULL."""
    values = [scalar(take_one(items, index)) for index in range(items.rows)]
    chosen = (max if greatest else min)(values, key=_order)
    result = constant(items.type, chosen)
    assert isinstance(result, Values)
    return result


def _order(value: Any) -> tuple[bool, Any]:
    """Order values as Postgres does: NaN is the greatest."""
    absent = isinstance(value, float) and math.isnan(value)
    return absent, 0.0 if absent else value
