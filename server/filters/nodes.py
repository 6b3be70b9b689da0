"""The typed tree and its evaluation.

Invariants:

- AND and OR go from left to right and CASE from top to bottom; an operand is needed only in the
  rows that those before it leave open. An error counts only in rows where its operand is needed.
- Calls are strict: NULL if an argument is NULL. The other nodes say what they do with NULL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from .arrays import make_array
from .guard import Guard
from .literals import Value
from .logic import and_, is_false, not_, or_
from .quantified import quantify, quantify_constant
from .sqltypes import DTYPES, array_of
from .values import (
    Arrays,
    Mask,
    Values,
    Vector,
    constant,
    either,
    is_null,
    text,
    truth,
    with_null,
)

Kernel = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """What a tree is evaluated over: ``count`` rows, of which ``active`` are needed (None: all)."""

    column: Callable[[str], Vector]
    count: int
    active: Mask | None = None
    shared: dict[int, Vector] = field(default_factory=dict)

    def where(self, needed: Mask) -> Rows:
        """Return the same rows of which fewer are needed."""
        active = needed if self.active is None else needed & self.active
        return replace(self, active=np.broadcast_to(active, self.count))


class Node(Protocol):
    """A typed expression; ``evaluate`` returns a vector of ``type``."""

    @property
    def type(self) -> str:
        """The canonical type."""

    def evaluate(self, rows: Rows) -> Vector:
        """Return the value of each row; raise FilterError if one that is needed has none."""


@dataclass(frozen=True)
class Const:
    """A constant; ``value`` None is NULL."""

    type: str
    value: Value | None

    @cached_property
    def vector(self) -> Vector:
        """The one row that stands for all."""
        return constant(self.type, self.value)

    def evaluate(self, rows: Rows) -> Vector:
        """Return the one row that stands for all."""
        return self.vector


@dataclass(frozen=True, slots=True)
class Column:
    """A mirrored column."""

    type: str
    name: str

    def evaluate(self, rows: Rows) -> Vector:
        """Return the column."""
        return rows.column(self.name)


@dataclass(frozen=True, slots=True)
class Shared:
    """An operand that its expression uses more than once, as BETWEEN does; evaluated once.

    The first use needs all rows that later uses need, so its errors are the right ones.
    """

    node: Node

    @property
    def type(self) -> str:
        """The operand's type."""
        return self.node.type

    def evaluate(self, rows: Rows) -> Vector:
        """Return the operand."""
        if id(self) not in rows.shared:
            rows.shared[id(self)] = self.node.evaluate(rows)
        return rows.shared[id(self)]


@dataclass(frozen=True, slots=True)
class Call:
    """A strict operator, function or cast: ``kernel(guard, *vectors)`` knows nothing of NULL.

    ``stable``: to Postgres it depends on settings, so that it is not worked out beforehand.
    ``name``: the operator or function, ``negate`` or ``cast``; what programs are made by.
    """

    type: str
    kernel: Kernel
    arguments: tuple[Node, ...]
    position: int
    stable: bool = False
    name: str = ""

    def evaluate(self, rows: Rows) -> Vector:
        """Return the kernel's result, NULL where an argument is."""
        vectors = [argument.evaluate(rows) for argument in self.arguments]
        size = next((vector.rows for vector in vectors if vector.rows != 1), 1)
        null: Mask | None = None
        for vector in vectors:
            null = either(null, vector.null)
        if null is not None:
            null = np.broadcast_to(null, size)
        result: Vector = self.kernel(Guard(self.position, rows.active, null), *vectors)
        return with_null(result, null)


@dataclass(frozen=True, slots=True)
class Not:
    """NOT."""

    operand: Node
    type: str = "bool"

    def evaluate(self, rows: Rows) -> Values:
        """Return TRUE for FALSE and the other way round; NULL stays."""
        return not_(_truth(self.operand, rows))


@dataclass(frozen=True, slots=True)
class Junction:
    """AND (``every``) or OR of at least one operand."""

    every: bool
    operands: tuple[Node, ...]
    type: str = "bool"

    def evaluate(self, rows: Rows) -> Values:
        """Join the operands; each is needed where those before it do not decide."""
        result = _truth(self.operands[0], rows)
        for operand in self.operands[1:]:
            decided = is_false(result) if self.every else result.data
            if decided.all():
                break
            joined = _truth(operand, rows.where(~decided))
            result = and_(result, joined) if self.every else or_(result, joined)
        return result


