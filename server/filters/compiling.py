"""A checked filter to a program for a card (``gpu.filter_program``); pure.

What depends on one text column alone (LIKE, upper, length, IN, CASE ..) is worked out here, once
for each word of the dictionary, and becomes a table that the program looks codes up in. What has
no step (quotients of numerics, text of two columns joined, two columns of arrays) is not compiled,
and the evaluator in ``nodes.py`` answers.

Invariants:

- A program is TRUE for the same rows as ``Node.evaluate``.
- It has an error in a row that counts wherever ``Node.evaluate`` raises; and else only where
  numerics, which it computes as integers of their smallest decimal, pass 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from gpu.arrays import I64
from gpu.filter_program import MOST_DEPTH, FilterProgram, Op, depth_of

from . import array_items
from .compare import COMPARISONS, MIRRORED
from .dictionaries import evaluated, rank_tables, table, words_of
from .emitting import Emitter, GetColumn, NoProgram
from .errors import FilterError
from .fractions import COMPARISON_OPS, GREATEST, LEAST, beside, scale_of, scaled_constant
from .literals import Value
from .machine_values import (
    MACHINE_TYPES,
    comparison_keys,
    number,
    uuid_words,
)
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
from .operators import ARRAY_OPERATORS, MIRRORED_ARRAY_OPERATORS
from .quantified import extreme
from .sqltypes import DTYPES, FLOATS, INTEGERS, MOMENTS, element_of, is_array
from .trees import bare, children, fixed, integer_of
from .values import Values, scalar, sequence

#: Items that an operator without a search of its own is tried with one by one.
MOST_TRIED = 16

_INTEGER = {
    "+": Op.ADD,
    "-": Op.SUBTRACT,
    "*": Op.MULTIPLY,
    "/": Op.DIVIDE,
    "%": Op.REMAINDER,
    "negate": Op.NEGATE,
    "abs": Op.ABSOLUTE,
}
_FLOAT = {
    "+": Op.FLOAT_ADD,
    "-": Op.FLOAT_SUBTRACT,
    "*": Op.FLOAT_MULTIPLY,
    "/": Op.FLOAT_DIVIDE,
    "negate": Op.FLOAT_NEGATE,
    "abs": Op.FLOAT_ABSOLUTE,
}


def compile_program(root: Node, column: GetColumn) -> FilterProgram:
    """Return the program of a filter over the columns that ``column`` gives; raise NoProgram.

    Raise UnknownColumn.
    """
    compiler = _Compiler(column)
    compiler.value(root)
    if depth_of(compiler.steps) > MOST_DEPTH:
        raise NoProgram("it is nested too deeply")
    return compiler.program()


class _Compiler(Emitter):
    """Walks a tree, left to right, and emits steps."""

    def __init__(self, view: GetColumn) -> None:
        super().__init__(view)
        self._reads: dict[int, frozenset[str]] = {}
        self._kept: list[Node] = []
        self._words: dict[str, Values] = {}

    def program(self) -> FilterProgram:
        """Return what was compiled."""
        return FilterProgram(self.names, tuple(self.steps), self.data)

    def _columns(self, node: Node) -> frozenset[str]:
        """Return the names of the columns below a node."""
        if id(node) not in self._reads:
            names = [self._columns(child) for child in children(node)]
            own = {node.name} if isinstance(node, Column) else set()
            self._reads[id(node)] = frozenset(own).union(*names)
            self._kept.append(node)  # so that no other node gets its id
        return self._reads[id(node)]

    def _text_column(self, node: Node) -> str | None:
        """Return the column of a node that reads one text column and nothing else."""
        names = self._columns(node)
        name = next(iter(names)) if len(names) == 1 else None
        return name if name and self.view(name).type == "text" else None

    def _words_of(self, name: str) -> Values:
        if name not in self._words:
            self._words[name] = words_of(self.view(name))
        return self._words[name]

    def _evaluated(self, node: Node, name: str) -> Values:
        try:
            return evaluated(node, self._words_of(name))
        except FilterError as error:
            raise NoProgram("a word may be an error") from error

    # values

    def value(self, node: Node) -> None:
        """Push the value of a node."""
        if node.type not in MACHINE_TYPES:
            raise NoProgram(f"{node.type} is no number")
        if not self._columns(node):
            value = fixed(node)
            self.constant(None if value is None else number(node.type, value))
        elif name := self._text_column(node):
            found = table(self._evaluated(node, name))
            self.table(name, found, bits=node.type == "bool")
        else:
            self._compute(node)

    def _compute(self, node: Node) -> None:
        match node:
            case Column():
                self.emit(Op.LOAD, self.number_of(node.name))
            case Shared():
                self.value(node.node)
            case Call():
                self._call(node)
            case Not():
                self.value(node.operand)
                self.emit(Op.NOT)
            case Junction():
                self._junction(node)
            case NullTest():
                self._null_test(node)
            case TruthTest():
                self._truth_test(node)
            case Distinct():
                self._keys(*node.equal.arguments)
                self.emit(Op.DISTINCT, int(node.negated))
            case Quantified():
                self._quantified(node)
            case Case():
                self._case(node)
            case _:
                raise NoProgram(type(node).__name__)

    def _junction(self, node: Junction) -> None:
        self.value(node.operands[0])
        for operand in node.operands[1:]:
            self.emit(Op.AND_THEN if node.every else Op.OR_ELSE)
            self.value(operand)
            self.emit(Op.AND if node.every else Op.OR)

    def _null_test(self, node: NullTest) -> None:
        operand = bare(node.operand)
        if isinstance(operand, Column):
            self.emit(Op.PRESENT, self.number_of(operand.name), int(not node.negated))
        else:
            self.value(operand)
            self.emit(Op.IS_NULL, int(node.negated))

    def _truth_test(self, node: TruthTest) -> None:
        self.value(node.operand)
        op = {True: Op.IS_TRUE, False: Op.IS_FALSE, None: Op.IS_NULL}[node.wanted]
        self.emit(op, int(node.negated))

    def _case(self, node: Case) -> None:
        for condition, result in node.branches:
            self.value(condition)
            self.emit(Op.WHEN)
            self.value(result)
            self.emit(Op.ELSE)
        self.value(node.otherwise)
        for _ in node.branches:
            self.emit(Op.CHOOSE)

    # calls

    def _call(self, node: Call) -> None:
        types = tuple(argument.type for argument in node.arguments)
        if any(is_array(kind) for kind in types):
            self._array_call(node)
        elif node.name in COMPARISONS:
            self._compare(node.name, *node.arguments)
        elif node.name == "cast":
            self._cast(node.arguments[0], node.type)
        elif "date" in types:
            self._move(node)
        elif node.type in INTEGERS and node.name in _INTEGER:
            self._apply(_INTEGER[node.name], node)
        elif node.type in FLOATS and node.name in _FLOAT:
            self._apply(_FLOAT[node.name], node)
        else:
            raise NoProgram(node.name)

    def _array_call(self, node: Call) -> None:
        """Compare a column of arrays with a constant, or count its items."""
        sides = [bare(argument) for argument in node.arguments]
        column = next((side for side in sides if isinstance(side, Column)), None)
        if column is None:
            raise NoProgram("a computed array")
        if node.name == "cardinality":
            self.emit(Op.ITEM_COUNT, self.number_of(column.name))
            return
        other = sides[0] if sides[1] is column else sides[1]
        if node.name not in ARRAY_OPERATORS or self._columns(other):
            raise NoProgram("arrays")
        items = fixed(other)
        if not isinstance(items, tuple):
            raise NoProgram("NULL")
        symbol = node.name if sides[0] is column else MIRRORED_ARRAY_OPERATORS[node.name]
        array_items.compare(self, symbol, column, items)

    def _apply(self, op: Op, node: Call) -> None:
        for argument in node.arguments:
            self.value(argument)
        self.emit(op, _width(node.type))

    def _move(self, node: Call) -> None:
        dates = [a for a in node.arguments if a.type == "date"]
        others = [a for a in node.arguments if a.type != "date"]
        if node.name not in ("+", "-"):
            raise NoProgram(node.name)
        for argument in (*dates, *others):
            self.value(argument)
        if others:
            self.emit(Op.MOVE_DATE, int(node.name == "-"))
        else:
            self.emit(Op.DAYS_BETWEEN)

    def _cast(self, operand: Node, target: str) -> None:
        source = operand.type
        if source == "int8" and target == "float4":
            raise NoProgram("it would round twice")
        self.value(operand)
        if target in INTEGERS:
            if source in FLOATS:
                self.emit(Op.TO_INTEGER, _width(target))
            elif source in INTEGERS and _width(source) > _width(target):
                self.emit(Op.FIT, _width(target))
        elif target in FLOATS:
            if source in INTEGERS:
                self.emit(Op.TO_FLOAT, _width(target))
            elif source == "float8":
                self.emit(Op.NARROW)
        elif target == "bool":
            self.emit(Op.TO_BOOL)
        elif source == "date" and target != "date":
            self.emit(Op.TO_TIMESTAMP, 1)
        elif source != "date" and target == "date":
            self.emit(Op.TO_DATE)
        elif target not in MOMENTS:
            raise NoProgram(f"{source} to {target}")

    # comparisons

    def _compare(self, symbol: str, left: Node, right: Node) -> None:
        left, right = integer_of(left), integer_of(right)
        if "numeric" in (left.type, right.type):
            self._compare_numerics(symbol, left, right)
            return
        self._keys(left, right)
        self.emit(COMPARISON_OPS[symbol])

    def _keys(self, left: Node, right: Node) -> None:
        """Push two numbers that compare as two nodes do."""
        left, right = integer_of(left), integer_of(right)
        if left.type == right.type == "text":
            self._ranks(left, right)
        elif left.type == right.type == "uuid":
            self._uuids(left, right)
        else:
            self._key(left, right.type)
            self._key(right, left.type)

    def _key(self, node: Node, other: str) -> None:
        """Push a number in the order in which a node compares with one of type ``other``."""
        if node.type in MACHINE_TYPES and not self._columns(node):
            value = fixed(node)
            self.constant(None if value is None else _key_of(node.type, value, other))
            return
        self.value(node)
        if node.type in FLOATS:
            self.emit(Op.FLOAT_KEY)
        elif node.type == "date" != other:
            self.emit(Op.TO_TIMESTAMP)

    def _ranks(self, left: Node, right: Node) -> None:
        """Push the places of two texts among the words of both; each reads one column."""
        names = self._text_column(left), self._text_column(right)
        if names[0] is None or names[1] is None:
            raise NoProgram("text of several columns")
        words = self._evaluated(left, names[0]), self._evaluated(right, names[1])
        for name, ranks in zip(names, rank_tables(*words), strict=True):
            self.table(str(name), ranks, bits=False)

    def _uuids(self, left: Node, right: Node) -> None:
        """Push the place of a uuid column beside a constant, and that of the constant."""
        sides = (left, right)
        known = [fixed(side) for side in sides if not self._columns(side)]
        if len(known) != 1:
            raise NoProgram("uuids of two columns")
        for side in sides:
            if self._columns(side):
                self._rank(side, [value for value in known if isinstance(value, bytes)])
            else:
                self.constant(None if known[0] is None else 1)

    def _rank(self, node: Node, items: Sequence[bytes]) -> None:
        node = bare(node)
        if not isinstance(node, Column):
            raise NoProgram("a computed uuid")
        at = self.keep(uuid_words(items))
        self.emit(Op.RANK, self.number_of(node.name), at, len(items))

    def _compare_numerics(self, symbol: str, left: Node, right: Node) -> None:
        kinds = {left.type, right.type}
        fraction = left if left.type == "numeric" else right
        if kinds & set(INTEGERS) and not self._columns(fraction):
            self._compare_to_numeric(symbol, left, right)
            return
        scale = max(scale_of(left), scale_of(right))
        self._scaled(left, scale)
        self._scaled(right, scale)
        self.emit(COMPARISON_OPS[symbol])

    def _scaled(self, node: Node, scale: int) -> None:
        """Push a number times 10^scale; beyond 64 bits it is an error, and the evaluator's."""
        node = integer_of(node)
        if isinstance(node, Const):
            self.constant(scaled_constant(node.value, scale))
        elif node.type in INTEGERS:
            self.value(node)
            if scale:
                self.constant(scaled_constant(1, scale))
                self.emit(Op.MULTIPLY, 8)
        elif isinstance(node, Call):
            self._scaled_call(node, scale)
        else:
            raise NoProgram("numeric")

    def _scaled_call(self, node: Call, scale: int) -> None:
        left = node.arguments[0]
        if node.name == "*":
            own = scale_of(left)
            self._scaled(left, own)
            self._scaled(node.arguments[1], scale - own)
        else:
            for argument in node.arguments:
                self._scaled(argument, scale)
        self.emit(_INTEGER[node.name], 8)

    def _compare_to_numeric(self, symbol: str, left: Node, right: Node) -> None:
        """Compare an integer with a fraction by comparing it with the integer below or above."""
        if left.type == "numeric":
            symbol, left, right = MIRRORED[symbol], right, left
        if left.type not in INTEGERS or self._columns(right):
            raise NoProgram("numeric")
        bound = fixed(right)
        self.value(left)
        if bound is None:
            self.constant(None)
            self.emit(Op.EQUAL)
            return
        assert isinstance(bound, Decimal)
        op, number_ = beside(symbol, bound)
        self.constant(number_)
        self.emit(op)

    # arrays

    def _quantified(self, node: Quantified) -> None:
        array = bare(node.array)
        if not self._columns(array):
            self._quantified_constant(node, array)
        elif isinstance(array, MakeArray):
            self._try_each(node, array.items)
        elif isinstance(array, Column) and not self._columns(node.left):
            left = Const(node.left.type, fixed(node.left))
            array_items.quantify(self, node.operator, left, array, every=node.every)
        else:
            raise NoProgram("a column of arrays")

    def _try_each(self, node: Quantified, items: Sequence[Node]) -> None:
        """Compare with items one by one; an error in any of them counts."""
        if len(items) > MOST_TRIED or node.operator not in COMPARISONS:
            raise NoProgram(node.operator)
        for place, item in enumerate(items):
            if place:
                self.emit(Op.ALSO)
            self._compare(node.operator, node.left, item)
            if place:
                self.emit(Op.AND if node.every else Op.OR)

    def _quantified_constant(self, node: Quantified, array: Node) -> None:
        found = fixed(array)
        if found is None:
            self._instead(node.left, None)
            return
        assert isinstance(found, tuple)
        element = element_of(array.type)
        items = [item for item in found if item is not None]
        if items:
            self._known(node, element, items)
        else:
            self._instead(node.left, int(node.every))
        if len(items) < len(found):
            self.emit(Op.ALSO)
            self.constant(None)
            self.emit(Op.AND if node.every else Op.OR)

    def _instead(self, node: Node, value: int | None) -> None:
        """Push a constant in place of a node, whose errors count all the same."""
        if node.type in MACHINE_TYPES and not isinstance(node, Column):
            self.value(node)
            self.emit(Op.DROP)
        elif not isinstance(node, (Column, Const)):
            raise NoProgram(node.type)
        self.constant(value)

    def _known(self, node: Quantified, element: str, items: list[Value]) -> None:
        """Compare with constants of which none is NULL."""
        if (node.operator, node.every) in (("=", False), ("<>", True)):
            self._among(node.left, element, items)
            if node.every:
                self.emit(Op.NOT)
        elif node.operator in ("<", "<=", ">", ">="):
            greatest = node.operator.startswith("<") != node.every
            chosen = scalar(extreme(_sequence(element, items), greatest=greatest))
            self._compare(node.operator, node.left, Const(element, chosen))
        else:
            self._try_each(node, [Const(element, item) for item in items])

    def _among(self, left: Node, element: str, items: list[Value]) -> None:
        left = integer_of(left)
        if left.type == element == "uuid":
            wanted = sorted({item for item in items if isinstance(item, bytes)})
            self._rank(left, wanted)
            keys = np.arange(len(wanted), dtype=np.int64) * 2 + 1
        else:
            self._key(left, element)
            keys = _item_keys(left.type, element, items)
        self.emit(Op.AMONG, self.keep(keys), len(keys))


def _key_of(type_name: str, value: Value, other: str) -> int:
    return int(comparison_keys(_sequence(type_name, [value]), other)[0])


def _item_keys(left: str, element: str, items: list[Value]) -> I64:
    """Return the sorted keys of items that a value of type ``left`` may equal."""
    if element == "numeric":
        if left not in INTEGERS:
            raise NoProgram("numeric")
        whole = {int(item) for item in items if isinstance(item, Decimal) and item == int(item)}
        return np.array(sorted(x for x in whole if LEAST <= x <= GREATEST), np.int64)
    if element not in MACHINE_TYPES or left not in MACHINE_TYPES:
        raise NoProgram(element)
    return np.unique(comparison_keys(_sequence(element, items), left))


def _sequence(type_name: str, items: Sequence[Value]) -> Values:
    return sequence(type_name, items)


def _width(type_name: str) -> int:
    return np.dtype(DTYPES[type_name]).itemsize
