"""Syntax to a typed tree: finds columns, types literals and parameters, picks operators.

A string literal, NULL or a parameter has no type until its context gives it one, by the rules of
Postgres' documentation, chapter 10: next to an operator it takes the other side's type.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from . import errors, syntax, texts
from .arithmetic import negate
from .casting import cast
from .errors import FilterError, unsupported
from .exact import check_numeric
from .guard import Guard
from .literals import Value, from_python, from_text, natural_type
from .nodes import (
    Call,
    Case,
    Column,
    Const,
    Distinct,
    Junction,
    MakeArray,
    Node,
    Not,
    NullTest,
    Quantified,
    Shared,
    TruthTest,
)
from .operators import ARITHMETIC, ARRAY_OPERATORS, FUNCTIONS, resolve
from .parser import MAX_DEPTH
from .sqltypes import (
    NUMBERS,
    array_of,
    casts_explicitly,
    casts_implicitly,
    common_type,
    depends_on_settings,
    element_of,
    is_array,
    spoken,
)
from .syntax import Syntax
from .values import Vector

#: Columns, operators and calls of one filter; each may cost a pass over all rows.
MAX_OPERATIONS = 20_000

_REGULAR_EXPRESSIONS = ("~", "~*", "!~", "!~*")


@dataclass(frozen=True, slots=True)
class Typed:
    """A parameter whose type its sender has fixed; ``value`` in the form of literals."""

    type: str
    value: Any


Parameters = Sequence[object] | Mapping[str, object] | Mapping[int, object] | None


@dataclass(frozen=True, slots=True)
class Untyped:
    """A literal (``value`` a string or None) or a ``parameter`` that has no type yet."""

    value: object
    parameter: bool
    position: int


Checked = Node | Untyped


def check_filter(
    tree: Syntax, params: Parameters, types: Mapping[str, str], *, exhaustive: bool = True
) -> Node:
    """Return the typed tree of a filter over columns of ``types``; raise FilterError.

    ``exhaustive``: a parameter that it does not use is an error.
    """
    checker = _Checker(params, types)
    root = checker.condition(tree, "a filter")
    if exhaustive:
        checker.check_all_used()
    return root


def check_expression(tree: Syntax, params: Parameters, types: Mapping[str, str]) -> Node:
    """Return the typed tree of an expression of any type; raise FilterError.

    ``params`` may hold more than the expression uses.
    """
    checker = _Checker(params, types)
    return checker.settled(tree)


class _Checker:
    def __init__(self, params: Parameters, types: Mapping[str, str]) -> None:
        self._types = types
        self._params = _by_key(params)
        self._used: set[int | str] = set()
        self._depth = 0
        self._operations = 0

    def check_all_used(self) -> None:
        """Raise FilterError if a parameter was given that the filter does not use."""
        unused = [key for key in self._params if key not in self._used]
        if unused:
            listed = ", ".join(_parameter_name(key) for key in unused[:5])
            message = f"the filter does not use parameter {listed}"
            raise FilterError(message, 0, errors.PROTOCOL_VIOLATION)

    # what the nodes below are made of

    def condition(self, tree: Syntax, where: str) -> Node:
        """Return ``tree`` as a boolean."""
        checked = self.check(tree)
        if isinstance(checked, Untyped):
            return self._assume(checked, "bool")
        if checked.type != "bool":
            message = f"{where} must be boolean, not {spoken(checked.type)}"
            raise FilterError(message, tree.position, errors.DATATYPE_MISMATCH)
        return checked

    def settled(self, tree: Syntax) -> Node:
        """Return ``tree`` with a type, text if nothing gives it one."""
        return self._settle(self.check(tree))

    def check(self, tree: Syntax) -> Checked:
        """Return the typed node of any syntax, or what still lacks a type."""
        self._depth += 1
        if not isinstance(tree, (syntax.String, syntax.Number, syntax.Keyword)):
            self._operations += 1
        # A chain of operators is no nesting to the parser, but makes a tree as deep.
        if self._depth > 2 * MAX_DEPTH or self._operations > MAX_OPERATIONS:
            raise FilterError("the filter is too complex", tree.position, errors.TOO_COMPLEX)
        checked = _CHECKS[type(tree)](self, tree)
        self._depth -= 1
        return checked

    def _assume(self, untyped: Untyped, type_name: str) -> Const:
        """Give a type to what has none."""
        position = untyped.position
        if untyped.parameter:
            return Const(type_name, from_python(type_name, untyped.value, position))
        if untyped.value is None:
            return Const(type_name, None)
        return Const(type_name, from_text(type_name, str(untyped.value), position))

    def _settle(self, checked: Checked) -> Node:
        """Give a type to what has none and no context: a parameter's own, or else text."""
        if not isinstance(checked, Untyped):
            return checked
        natural = natural_type(checked.value) if checked.parameter else None
        return self._assume(checked, natural or "text")

    def _implicit(self, checked: Checked, type_name: str) -> Node:
        """Return ``checked`` as ``type_name``, which it is cast to implicitly."""
        if isinstance(checked, Untyped):
            return self._assume(checked, type_name)
        return self._cast_node(checked, type_name, _position(checked))

    def _cast_node(self, node: Node, type_name: str, position: int) -> Node:
        if node.type == type_name:
            return node

        def kernel(guard: Guard, vector: Vector) -> Vector:
            return cast(guard, vector, type_name)

        stable = depends_on_settings(node.type, type_name)
        return Call(type_name, kernel, (node,), position, stable, "cast")

    def _shared(self, tree: Syntax) -> Checked:
        """Return an operand that its expression uses more than once."""
        checked = self.check(tree)
        return checked if isinstance(checked, (Untyped, Const, Column)) else Shared(checked)

    # leaves

    def _name(self, tree: syntax.Name) -> Checked:
        if tree.name in self._types:
            return Column(self._types[tree.name], tree.name)
        # A name that cannot be shown is a port's own, for what it computes.
        names = [name for name in self._types if name.isprintable()]
        close = difflib.get_close_matches(tree.name, names, 1)
        if close:
            hint = f'did you mean "{close[0]}"?'
        elif names:
            hint = "the filter columns are " + ", ".join(sorted(names)[:50])
        else:
            hint = "the index mirrors no filter columns"
        message = f'column "{tree.name}" does not exist'
        raise FilterError(message, tree.position, errors.UNDEFINED_COLUMN, hint)

    def _number(self, tree: syntax.Number) -> Checked:
        type_name, value = _number_value(tree.text, tree.position)
        return Const(type_name, value)

    def _string(self, tree: syntax.String) -> Checked:
        return Untyped(tree.text, False, tree.position)

    def _keyword(self, tree: syntax.Keyword) -> Checked:
        if tree.value is None:
            return Untyped(None, False, tree.position)
        return Const("bool", tree.value)

    def _parameter(self, tree: syntax.Parameter) -> Checked:
        if tree.key not in self._params:
            raise FilterError(
                f"there is no parameter {_parameter_name(tree.key)}",
                tree.position,
                errors.UNDEFINED_PARAMETER,
                "params is a list for $1, $2, .. and an object for :name",
            )
        self._used.add(tree.key)
        value = self._params[tree.key]
        if isinstance(value, Typed):
            return Const(value.type, value.value)
        return Untyped(value, True, tree.position)

    # operators

    def _unary(self, tree: syntax.Unary) -> Checked:
        operand = self.check(tree.operand)
        if isinstance(operand, Untyped):
            operand = self._assume(operand, "float8")
        if operand.type not in NUMBERS:
            message = f"operator does not exist: {tree.operator} {spoken(operand.type)}"
            raise FilterError(message, tree.position, errors.UNDEFINED_FUNCTION)
        if tree.operator == "+":
            return operand
        return Call(operand.type, negate, (operand,), tree.position, name="negate")

    def _binary(self, tree: syntax.Binary) -> Checked:
        left, right = self.check(tree.left), self.check(tree.right)
        return self._operate(tree.operator, left, right, tree.position)

    def _operate(self, symbol: str, left: Checked, right: Checked, position: int) -> Call:
        left, right = self._same_types(symbol, left, right, position)
        operator = resolve(symbol, left.type, right.type)
        if operator is None:
            raise _no_operator(symbol, left.type, right.type, position)
        arguments = (
            self._cast_node(left, operator.left, position),
            self._cast_node(right, operator.right, position),
        )
        stable = depends_on_settings(operator.left, operator.right)
        return Call(operator.result, operator.kernel, arguments, position, stable, symbol)

    def _same_types(
        self, symbol: str, left: Checked, right: Checked, position: int
    ) -> tuple[Node, Node]:
        """Give an operand without a type that of the other."""
        if isinstance(left, Untyped) and isinstance(right, Untyped):
            if symbol in ARITHMETIC or symbol in ARRAY_OPERATORS:
                message = f"operator is not unique: unknown {symbol} unknown"
                hint = "cast one side to say which type it has: $1::int4"
                raise FilterError(message, position, errors.AMBIGUOUS_FUNCTION, hint)
            return self._two_untyped(left, right)
        if isinstance(left, Untyped):
            assert not isinstance(right, Untyped)
            return self._like_other(symbol, left, right.type, position), right
        if isinstance(right, Untyped):
            return left, self._like_other(symbol, right, left.type, position)
        return left, right

    def _like_other(self, symbol: str, untyped: Untyped, other: str, position: int) -> Node:
        if resolve(symbol, other, other) is None:
            raise _no_operator(symbol, other, other, position)
        return self._assume(untyped, other)

    def _two_untyped(self, left: Untyped, right: Untyped) -> tuple[Node, Node]:
        for untyped in (left, right):
            natural = natural_type(untyped.value) if untyped.parameter else None
            if natural is not None:
                return self._assume(left, natural), self._assume(right, natural)
        return self._assume(left, "text"), self._assume(right, "text")

    def _negation(self, tree: syntax.Negation) -> Checked:
        return Not(self.condition(tree.operand, "the argument of NOT"))

    def _junction(self, tree: syntax.Junction) -> Checked:
        where = f"the argument of {'AND' if tree.every else 'OR'}"
        operands = [self.condition(operand, where) for operand in tree.operands]
        return Junction(tree.every, tuple(operands))

    def _null_test(self, tree: syntax.NullTest) -> Checked:
        return NullTest(self._settle(self.check(tree.operand)), tree.negated)

    def _truth_test(self, tree: syntax.TruthTest) -> Checked:
        operand = self.condition(tree.operand, "the argument of IS")
        return TruthTest(operand, tree.wanted, tree.negated)

    def _distinct(self, tree: syntax.Distinct) -> Checked:
        left, right = self.check(tree.left), self.check(tree.right)
        return Distinct(self._operate("=", left, right, tree.position), tree.negated)

    def _range(self, tree: syntax.Range) -> Checked:
        operand = self._shared(tree.operand)
        low, high = self._shared(tree.low), self._shared(tree.high)
        within = self._within(tree, operand, low, high)
        if tree.symmetric:
            other = self._within(tree, operand, high, low)
            within = Junction(tree.negated, (within, other))
        return within

    def _within(self, tree: syntax.Range, operand: Checked, low: Checked, high: Checked) -> Node:
        below, above = ("<", ">") if tree.negated else (">=", "<=")
        first = self._operate(below, operand, low, tree.position)
        second = self._operate(above, operand, high, tree.position)
        return Junction(not tree.negated, (first, second))

    # lists and arrays

    def _membership(self, tree: syntax.Membership) -> Checked:
        """Check IN: constants are compared as one array, what depends on columns one by one."""
        operand = self._shared(tree.operand)
        items = [self.check(item) for item in tree.items]
        fixed: list[Checked] = []
        rest: list[Checked] = []
        for item in items:
            (fixed if isinstance(item, (Untyped, Const)) or not columns_of(item) else rest).append(
                item
            )
        parts: list[Node] = []
        symbol = "<>" if tree.negated else "="
        if len(fixed) > 1 and (common := common_type([_type(item) for item in (operand, *fixed)])):
            if is_array(common):
                raise unsupported("a list of arrays", tree.position)
            array = MakeArray(common, tuple(self._implicit(item, common) for item in fixed))
            parts.append(self._quantify(symbol, operand, array, tree.negated, tree.position))
        else:
            rest = items
        parts += [self._operate(symbol, operand, item, tree.position) for item in rest]
        return parts[0] if len(parts) == 1 else Junction(tree.negated, tuple(parts))

    def _quantified(self, tree: syntax.Quantified) -> Checked:
        left, array = self.check(tree.left), self.check(tree.array)
        return self._quantify(tree.operator, left, array, tree.every, tree.position)

    def _quantify(
        self, symbol: str, left: Checked, array: Checked, every: bool, position: int
    ) -> Node:
        if isinstance(array, Untyped):
            inner = "text" if isinstance(left, Untyped) else left.type
            if is_array(inner):
                raise unsupported("an array of arrays", position)
            array = self._assume(array, array_of(inner))
        if not is_array(array.type):
            message = "ANY and ALL need an array on the right side"
            raise FilterError(message, position, errors.WRONG_OBJECT_TYPE)
        element = element_of(array.type)
        node = self._assume(left, element) if isinstance(left, Untyped) else left
        operator = resolve(symbol, node.type, element)
        if operator is None or operator.result != "bool":
            raise _no_operator(symbol, node.type, element, position)
        node = self._cast_node(node, operator.left, position)
        array = self._cast_node(array, array_of(operator.right), position)
        stable = depends_on_settings(operator.left, operator.right)
        return Quantified(symbol, operator.kernel, node, array, every, position, stable)

    def _array(self, tree: syntax.Array) -> Checked:
        items = [self.check(item) for item in tree.items]
        if not items:
            message, hint = "the type of an empty array is unknown", "write '{}'::int4[]"
            raise FilterError(message, tree.position, errors.INDETERMINATE_DATATYPE, hint)
        common = common_type([_type(item) for item in items])
        if common is None:
            message = "the items of an array must have one type"
            raise FilterError(message, tree.position, errors.DATATYPE_MISMATCH)
        return self._make_array(items, common, tree.position)

    def _make_array(self, items: list[Checked], element: str, position: int) -> Node:
        if is_array(element):
            raise unsupported("an array of arrays", position)
        return MakeArray(element, tuple(self._implicit(item, element) for item in items))

    # the rest

    def _cast(self, tree: syntax.Cast) -> Checked:
        if isinstance(tree.operand, syntax.Array) and is_array(tree.type):
            return self._cast_array(tree.operand, tree.type, tree.position)
        checked = self.check(tree.operand)
        if isinstance(checked, Untyped):
            return self._assume(checked, tree.type)
        return self._explicit(checked, tree.type, tree.position)

    def _cast_array(self, array: syntax.Array, type_name: str, position: int) -> Node:
        """Cast ARRAY[...] item by item, so that untyped items are read as the wanted type."""
        element = element_of(type_name)
        if not array.items:
            return Const(type_name, ())
        items: list[Checked] = []
        for item in array.items:
            checked = self.check(item)
            typed = not isinstance(checked, Untyped)
            items.append(self._explicit(checked, element, position) if typed else checked)
        return self._make_array(items, element, position)

    def _explicit(self, checked: Checked, type_name: str, position: int) -> Node:
        assert not isinstance(checked, Untyped)
        if not casts_explicitly(checked.type, type_name):
            message = f"cannot cast type {spoken(checked.type)} to {spoken(type_name)}"
            raise FilterError(message, position, errors.CANNOT_COERCE)
        return self._cast_node(checked, type_name, position)

    def _collation(self, tree: syntax.Collation) -> Checked:
        checked = self.check(tree.operand)
        if isinstance(checked, Untyped):
            return self._assume(checked, "text")
        if checked.type != "text":
            message = f"collations are not supported by type {spoken(checked.type)}"
            raise FilterError(message, tree.position, errors.DATATYPE_MISMATCH)
        return checked

    def _case(self, tree: syntax.Case) -> Checked:
        conditions = self._conditions(tree)
        results = [self.check(result) for _, result in tree.branches]
        absent = Untyped(None, False, tree.position)
        otherwise = absent if tree.otherwise is None else self.check(tree.otherwise)
        return self._choice(conditions, results, otherwise, tree.position)

    def _conditions(self, tree: syntax.Case) -> list[Node]:
        if tree.operand is None:
            return [self.condition(when, "the condition of CASE") for when, _ in tree.branches]
        operand = self._shared(tree.operand)
        if isinstance(operand, Untyped):
            operand = self._settle(operand)
        return [
            self._operate("=", operand, self.check(when), when.position)
            for when, _ in tree.branches
        ]

    def _choice(
        self, conditions: list[Node], results: list[Checked], otherwise: Checked, position: int
    ) -> Node:
        # The ELSE comes first in what decides the type.
        common = common_type([_type(item) for item in (otherwise, *results)])
        if common is None:
            message = "the results of CASE must have one type"
            raise FilterError(message, position, errors.DATATYPE_MISMATCH)
        if is_array(common):
            raise unsupported("a choice between arrays", position)
        typed = [self._implicit(result, common) for result in results]
        branches = tuple(zip(conditions, typed, strict=True))
        return Case(common, branches, self._implicit(otherwise, common))

    def _function(self, tree: syntax.Function) -> Checked:
        if tree.name == "coalesce" and tree.arguments:
            return self._coalesce(tree)
        if tree.name == "like_escape" and len(tree.arguments) == 2:
            return self._like_escape(tree)
        function = FUNCTIONS.get(tree.name)
        if function is None or len(tree.arguments) != 1:
            raise _no_function(tree, None)
        argument = self.check(tree.arguments[0])
        if isinstance(argument, Untyped):
            argument = self._assume(argument, function.assumed)
        if argument.type not in function.takes:
            raise _no_function(tree, argument.type)
        result = function.result or argument.type
        return Call(result, function.kernel, (argument,), tree.position, name=tree.name)

    def _like_escape(self, tree: syntax.Function) -> Checked:
        """Check what ``LIKE .. ESCAPE ..`` makes of its pattern."""
        arguments = [self.check(argument) for argument in tree.arguments]
        for argument in arguments:
            if not isinstance(argument, Untyped) and argument.type != "text":
                raise _no_function(tree, argument.type)
        typed = tuple(self._implicit(argument, "text") for argument in arguments)
        return Call("text", texts.escaped, typed, tree.position, name="like_escape")

    def _coalesce(self, tree: syntax.Function) -> Checked:
        arguments = [self._shared(argument) for argument in tree.arguments]
        common = common_type([_type(argument) for argument in arguments])
        if common is None:
            message = "the arguments of COALESCE must have one type"
            raise FilterError(message, tree.position, errors.DATATYPE_MISMATCH)
        typed = [self._implicit(argument, common) for argument in arguments]
        conditions: list[Node] = [NullTest(argument, True) for argument in typed[:-1]]
        return self._choice(conditions, list(typed[:-1]), typed[-1], tree.position)


