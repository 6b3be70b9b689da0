"""Postgres' numeric as Decimal: exact sums and products, quotients with Postgres' own scale.

Literals such as 2.5 are numeric. Values are bounded far below Postgres' own limits, because no
column has this type; beyond the bound a filter fails, it never rounds. Zero has a scale and no
sign: Decimal has a negative zero, Postgres has none.
"""

from __future__ import annotations

import decimal
from decimal import Decimal

from .errors import OUT_OF_RANGE, FilterError

#: Digits before and after the decimal point. A bigint has 19, a double 309 and 324.
MAX_DIGITS = 1_000

_EXACT = decimal.Context(
    prec=4 * MAX_DIGITS + 100,
    rounding=decimal.ROUND_HALF_UP,
    Emin=-decimal.MAX_EMAX,
    Emax=decimal.MAX_EMAX,
    traps=[decimal.InvalidOperation],
)

#: Digits of a base-10,000 digit, and of the least significant quotient (utils/adt/numeric.c).
_BASE_DIGITS, _MIN_SIGNIFICANT_DIGITS = 4, 16


def check_numeric(value: Decimal, position: int) -> Decimal:
    """Return ``value`` with an exponent of at most 0; raise FilterError beyond the bound."""
    if not is_bounded(value):
        raise FilterError("value overflows numeric format", position, OUT_OF_RANGE)
    if _scale(value) >= 0:
        return _without_minus_zero(value)
    return value.quantize(Decimal(1), context=_EXACT) if value else Decimal(0)


def is_bounded(value: Decimal) -> bool:
    """Whether ``value`` is within MAX_DIGITS."""
    return _scale(value) <= MAX_DIGITS and (not value or value.adjusted() <= MAX_DIGITS)


def negate(value: Decimal) -> Decimal:
    """Return -value, exactly."""
    return value.copy_negate() if value else value


def absolute(value: Decimal) -> Decimal:
    """Return abs(value), exactly."""
    return value.copy_abs()


def add(a: Decimal, b: Decimal) -> Decimal:
    """Return a + b, exactly."""
    return _EXACT.add(a, b)


def subtract(a: Decimal, b: Decimal) -> Decimal:
    """Return a - b, exactly."""
    return _EXACT.subtract(a, b)


def multiply(a: Decimal, b: Decimal) -> Decimal:
    """Return a * b, exactly."""
    return _without_minus_zero(_EXACT.multiply(a, b))


def remainder(a: Decimal, b: Decimal) -> Decimal:
    """Return a % b with the sign of a; b is not 0."""
    return _without_minus_zero(_EXACT.remainder(a, b))


def divide(a: Decimal, b: Decimal) -> Decimal:
    """Return a / b, rounded half away from zero to the scale that Postgres chooses; b is not 0."""
    scale = _quotient_scale(a, b)
    shift = Decimal(1).scaleb(-scale)
    return _without_minus_zero(_EXACT.divide(a, b).quantize(shift, context=_EXACT))


def round_half_away(value: Decimal) -> int:
    """Return the nearest integer, as a cast of numeric to an integer type does."""
    return int(value.to_integral_value(decimal.ROUND_HALF_UP))


def _quotient_scale(a: Decimal, b: Decimal) -> int:
    """Return the number of decimals of a quotient (select_div_scale of numeric.c)."""
    weight_a, first_a = _leading_digit(a)
    weight_b, first_b = _leading_digit(b)
    weight = weight_a - weight_b - (first_a <= first_b)
    scale = _MIN_SIGNIFICANT_DIGITS - weight * _BASE_DIGITS
    return min(max(scale, _scale(a), _scale(b), 0), 1_000)


def _without_minus_zero(value: Decimal) -> Decimal:
    return value if value else value.copy_abs()


def _scale(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _leading_digit(value: Decimal) -> tuple[int, int]:
    """Return weight and value of the first non-zero digit in base 10,000."""
    if not value:
        return 0, 0
    weight = value.adjusted() // _BASE_DIGITS
    return weight, int(abs(value).scaleb(-weight * _BASE_DIGITS, context=_EXACT))
