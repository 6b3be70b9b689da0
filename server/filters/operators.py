"""Which operator and function fits which types, as Postgres resolves them (section 10.2, 10.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import arithmetic, arrays, texts
from .compare import COMPARISONS, compare
from .guard import Guard
from .sqltypes import FLOATS, INTEGERS, MOMENTS, NUMBERS, is_array
from .values import Values, truth

Kernel = Callable[..., Any]

LIKES = ("~~", "!~~", "~~*", "!~~*")
ARRAY_OPERATORS = {"&&": arrays.overlaps, "@>": arrays.contains, "<@": arrays.contained}
MIRRORED_ARRAY_OPERATORS = {"&&": "&&", "@>": "<@", "<@": "@>"}
ARITHMETIC = ("+", "-", "*", "/", "%")


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator for two types: what its arguments are cast to, its result and its kernel."""

    left: str
    right: str
    result: str
    kernel: Kernel


@dataclass(frozen=True, slots=True)
class Function:
    """A function of one argument. ``takes``: the types; an untyped literal becomes ``assumed``.

    ``result`` None stands for the argument's own type.
    """

    takes: tuple[str, ...]
    assumed: str
    result: str | None
    kernel: Kernel


FUNCTIONS: dict[str, Function] = {
    "upper": Function(("text",), "text", "text", texts.upper_text),
    "lower": Function(("text",), "text", "text", texts.lower_text),
    **dict.fromkeys(
        ("length", "char_length", "character_length"),
        Function(("text",), "text", "int4", texts.length_of),
    ),
    "abs": Function(NUMBERS, "float8", None, arithmetic.absolute),
    "cardinality": Function(
        ("int2[]", "int4[]", "int8[]", "text[]"), "text[]", "int4", arrays.cardinality
    ),
}


def comparison(symbol: str) -> Kernel:
    """Return the kernel of a comparison."""

    def kernel(guard: Guard, a: Values, b: Values) -> Values:
        return truth(compare(symbol, a, b))

    return kernel


def resolve(symbol: str, left: str, right: str) -> Operator | None:
    """Return the operator for two types; None if Postgres has none, or filters do not."""
    if symbol in COMPARISONS:
        return _comparison(symbol, left, right)
    if symbol in LIKES:
        return _for_texts(left, right, "bool", texts.like(symbol))
    if symbol == "||":
        return _for_texts(left, right, "text", texts.concatenate)
    if symbol in ARRAY_OPERATORS and left == right and is_array(left):
        return Operator(left, right, "bool", ARRAY_OPERATORS[symbol])
    if symbol in ARITHMETIC:
        return _arithmetic(symbol, left, right)
    return None


def _for_texts(left: str, right: str, result: str, kernel: Kernel) -> Operator | None:
    return Operator("text", "text", result, kernel) if left == right == "text" else None


def _comparison(symbol: str, left: str, right: str) -> Operator | None:
    if is_array(left) or is_array(right):
        fits = left == right
        return Operator(left, right, "bool", arrays.comparison(symbol)) if fits else None
    if left in NUMBERS and right in NUMBERS and left != right:
        return _numbers(symbol, left, right)
    if left == right or (left in MOMENTS and right in MOMENTS):
        return Operator(left, right, "bool", comparison(symbol))
    return None


def _numbers(symbol: str, left: str, right: str) -> Operator:
    # Integers of all sizes compare with each other and with numeric as they are.
    if left in FLOATS or right in FLOATS:
        left = right = "float8"
    return Operator(left, right, "bool", comparison(symbol))


def _arithmetic(symbol: str, left: str, right: str) -> Operator | None:
    if "date" in (left, right):
        return _date_arithmetic(symbol, left, right)
    if left not in NUMBERS or right not in NUMBERS:
        return None
    result = _arithmetic_result(left, right)
    if result in FLOATS:
        if symbol == "%":
            return None
        left = right = result
    return Operator(left, right, result, arithmetic.arithmetic(symbol, result))


def _arithmetic_result(left: str, right: str) -> str:
    if left == right:
        return left
    if left in FLOATS or right in FLOATS:
        return "float8"
    return max(left, right, key=NUMBERS.index)


def _date_arithmetic(symbol: str, left: str, right: str) -> Operator | None:
    if left == right == "date" and symbol == "-":
        return Operator("date", "date", "int4", arithmetic.days_between)
    if left == "date" and right in INTEGERS[:2] and symbol in "+-":
        sign = 1 if symbol == "+" else -1
        return Operator("date", "int4", "date", arithmetic.move_date(sign))
    if right == "date" and left in INTEGERS[:2] and symbol == "+":
        return Operator("int4", "date", "date", arithmetic.swap(arithmetic.move_date(1)))
    return None