@dataclass(frozen=True, slots=True)
class NullTest:
    """IS [NOT] NULL."""

    operand: Node
    negated: bool
    type: str = "bool"

    def evaluate(self, rows: Rows) -> Values:
        """Return TRUE or FALSE, never NULL."""
        null = is_null(self.operand.evaluate(rows))
        return truth(null != self.negated)


@dataclass(frozen=True, slots=True)
class TruthTest:
    """IS [NOT] TRUE, FALSE or UNKNOWN (``wanted`` None)."""

    operand: Node
    wanted: bool | None
    negated: bool
    type: str = "bool"

    def evaluate(self, rows: Rows) -> Values:
        """Return TRUE or FALSE, never NULL."""
        found = _truth(self.operand, rows)
        if self.wanted is None:
            return truth(is_null(found) != self.negated)
        return truth((found.data if self.wanted else is_false(found)) != self.negated)


@dataclass(frozen=True, slots=True)
class Distinct:
    """IS [NOT] DISTINCT FROM; ``equal`` is a call of ``=``."""

    equal: Call
    negated: bool
    type: str = "bool"

    def evaluate(self, rows: Rows) -> Values:
        """Return TRUE or FALSE, never NULL: two NULLs are not distinct."""
        left, right = (argument.evaluate(rows) for argument in self.equal.arguments)
        null_left, null_right = is_null(left), is_null(right)
        same = self.equal.kernel(Guard(self.equal.position), left, right).data
        same = (same & ~null_left & ~null_right) | (null_left & null_right)
        return truth(same == self.negated)


@dataclass(frozen=True, slots=True)
class Quantified:
    """``left operator ANY (array)``, or ALL (``every``)."""

    operator: str
    kernel: Kernel
    left: Node
    array: Node
    every: bool
    position: int
    stable: bool = False
    type: str = "bool"

    def evaluate(self, rows: Rows) -> Values:
        """Compare with each item; like OR or AND of that."""
        left, array = self.left.evaluate(rows), self.array.evaluate(rows)
        assert isinstance(left, Values)
        assert isinstance(array, Arrays)
        guard = Guard(self.position, rows.active)
        if array.rows == 1:
            return quantify_constant(guard, self.operator, self.kernel, left, array, self.every)
        return quantify(guard, self.kernel, left, array, self.every)


@dataclass(frozen=True, slots=True)
class MakeArray:
    """ARRAY[...] of items of one scalar type."""

    element_type: str
    items: tuple[Node, ...]

    @property
    def type(self) -> str:
        """The array's type."""
        return array_of(self.element_type)

    def evaluate(self, rows: Rows) -> Vector:
        """Return one array per row."""
        items = [_scalars(item, rows) for item in self.items]
        return make_array(self.element_type, items, rows.count)


@dataclass(frozen=True, slots=True)
class Case:
    """CASE WHEN .. THEN .. ELSE .. END over scalars of one type."""

    type: str
    branches: tuple[tuple[Node, Node], ...]
    otherwise: Node

    def evaluate(self, rows: Rows) -> Values:
        """Return the result of the first branch whose condition is TRUE."""
        remaining = np.ones(rows.count, np.bool_)
        chosen: list[tuple[Mask, Values]] = []
        for condition, result in self.branches:
            holds = remaining & _truth(condition, rows.where(remaining)).data
            chosen.append((holds, _scalars(result, rows.where(holds))))
            remaining = remaining & ~holds
        chosen.append((remaining, _scalars(self.otherwise, rows.where(remaining))))
        return _choose(self.type, rows.count, chosen)


def _choose(type_name: str, count: int, chosen: list[tuple[Mask, Values]]) -> Values:
    """Return one vector of the rows of several."""
    data = np.zeros(count, DTYPES[type_name])
    null = np.zeros(count, np.bool_)
    words: list[Any] = []
    for rows, values in chosen:
        source = values.data
        if values.words is not None:
            source = source + np.int32(len(words))
            words += values.words
        np.copyto(data, source, where=rows)
        np.copyto(null, is_null(values), where=rows)
    mask = null if null.any() else None
    if type_name == "text":
        return replace(text(data, words), null=mask)
    return Values(type_name, data, mask, words or None)


def _truth(node: Node, rows: Rows) -> Values:
    return _scalars(node, rows)


def _scalars(node: Node, rows: Rows) -> Values:
    vector = node.evaluate(rows)
    assert isinstance(vector, Values)
    return vector
