"""The syntax tree: what a filter says, before anyone looks at columns and types.

Every node has ``position``, the 0-based character its messages point to: an operator's own place
for operators, the first character for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args


@dataclass(frozen=True, slots=True)
class Name:
    """A column."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Number:
    """A numeric literal with its sign folded in, as written."""

    text: str
    position: int


@dataclass(frozen=True, slots=True)
class String:
    """A string literal: of unknown type until its context gives it one."""

    text: str
    position: int


@dataclass(frozen=True, slots=True)
class Keyword:
    """TRUE, FALSE or NULL."""

    value: bool | None
    position: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """``$1`` (key 1) or ``:name`` (key "name")."""

    key: int | str
    position: int


@dataclass(frozen=True, slots=True)
class Unary:
    """Prefix + or -."""

    operator: str
    operand: Syntax
    position: int


@dataclass(frozen=True, slots=True)
class Binary:
    """``left operator right``."""

    operator: str
    left: Syntax
    right: Syntax
    position: int


@dataclass(frozen=True, slots=True)
class Negation:
    """NOT."""

    operand: Syntax
    position: int


@dataclass(frozen=True, slots=True)
class Junction:
    """Operands joined by AND (``every``) or by OR."""

    every: bool
    operands: tuple[Syntax, ...]
    position: int


@dataclass(frozen=True, slots=True)
class NullTest:
    """IS [NOT] NULL."""

    operand: Syntax
    negated: bool
    position: int


@dataclass(frozen=True, slots=True)
class TruthTest:
    """IS [NOT] TRUE, FALSE or UNKNOWN (``wanted`` None)."""

    operand: Syntax
    wanted: bool | None
    negated: bool
    position: int


@dataclass(frozen=True, slots=True)
class Distinct:
    """IS [NOT] DISTINCT FROM."""

    left: Syntax
    right: Syntax
    negated: bool
    position: int


@dataclass(frozen=True, slots=True)
class Membership:
    """[NOT] IN (list)."""

    operand: Syntax
    items: tuple[Syntax, ...]
    negated: bool
    position: int


@dataclass(frozen=True, slots=True)
class Range:
    """[NOT] BETWEEN [SYMMETRIC] low AND high."""

    operand: Syntax
    low: Syntax
    high: Syntax
    symmetric: bool
    negated: bool
    position: int


@dataclass(frozen=True, slots=True)
class Quantified:
    """``left operator ANY (array)``, or ALL (``every``)."""

    operator: str
    left: Syntax
    array: Syntax
    every: bool
    position: int


@dataclass(frozen=True, slots=True)
class Case:
    """CASE [operand] WHEN .. THEN .. [ELSE ..] END."""

    operand: Syntax | None
    branches: tuple[tuple[Syntax, Syntax], ...]
    otherwise: Syntax | None
    position: int


@dataclass(frozen=True, slots=True)
class Cast:
    """CAST(operand AS type), ``operand::type`` or ``type 'literal'``; ``type`` is canonical."""

    operand: Syntax
    type: str
    position: int


@dataclass(frozen=True, slots=True)
class Array:
    """ARRAY[...]."""

    items: tuple[Syntax, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Collation:
    """``operand COLLATE "C"``."""

    operand: Syntax
    position: int


@dataclass(frozen=True, slots=True)
class Function:
    """A call by name."""

    name: str
    arguments: tuple[Syntax, ...]
    position: int


Syntax = (
    Name
    | Number
    | String
    | Keyword
    | Parameter
    | Unary
    | Binary
    | Negation
    | Junction
    | NullTest
    | TruthTest
    | Distinct
    | Membership
    | Range
    | Quantified
    | Case
    | Cast
    | Array
    | Collation
    | Function
)


def rewritten(tree: Syntax, change: Callable[[Syntax], Syntax | None]) -> Syntax:
    """Return ``tree`` with every part replaced for which ``change`` returns something.

    Outer parts are asked first; what was put in is not looked at again.
    """
    changed = change(tree)
    if changed is not None:
        return changed
    parts = {}
    for name in tree.__slots__:
        value = getattr(tree, name)
        new = _rewritten_part(value, change)
        if new is not value:
            parts[name] = new
    return replace(tree, **parts) if parts else tree


def _rewritten_part(value: Any, change: Callable[[Syntax], Syntax | None]) -> Any:
    if isinstance(value, tuple):
        items = tuple(_rewritten_part(item, change) for item in value)
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return rewritten(value, change) if isinstance(value, _NODES) else value


def parts(tree: Syntax) -> Iterator[Syntax]:
    """Yield ``tree`` and everything in it."""
    pending: list[Any] = [tree]
    while pending:
        current = pending.pop()
        if isinstance(current, tuple):
            pending += current
        elif isinstance(current, _NODES):
            yield current
            pending += [getattr(current, name) for name in current.__slots__]


_NODES = get_args(Syntax)