_CHECKS: dict[type, Callable[[_Checker, Any], Checked]] = {
    syntax.Name: _Checker._name,
    syntax.Number: _Checker._number,
    syntax.String: _Checker._string,
    syntax.Keyword: _Checker._keyword,
    syntax.Parameter: _Checker._parameter,
    syntax.Unary: _Checker._unary,
    syntax.Binary: _Checker._binary,
    syntax.Negation: _Checker._negation,
    syntax.Junction: _Checker._junction,
    syntax.NullTest: _Checker._null_test,
    syntax.TruthTest: _Checker._truth_test,
    syntax.Distinct: _Checker._distinct,
    syntax.Membership: _Checker._membership,
    syntax.Range: _Checker._range,
    syntax.Quantified: _Checker._quantified,
    syntax.Case: _Checker._case,
    syntax.Cast: _Checker._cast,
    syntax.Array: _Checker._array,
    syntax.Collation: _Checker._collation,
    syntax.Function: _Checker._function,
}


def columns_of(node: Node) -> frozenset[str]:
    """Return the names of the columns of a tree."""
    names: set[str] = set()
    seen: set[int] = set()
    pending: list[Any] = [node]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Column):
            names.add(current.name)
        elif isinstance(current, tuple):
            pending += current
        elif not isinstance(current, (Const, str, int, bool)) and hasattr(current, "__slots__"):
            pending += [getattr(current, slot) for slot in current.__slots__]
    return frozenset(names)


