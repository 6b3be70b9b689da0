"""Programs of filters: what a card runs for each row to tell whether a WHERE expression is TRUE.

A program is a list of steps for a machine with one stack of nullable 64-bit values. Integers,
dates and timestamps are themselves; booleans are 0 and 1; float4 and float8 are the bits of a
float64. ``server.filters`` compiles expressions to programs; ``kernels/filter.cu`` runs them.

Invariants:

- A boolean that is NULL has the value 0: 1 means TRUE, and 0 that is not NULL means FALSE.
- Beside the stack is a stack of conditions (``AND_THEN``, ``OR_ELSE``, ``ALSO``, ``WHEN``): an
  error counts only where all of them hold, no operand is NULL, and the row is alive.
- A row's error ends nothing: the program says that there was one, not which.
- ``data`` holds what steps point into: constants, sorted sets, tables by dictionary code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from .arrays import I32, I64, AnyArray, Bool

#: Values that a thread's stack may hold: 16 of them take 32 KiB of a block's shared memory.
MOST_DEPTH = 16
#: Steps of one program: 12 KiB of shared memory.
MOST_STEPS = 768


class Op(IntEnum):
    """What a step does; ``filter.cu`` has the same numbers. ``a``, ``b``, ``c`` are its operands.

    Behind each: stack before -- after.
    """

    #: -- value: row's value of column a.
    LOAD = 0
    #: -- bool: whether column a has a value (b = 0), or has none (b = 1).
    PRESENT = 1
    #: -- value: data[a]; NULL if b.
    CONST = 2
    #: -- bool: entry of a table for the code in column a, its last entry for NULL. The table is
    #: at data[b]: bits of c entries that are TRUE, then of those that are NULL, each whole words.
    LOOK_UP_BIT = 3
    #: -- value: the same with c values in place of the first bits.
    LOOK_UP = 4
    #: -- int: 2 * (items below) + (1 if equal to one) of the 16 bytes in column a, by byte order,
    #: among c sorted items of two words (high, low) at data[b].
    RANK = 5
    #: value -- : forget it.
    DROP = 6
    #: int -- bool: whether it is among b sorted integers at data[a].
    AMONG = 7
    #: value value -- bool.
    EQUAL = 8
    NOT_EQUAL = 9
    LESS = 10
    LESS_EQUAL = 11
    GREATER = 12
    GREATER_EQUAL = 13
    #: value value -- bool, never NULL: IS DISTINCT FROM; a = 1: IS NOT.
    DISTINCT = 14
    #: value -- bool, never NULL: IS NULL; a = 1: IS NOT NULL.
    IS_NULL = 15
    #: bool -- bool, never NULL: IS TRUE, IS FALSE; a = 1: IS NOT.
    IS_TRUE = 16
    IS_FALSE = 17
    #: bool -- bool.
    NOT = 18
    #: bool -- bool: a condition more, that it is not FALSE.
    AND_THEN = 19
    #: bool -- bool: a condition more, that it is not TRUE.
    OR_ELSE = 20
    #: bool bool -- bool: the last condition goes.
    AND = 21
    OR = 22
    #: bool -- bool: a condition more, that it is TRUE.
    WHEN = 23
    #: bool value -- bool value: the last condition becomes that the bool is not TRUE.
    ELSE = 24
    #: bool value value -- value: the first value if TRUE, else the second; the condition goes.
    CHOOSE = 25
    #: float -- int: numbers in the order of the floats; NaN is the greatest, -0 equals 0.
    FLOAT_KEY = 26
    #: int int -- int of a bytes (2, 4 or 8); errors: overflow, division by zero.
    ADD = 27
    SUBTRACT = 28
    MULTIPLY = 29
    DIVIDE = 30
    REMAINDER = 31
    #: int -- int of a bytes; error: it has the smallest value.
    NEGATE = 32
    ABSOLUTE = 33
    #: int -- int of a bytes; error: out of range.
    FIT = 34
    #: float float -- float of a bytes (4 or 8); errors: overflow, underflow, division by zero.
    FLOAT_ADD = 35
    FLOAT_SUBTRACT = 36
    FLOAT_MULTIPLY = 37
    FLOAT_DIVIDE = 38
    #: float -- float.
    FLOAT_NEGATE = 39
    FLOAT_ABSOLUTE = 40
    #: int -- float of a bytes.
    TO_FLOAT = 41
    #: float -- float of 4 bytes; error: out of range.
    NARROW = 42
    #: float -- int of a bytes, halves to the even side; error: out of range, NaN.
    TO_INTEGER = 43
    #: int -- bool: whether it is not 0.
    TO_BOOL = 44
    #: date int -- date: days later; a = 1: earlier; error: out of range.
    MOVE_DATE = 45
    #: date date -- int: days between; error: one is infinite.
    DAYS_BETWEEN = 46
    #: date -- timestamp; out of range is an error if a, else next to infinity.
    TO_TIMESTAMP = 47
    #: timestamp -- date.
    TO_DATE = 48
    #: value -- value: a condition more, that always holds.
    ALSO = 49
    #: -- int: how many items the array in column a has. Items are integers or codes.
    ITEM_COUNT = 50
    #: -- bool: whether an item of the array in column a is among c sorted integers at data[b].
    SOME_IN = 51
    #: -- bool: whether one is NULL or not among them.
    SOME_OUTSIDE = 52
    #: -- bool: whether one is at least data[b] and at most data[b + 1].
    SOME_BETWEEN = 53
    #: -- bool: NULL if an item of the array in column a is NULL, else FALSE.
    NULL_ITEM = 54


_PUSHES = {
    *(Op.LOAD, Op.PRESENT, Op.CONST, Op.LOOK_UP_BIT, Op.LOOK_UP, Op.RANK),
    *(Op.ITEM_COUNT, Op.SOME_IN, Op.SOME_OUTSIDE, Op.SOME_BETWEEN, Op.NULL_ITEM),
}
_POPS = {
    *(Op.DROP, Op.EQUAL, Op.NOT_EQUAL, Op.LESS, Op.LESS_EQUAL, Op.GREATER, Op.GREATER_EQUAL),
    *(Op.DISTINCT, Op.AND, Op.OR, Op.ADD, Op.SUBTRACT, Op.MULTIPLY, Op.DIVIDE, Op.REMAINDER),
    *(Op.FLOAT_ADD, Op.FLOAT_SUBTRACT, Op.FLOAT_MULTIPLY, Op.FLOAT_DIVIDE),
    *(Op.MOVE_DATE, Op.DAYS_BETWEEN),
}


class Step(NamedTuple):
    """One step: see ``Op``."""

    op: Op
    a: int = 0
    b: int = 0
    c: int = 0

    @property
    def growth(self) -> int:
        """By how much the stack is longer afterwards."""
        if self.op in _PUSHES:
            return 1
        if self.op in _POPS:
            return -1
        return -2 if self.op is Op.CHOOSE else 0


class FilterColumn(NamedTuple):
    """A column over row ids [0, n): ``values`` ?, i2, i4, i8, f4, f8 or V16; ``valid`` bool[n].

    Text is i4 codes of a dictionary. Values below a row id never change. Arrays: ``values`` are the
    items of all rows, row i owns those from ``offsets[i]`` to ``offsets[i + 1]`` (i64[n + 1]), and
    ``item_valid`` tells which are not NULL.
    """

    values: AnyArray
    valid: Bool
    offsets: I64 | None = None
    item_valid: Bool | None = None


@dataclass(frozen=True, slots=True)
class FilterProgram:
    """``steps`` leave one boolean; they name ``columns`` by number. ``data`` i64[w]."""

    columns: tuple[str, ...]
    steps: tuple[Step, ...]
    data: I64

    @property
    def code(self) -> I32:
        """The steps as i32[s, 4]."""
        return np.array(self.steps, np.int32).reshape(-1, 4)

    @property
    def depth(self) -> int:
        """Most values on the stack at a time."""
        return depth_of(self.steps)


def depth_of(steps: Sequence[Step]) -> int:
    """Return the most values that ``steps`` have on the stack at a time."""
    return int(np.cumsum([step.growth for step in steps]).max(initial=0))
