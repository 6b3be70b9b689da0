"""Constants are worked out once, before any row is looked at, as Postgres' planner does.

So 1/0 is an error even where no row needs it, and what can no longer matter is dropped: operands of
an AND with FALSE in it, branches of a CASE that cannot be reached, strict calls with NULL.
"""

from __future__ import annotations

from dataclasses import replace

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
    Rows,
    Shared,
    TruthTest,
)
from .values import Vector, scalar


def fold(node: Node) -> Node:
    """Return an equal tree without what is constant; raise FilterError where that fails."""
    return _Folding().fold(node)


def _no_column(name: str) -> Vector:
    raise AssertionError(f"a constant does not depend on column {name}")


class _Folding:
    def __init__(self) -> None:
        self._shared: dict[int, Node] = {}

    def fold(self, node: Node) -> Node:  # noqa: PLR0911 - one per kind
        match node:
            case Const() | Column():
                return node
            case Shared():
                return self._fold_shared(node)
            case Call():
                return self._fold_call(node)
            case Junction():
                return self._fold_junction(node)
            case Case():
                return self._fold_case(node)
            case Distinct():
                arguments = self._all(node.equal.arguments)
                equal = replace(node.equal, arguments=arguments)
                folded = replace(node, equal=equal)
                return folded if equal.stable else _evaluated(folded, arguments)
            case Quantified():
                left, array = self._all((node.left, node.array))
                quantified = replace(node, left=left, array=array)
                return quantified if node.stable else _evaluated(quantified, (left, array))
            case MakeArray():
                items = self._all(node.items)
                return _evaluated(replace(node, items=items), items)
            case Not() | NullTest() | TruthTest():
                operand = self.fold(node.operand)
                return _evaluated(replace(node, operand=operand), (operand,))
        raise AssertionError(node)

    def _all(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        return tuple(self.fold(node) for node in nodes)

    def _fold_shared(self, node: Shared) -> Node:
        if id(node) not in self._shared:
            folded = self.fold(node.node)
            simple = isinstance(folded, (Const, Column))
            self._shared[id(node)] = folded if simple else Shared(folded)
        return self._shared[id(node)]

    def _fold_call(self, node: Call) -> Node:
        arguments = self._all(node.arguments)
        if any(isinstance(argument, Const) and argument.value is None for argument in arguments):
            return Const(node.type, None)
        call = replace(node, arguments=arguments)
        return call if node.stable else _evaluated(call, arguments)

    def _fold_junction(self, node: Junction) -> Node:
        kept: list[Node] = []
        for operand in node.operands:
            folded = self.fold(operand)
            if isinstance(folded, Const) and folded.value is not None:
                if folded.value is not node.every:
                    return folded
                continue
            kept.append(folded)
        if not kept:
            return Const("bool", node.every)
        return _evaluated(replace(node, operands=tuple(kept)), tuple(kept))

    def _fold_case(self, node: Case) -> Node:
        branches: list[tuple[Node, Node]] = []
        for condition, result in node.branches:
            folded = self.fold(condition)
            if isinstance(folded, Const):
                if folded.value is not True:
                    continue
                return self._case(node, branches, self.fold(result))
            branches.append((folded, self.fold(result)))
        return self._case(node, branches, self.fold(node.otherwise))

    @staticmethod
    def _case(node: Case, branches: list[tuple[Node, Node]], otherwise: Node) -> Node:
        if not branches:
            return otherwise
        return Case(node.type, tuple(branches), otherwise)


def _evaluated(node: Node, parts: tuple[Node, ...]) -> Node:
    """Return the node's value if all its parts are constants, else the node."""
    constants = [part for part in parts if isinstance(part, Const)]
    if len(constants) < len(parts):
        return node
    if isinstance(node, MakeArray):
        return Const(node.type, tuple(part.value for part in constants))
    return Const(node.type, scalar(node.evaluate(Rows(_no_column, 1))))