def _by_key(params: Parameters) -> Mapping[int | str, object]:
    pairs = params.items() if isinstance(params, Mapping) else enumerate(params or (), 1)
    return dict[Any, object](pairs)


def _parameter_name(key: int | str) -> str:
    return f"${key}" if isinstance(key, int) else f":{key}"


def _type(checked: Checked) -> str | None:
    return None if isinstance(checked, Untyped) else checked.type


def _position(node: Node) -> int:
    return node.position if isinstance(node, Call) else 0


def _number_value(text: str, position: int) -> tuple[str, Value]:
    """Return the type and value of a number: integer, else bigint, else numeric."""
    bare = text.lstrip("-").lower()
    based = bare[:2] in ("0x", "0o", "0b")
    if based or (bare.isdigit() and len(bare) < 20):
        magnitude = int(bare, 0) if based else int(bare)
        value = -magnitude if text.startswith("-") else magnitude
        for type_name, bound in (("int4", 2**31), ("int8", 2**63)):
            if -bound <= value < bound:
                return type_name, value
        return "numeric", check_numeric(Decimal(value), position)
    return "numeric", from_text("numeric", text, position)


def _no_operator(symbol: str, left: str, right: str, position: int) -> FilterError:
    if symbol in _REGULAR_EXPRESSIONS:
        return unsupported("a regular expression", position, "use LIKE or ILIKE")
    message = f"operator does not exist: {spoken(left)} {symbol} {spoken(right)}"
    hint = None
    if casts_implicitly(right, left) or casts_implicitly(left, right):
        hint = f"cast one side: ..::{left if casts_implicitly(right, left) else right}"
    return FilterError(message, position, errors.UNDEFINED_FUNCTION, hint)


def _no_function(tree: syntax.Function, argument: str | None) -> FilterError:
    shown = f"{tree.name}({spoken(argument)})" if argument else f"{tree.name}(..)"
    hint = "filters offer " + ", ".join(sorted({*FUNCTIONS, "coalesce", "like_escape"}))
    return FilterError(
        f"function {shown} does not exist here", tree.position, errors.UNDEFINED_FUNCTION, hint
    )
