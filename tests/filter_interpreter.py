"""What programs of filters mean, step by step in NumPy over all rows: the kernel's definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpu.arrays import I64, Bool
from gpu.filter_program import FilterColumn, FilterProgram, Op, Step
from server.filters.compare import COMPARISONS
from server.filters.moments import (
    DATE_END_DAY,
    DATE_INFINITY,
    DATE_MINUS_INFINITY,
    FIRST_DAY,
    TIMESTAMP_INFINITY,
    TIMESTAMP_MINUS_INFINITY,
    US_PER_DAY,
)

F64 = NDArray[np.float64]


class Cell(NamedTuple):
    """One value of each row: numbers i64[n] and which are NULL."""

    data: I64
    null: Bool


@dataclass
class _Machine:
    columns: Mapping[str, FilterColumn]
    program: FilterProgram
    needed: list[Bool]
    failed: Bool
    stack: list[Cell]

    def check(self, bad: Bool, null: Bool) -> None:
        self.failed |= bad & ~null & self.needed[-1]

    def column(self, number: int) -> FilterColumn:
        column = self.columns[self.program.columns[number]]
        n = len(self.failed)
        if column.offsets is not None:
            return column._replace(valid=column.valid[:n])
        return FilterColumn(column.values[:n], column.valid[:n])


def interpret(
    program: FilterProgram, columns: Mapping[str, FilterColumn], alive: Bool
) -> tuple[Bool, bool]:
    """Return the rows for which a program is TRUE, bool[n], and whether an alive one has an error.

    Of dead rows with an error the answer may be anything.
    """
    machine = _Machine(columns, program, [alive], np.zeros(len(alive), np.bool_), [])
    with np.errstate(all="ignore"):
        for step in program.steps:
            _run(machine, step)
    (last,) = machine.stack
    assert len(machine.needed) == 1
    return (last.data == 1) & ~last.null, bool(machine.failed.any())


def _run(machine: _Machine, step: Step) -> None:
    if step.op in _PUSHES:
        machine.stack.append(_PUSHES[step.op](machine, step))
    elif step.op in _CONTROL:
        _CONTROL[step.op](machine, step)
    elif step.growth == -1:
        right, left = machine.stack.pop(), machine.stack.pop()
        machine.stack.append(_two(machine, step, left, right))
    else:
        machine.stack.append(_one(machine, step, machine.stack.pop()))


# ------------------------------------------------------------------ what pushes


def _load(machine: _Machine, step: Step) -> Cell:
    values, valid, *_ = machine.column(step.a)
    if values.dtype.kind == "f":
        numbers = values.astype(np.float64).view(np.int64)
    else:
        numbers = values.astype(np.int64)
    return Cell(np.where(valid, numbers, 0), ~valid)


def _present(machine: _Machine, step: Step) -> Cell:
    valid = machine.column(step.a).valid
    return Cell((valid != bool(step.b)).astype(np.int64), np.zeros(len(valid), np.bool_))


def _const(machine: _Machine, step: Step) -> Cell:
    n = len(machine.failed)
    return Cell(np.full(n, machine.program.data[step.a]), np.full(n, bool(step.b)))


def _flags(words: I64, count: int) -> Bool:
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:count].astype(np.bool_)


def _look_up(machine: _Machine, step: Step) -> Cell:
    codes, valid, *_ = machine.column(step.a)
    words = -(-step.c // 64)
    size = words if step.op is Op.LOOK_UP_BIT else step.c
    first = machine.program.data[step.b : step.b + size]
    if step.op is Op.LOOK_UP_BIT:
        first = _flags(first, step.c).astype(np.int64)
    null = _flags(machine.program.data[step.b + size : step.b + size + words], step.c)
    entry = np.where(valid, codes, step.c - 1)
    return Cell(first[entry], null[entry])


def _rank(machine: _Machine, step: Step) -> Cell:
    values, valid, *_ = machine.column(step.a)
    raw = machine.program.data[step.b : step.b + 2 * step.c].astype(">i8").tobytes()
    items = [raw[i : i + 16] for i in range(0, len(raw), 16)]
    ranks = [
        2 * sum(item < value.tobytes() for item in items) + (value.tobytes() in items)
        for value in values
    ]
    return Cell(np.array(ranks, np.int64).reshape(-1), ~valid)


def _items(machine: _Machine, step: Step) -> Cell:
    values, valid, offsets, item_valid = machine.column(step.a)
    assert offsets is not None
    assert item_valid is not None
    n = len(valid)
    items = [
        [v if ok else None for v, ok in zip(values[a:b].tolist(), item_valid[a:b], strict=True)]
        for a, b in pairwise(offsets[: n + 1])
    ]
    if step.op is Op.ITEM_COUNT:
        counts = np.array([len(row) for row in items], np.int64)
        return Cell(np.where(valid, counts, 0), ~valid)
    wanted = machine.program.data[step.b : step.b + step.c].tolist()
    between = step.op is Op.SOME_BETWEEN
    low, high = machine.program.data[step.b : step.b + 2].tolist() if between else (0, 0)
    looked_for: dict[Op, Callable[[int | None], bool]] = {
        Op.SOME_IN: lambda item: item in wanted,
        Op.SOME_OUTSIDE: lambda item: item not in wanted,
        Op.SOME_BETWEEN: lambda item: item is not None and low <= item <= high,
        Op.NULL_ITEM: lambda item: item is None,
    }
    found = np.array([any(looked_for[step.op](item) for item in row) for row in items], np.bool_)
    if step.op is Op.NULL_ITEM:
        return Cell(np.zeros(n, np.int64), ~valid | found)
    return Cell((found & valid).astype(np.int64), ~valid)


_PUSHES: dict[Op, Callable[[_Machine, Step], Cell]] = {
    Op.ITEM_COUNT: _items,
    Op.SOME_IN: _items,
    Op.SOME_OUTSIDE: _items,
    Op.SOME_BETWEEN: _items,
    Op.NULL_ITEM: _items,
    Op.LOAD: _load,
    Op.PRESENT: _present,
    Op.CONST: _const,
    Op.LOOK_UP_BIT: _look_up,
    Op.LOOK_UP: _look_up,
    Op.RANK: _rank,
}

# ------------------------------------------------------------------ conditions


def _condition(holds: Callable[[Cell], Bool]) -> Callable[[_Machine, Step], None]:
    def run(machine: _Machine, step: Step) -> None:
        machine.needed.append(machine.needed[-1] & holds(machine.stack[-1]))

    return run


def _drop(machine: _Machine, step: Step) -> None:
    machine.stack.pop()


def _else(machine: _Machine, step: Step) -> None:
    machine.needed[-1] = machine.needed[-2] & (machine.stack[-2].data == 0)


def _choose(machine: _Machine, step: Step) -> None:
    machine.needed.pop()
    other, first, condition = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    chosen = condition.data == 1
    data, null = (np.where(chosen, x, y) for x, y in zip(first, other, strict=True))
    machine.stack.append(Cell(data, null))


_CONTROL: dict[Op, Callable[[_Machine, Step], None]] = {
    Op.AND_THEN: _condition(lambda top: (top.data == 1) | top.null),
    Op.OR_ELSE: _condition(lambda top: top.data == 0),
    Op.WHEN: _condition(lambda top: top.data == 1),
    Op.ALSO: _condition(lambda top: np.ones(len(top.data), np.bool_)),
    Op.DROP: _drop,
    Op.ELSE: _else,
    Op.CHOOSE: _choose,
}

# ------------------------------------------------------------------ two values

_SYMBOLS = {
    Op.EQUAL: "=",
    Op.NOT_EQUAL: "<>",
    Op.LESS: "<",
    Op.LESS_EQUAL: "<=",
    Op.GREATER: ">",
    Op.GREATER_EQUAL: ">=",
}


def _two(machine: _Machine, step: Step, left: Cell, right: Cell) -> Cell:
    x, y = left.data, right.data
    null = left.null | right.null
    if step.op in _SYMBOLS:
        found = COMPARISONS[_SYMBOLS[step.op]](x, y) & ~null
        return Cell(found.astype(np.int64), null)
    if step.op is Op.DISTINCT:
        distinct = np.where(null, left.null != right.null, x != y)
        return _known(distinct != bool(step.a))
    if step.op in (Op.AND, Op.OR):
        machine.needed.pop()
        return _junction(step.op, left, right)
    if step.op in _EXACT:
        result, bad = _integers(step, x, y)
    elif step.op in (Op.MOVE_DATE, Op.DAYS_BETWEEN):
        result, bad = _dates(step, x, y)
    else:
        result, bad = _floats(step, x.view(np.float64), y.view(np.float64))
    machine.check(bad, null)
    return Cell(result, null)


def _known(flags: Bool) -> Cell:
    return Cell(flags.astype(np.int64), np.zeros(len(flags), np.bool_))


def _junction(op: Op, left: Cell, right: Cell) -> Cell:
    x, y = left.data == 1, right.data == 1
    if op is Op.OR:
        return Cell((x | y).astype(np.int64), (left.null | right.null) & ~(x | y))
    return Cell((x & y).astype(np.int64), (x | left.null) & (y | right.null) & ~(x & y))


def _divide(x: int, y: int) -> int:
    size = abs(x) // abs(y)
    return size if (x < 0) == (y < 0) else -size


_EXACT: dict[Op, Callable[[int, int], int]] = {
    Op.ADD: lambda x, y: x + y,
    Op.SUBTRACT: lambda x, y: x - y,
    Op.MULTIPLY: lambda x, y: x * y,
    Op.DIVIDE: lambda x, y: _divide(x, y) if y else 2**64,
    Op.REMAINDER: lambda x, y: x - y * _divide(x, y) if y else 2**64,
}


def _integers(step: Step, x: I64, y: I64) -> tuple[I64, Bool]:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    return _bounded([_EXACT[step.op](a, b) for a, b in pairs], step.a)


def _bounded(exact: list[int], width: int) -> tuple[I64, Bool]:
    bound = 2 ** (8 * width - 1)
    bad = np.array([not -bound <= value < bound for value in exact], np.bool_)
    kept = [value if -bound <= value < bound else 0 for value in exact]
    return np.array(kept, np.int64).reshape(-1), bad


def _infinite(days: I64) -> Bool:
    return np.asarray((days == DATE_INFINITY) | (days == DATE_MINUS_INFINITY))


def _dates(step: Step, x: I64, y: I64) -> tuple[I64, Bool]:
    if step.op is Op.DAYS_BETWEEN:
        return (x - y).astype(np.int32).astype(np.int64), _infinite(x) | _infinite(y)
    moved = np.where(_infinite(x), x, x - y if step.a else x + y)
    return moved, ~_infinite(x) & ((moved < FIRST_DAY) | (moved >= DATE_END_DAY))


_ARITHMETIC = {
    Op.FLOAT_ADD: np.add,
    Op.FLOAT_SUBTRACT: np.subtract,
    Op.FLOAT_MULTIPLY: np.multiply,
    Op.FLOAT_DIVIDE: np.divide,
}


def _floats(step: Step, x: F64, y: F64) -> tuple[I64, Bool]:
    kind = f"f{step.a}"
    a, b = x.astype(kind), y.astype(kind)
    result = _ARITHMETIC[step.op](a, b)
    bad = np.isinf(result) & ~np.isinf(a) & ~np.isinf(b)
    if step.op is Op.FLOAT_DIVIDE:
        bad |= ((b == 0) & ~np.isnan(a)) | ((result == 0) & (a != 0) & ~np.isinf(b))
    elif step.op is Op.FLOAT_MULTIPLY:
        bad |= (result == 0) & (a != 0) & (b != 0)
    return result.astype(np.float64).view(np.int64), bad


# ------------------------------------------------------------------ one value


def _one(machine: _Machine, step: Step, top: Cell) -> Cell:
    x, null = top
    truths: dict[Op, Callable[[], Cell]] = {
        Op.AMONG: lambda: Cell(
            (np.isin(x, machine.program.data[step.a : step.a + step.b]) & ~null).astype(np.int64),
            null,
        ),
        Op.IS_NULL: lambda: _known(null != bool(step.a)),
        Op.IS_TRUE: lambda: _known((x == 1) != bool(step.a)),
        Op.IS_FALSE: lambda: _known(((x == 0) & ~null) != bool(step.a)),
        Op.NOT: lambda: Cell(((x == 0) & ~null).astype(np.int64), null),
        Op.TO_BOOL: lambda: Cell(((x != 0) & ~null).astype(np.int64), null),
    }
    if step.op in truths:
        return truths[step.op]()
    result, bad = _converted(step, x)
    machine.check(bad, null)
    return Cell(result, null)


def _converted(step: Step, x: I64) -> tuple[I64, Bool]:  # noqa: PLR0911 - one per step
    never = np.zeros(len(x), np.bool_)
    real = x.view(np.float64)
    if step.op is Op.FLOAT_KEY:
        return _float_order(real), never
    if step.op in (Op.NEGATE, Op.ABSOLUTE):
        wanted = [abs(v) if step.op is Op.ABSOLUTE else -v for v in x.tolist()]
        return _bounded(wanted, step.a)
    if step.op is Op.FIT:
        return _bounded(x.tolist(), step.a)
    if step.op in (Op.FLOAT_NEGATE, Op.FLOAT_ABSOLUTE):
        return (np.abs(real) if step.op is Op.FLOAT_ABSOLUTE else -real).view(np.int64), never
    if step.op is Op.TO_FLOAT:
        return x.astype(f"f{step.a}").astype(np.float64).view(np.int64), never
    if step.op is Op.NARROW:
        narrow = real.astype(np.float32)
        bad = (np.isinf(narrow) & ~np.isinf(real)) | ((narrow == 0) & (real != 0))
        return narrow.astype(np.float64).view(np.int64), bad
    if step.op is Op.TO_INTEGER:
        whole = np.rint(real)
        exact = [int(v) if np.isfinite(v) else 2**64 for v in whole.tolist()]
        return _bounded(exact, step.a)
    if step.op is Op.TO_TIMESTAMP:
        return _timestamps(step, x)
    assert step.op is Op.TO_DATE
    days = x // US_PER_DAY
    days = np.where(x == TIMESTAMP_INFINITY, DATE_INFINITY, days)
    return np.where(x == TIMESTAMP_MINUS_INFINITY, DATE_MINUS_INFINITY, days), never


def _float_order(real: F64) -> I64:
    """Return numbers in the order of floats, from sign and magnitude to two's complement."""
    bits = [int(b) for b in np.where(np.isnan(real), np.nan, real + 0.0).view(np.uint64)]
    signed = [-(b - 2**63) - 1 if b >= 2**63 else b for b in bits]
    return np.where(np.isnan(real), 2**63 - 1, np.array(signed, np.int64).reshape(-1))


def _timestamps(step: Step, x: I64) -> tuple[I64, Bool]:
    beyond = (x > TIMESTAMP_INFINITY // US_PER_DAY) & (x != DATE_INFINITY)
    result = np.where(beyond, TIMESTAMP_INFINITY - 1, np.where(_infinite(x), 0, x) * US_PER_DAY)
    result = np.where(x == DATE_INFINITY, TIMESTAMP_INFINITY, result)
    result = np.where(x == DATE_MINUS_INFINITY, TIMESTAMP_MINUS_INFINITY, result)
    return result, beyond & bool(step.a)
