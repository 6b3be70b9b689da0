"""+ - * / % and abs with Postgres' result types and errors (utils/adt/int.c, float.c, date.c).

Integers divide towards zero, overflow is an error and never wraps, a division by zero is an error
for floats too. Kernels compute every row and then ask which errors count.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import exact
from .compare import decimals
from .errors import DATETIME_OVERFLOW, DIVISION_BY_ZERO, OUT_OF_RANGE
from .guard import Guard, distinct_pairs
from .moments import DATE_END_DAY, DATE_INFINITY, DATE_MINUS_INFINITY, FIRST_DAY
from .sqltypes import DTYPES, FLOATS, INTEGER_BOUNDS, INTEGERS, spoken
from .values import Mask, Values

_ONE = Decimal(1)

Kernel = Callable[[Guard, Values, Values], Values]


def arithmetic(operator: str, result_type: str) -> Kernel:
    """Return the kernel of ``+ - * / %`` for arguments that fit into ``result_type``."""

    def kernel(guard: Guard, a: Values, b: Values) -> Values:
        if result_type in INTEGERS:
            return _integers(operator, result_type, guard, a.data, b.data)
        if result_type in FLOATS:
            return _floats(operator, result_type, guard, a.data, b.data)
        return _numerics(operator, guard, decimals(a), decimals(b))

    return kernel


def negate(guard: Guard, a: Values) -> Values:
    """Return -a."""
    if a.type == "numeric":
        return Values("numeric", a.data, None, [exact.negate(word) for word in a.vocabulary])
    if a.type in INTEGERS:
        guard.check(_is_least(a), f"{spoken(a.type)} out of range", OUT_OF_RANGE)
    with np.errstate(all="ignore"):
        return Values(a.type, -a.data)


def absolute(guard: Guard, a: Values) -> Values:
    """Return abs(a)."""
    if a.type == "numeric":
        return Values("numeric", a.data, None, [exact.absolute(word) for word in a.vocabulary])
    if a.type in INTEGERS:
        guard.check(_is_least(a), f"{spoken(a.type)} out of range", OUT_OF_RANGE)
    with np.errstate(all="ignore"):
        return Values(a.type, np.abs(a.data))


def move_date(sign: int) -> Kernel:
    """Return the kernel of date + integer (``sign`` 1) or date - integer (-1)."""

    def kernel(guard: Guard, days: Values, by: Values) -> Values:
        infinite = (days.data == DATE_INFINITY) | (days.data == DATE_MINUS_INFINITY)
        moved = days.data.astype(np.int64) + sign * by.data.astype(np.int64)
        beyond = ((moved < FIRST_DAY) | (moved >= DATE_END_DAY)) & ~infinite
        guard.check(beyond, "date out of range", DATETIME_OVERFLOW)
        kept = np.where(infinite, days.data, moved)
        return Values("date", kept.astype(np.int32))

    return kernel


def swap(kernel: Kernel) -> Kernel:
    """Return the kernel with its arguments the other way round."""
    return lambda guard, a, b: kernel(guard, b, a)


def days_between(guard: Guard, a: Values, b: Values) -> Values:
    """Return date - date in days."""
    infinite = np.zeros(1, np.bool_)
    for side in (a.data, b.data):
        infinite = infinite | (side == DATE_INFINITY) | (side == DATE_MINUS_INFINITY)
    guard.check(infinite, "cannot subtract infinite dates", DATETIME_OVERFLOW)
    difference = a.data.astype(np.int64) - b.data.astype(np.int64)
    return Values("int4", difference.astype(np.int32))


def _is_least(a: Values) -> Mask:
    return np.asarray(a.data == -INTEGER_BOUNDS[a.type])


def _integers(
    operator: str, result_type: str, guard: Guard, x: NDArray[Any], y: NDArray[Any]
) -> Values:
    a, b = x.astype(np.int64, copy=False), y.astype(np.int64, copy=False)
    if operator in "/%":
        zero = np.asarray(b == 0)
        guard.check(zero, "division by zero", DIVISION_BY_ZERO)
        b = np.where(zero, 1, b) if zero.any() else b
    result, overflow = _INTEGER_KERNELS[operator](a, b)
    bound = INTEGER_BOUNDS[result_type]
    if bound < 2**63:
        overflow = (result < -bound) | (result >= bound)
    guard.check(overflow, f"{spoken(result_type)} out of range", OUT_OF_RANGE)
    return Values(result_type, result.astype(DTYPES[result_type], copy=False))


def _add(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    total = a + b
    return total, ((a ^ total) & (b ^ total)) < 0


def _subtract(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    difference = a - b
    return difference, ((a ^ b) & (a ^ difference)) < 0


def _multiply(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    product = a * b
    if _largest(a) * _largest(b) < 2**63:
        return product, np.zeros(1, np.bool_)
    divisor = np.where((b == 0) | (b == -1), 1, b)
    wrapped = (product // divisor != a) & (b != 0) & (b != -1)
    return product, wrapped | ((b == -1) & (a == -(2**63)))


def _divide(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    overflow = (a == -(2**63)) & (b == -1)
    safe = np.where(overflow, 1, b) if overflow.any() else b
    floor, rest = np.divmod(a, safe)
    # NumPy rounds down, Postgres towards zero.
    return floor + ((rest != 0) & ((a < 0) != (safe < 0))), overflow


def _remainder(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
    # x % -1 is 0 for all x, the smallest included, which a processor cannot divide by -1.
    return np.fmod(a, np.where(b == -1, 1, b)), np.zeros(1, np.bool_)


_INTEGER_KERNELS = {"+": _add, "-": _subtract, "*": _multiply, "/": _divide, "%": _remainder}


def _largest(values: NDArray[np.int64]) -> int:
    return max(abs(int(values.min())), abs(int(values.max()))) if len(values) else 0


def _floats(
    operator: str, result_type: str, guard: Guard, x: NDArray[Any], y: NDArray[Any]
) -> Values:
    kind = DTYPES[result_type]
    a, b = x.astype(kind, copy=False), y.astype(kind, copy=False)
    if operator == "/":
        bad = (b == 0) & ~np.isnan(a)
        guard.check(np.asarray(bad), "division by zero", DIVISION_BY_ZERO)
    with np.errstate(all="ignore"):
        result = _FLOAT_KERNELS[operator](a, b)
    overflow = np.isinf(result)
    if overflow.any():
        guard.check(
            overflow & ~np.isinf(a) & ~np.isinf(b), "value out of range: overflow", OUT_OF_RANGE
        )
    if operator in "*/":
        underflow = (result == 0) & (a != 0)
        underflow &= (b != 0) if operator == "*" else ~np.isinf(b)
        guard.check(underflow, "value out of range: underflow", OUT_OF_RANGE)
    return Values(result_type, result)


_FLOAT_KERNELS = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}


def _numerics(operator: str, guard: Guard, a: Values, b: Values) -> Values:
    """Work out each distinct pair once; what no row that counts needs may go wrong."""
    data, pairs = distinct_pairs(guard, a, b)
    if operator in "/%":
        zero = np.array([not right for _, right in pairs], np.bool_)
        guard.check(zero[data], "division by zero", DIVISION_BY_ZERO)
        pairs = [(left, right or _ONE) for left, right in pairs]
    words = [_NUMERIC_KERNELS[operator](left, right) for left, right in pairs]
    beyond = np.array([not exact.is_bounded(word) for word in words], np.bool_)
    guard.check(beyond[data], "value overflows numeric format", OUT_OF_RANGE)
    return Values("numeric", data.astype(np.int32), None, words)


_NUMERIC_KERNELS = {
    "+": exact.add,
    "-": exact.subtract,
    "*": exact.multiply,
    "/": exact.divide,
    "%": exact.remainder,
}
