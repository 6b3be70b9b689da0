"""Numerics in programs: integers of their smallest decimal, or the integer beside a fraction."""

from __future__ import annotations

import math
from decimal import Context, Decimal

from gpu.filter_program import Op

from .emitting import NoProgram
from .literals import Value
from .nodes import Call, Const, Node
from .sqltypes import INTEGERS
from .trees import integer_of

#: The integers of 64 bits.
LEAST, GREATEST = -(2**63), 2**63 - 1

_EXACT = Context(prec=100)

COMPARISON_OPS = {
    "=": Op.EQUAL,
    "<>": Op.NOT_EQUAL,
    "<": Op.LESS,
    "<=": Op.LESS_EQUAL,
    ">": Op.GREATER,
    ">=": Op.GREATER_EQUAL,
}


def scale_of(node: Node) -> int:
    """Return how many decimals a numeric expression has in every row; raise NoProgram."""
    node = integer_of(node)
    if node.type in INTEGERS:
        return 0
    if isinstance(node, Const) and isinstance(node.value, Decimal):
        exponent = node.value.as_tuple().exponent
        return max(0, -int(exponent))
    if isinstance(node, Call) and node.name in ("+", "-", "negate", "abs"):
        return max(map(scale_of, node.arguments))
    if isinstance(node, Call) and node.name == "*":
        return sum(map(scale_of, node.arguments))
    raise NoProgram("numeric")


def scaled_constant(value: Value | None, scale: int) -> int:
    """Return a number times 10^scale; raise NoProgram beyond 64 bits."""
    if not isinstance(value, (int, Decimal)):
        raise NoProgram("numeric")
    scaled = int(Decimal(value).scaleb(scale, _EXACT))
    if not LEAST <= scaled <= GREATEST:
        raise NoProgram("numeric beyond 64 bits")
    return scaled


def beside(symbol: str, bound: Decimal) -> tuple[Op, int]:
    """Return what an integer is compared with in place of ``bound``."""
    floor = math.floor(bound)
    if not LEAST <= floor <= GREATEST:
        above = floor > 0
        always = symbol == "<>" or symbol.startswith("<" if above else ">")
    elif floor == bound:
        return COMPARISON_OPS[symbol], floor
    elif symbol in ("=", "<>"):
        always = symbol == "<>"
    else:
        return (Op.LESS_EQUAL if symbol.startswith("<") else Op.GREATER), floor
    return (Op.LESS_EQUAL if always else Op.GREATER), GREATEST
