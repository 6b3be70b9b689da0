"""What compiling asks of a typed tree."""

from __future__ import annotations

from .emitting import NoProgram
from .errors import FilterError
from .literals import Value
from .nodes import (
    Call,
    Case,
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
from .sqltypes import INTEGERS
from .values import Vector, scalar


def children(node: Node) -> tuple[Node, ...]:  # noqa: PLR0911 - one per kind
    """Return the nodes right below a node."""
    match node:
        case Call():
            return node.arguments
        case Shared():
            return (node.node,)
        case Junction():
            return node.operands
        case Distinct():
            return node.equal.arguments
        case Quantified():
            return (node.left, node.array)
        case MakeArray():
            return node.items
        case Case():
            pairs = (part for branch in node.branches for part in branch)
            return (*pairs, node.otherwise)
        case Not() | NullTest() | TruthTest():
            return (node.operand,)
    return ()


def bare(node: Node) -> Node:
    """Return what a node stands for that is used more than once."""
    while isinstance(node, Shared):
        node = node.node
    return node


def fixed(node: Node) -> Value | None:
    """Return the value of a node that reads no column; raise NoProgram if it is an error."""

    def nothing(name: str) -> Vector:
        raise AssertionError(name)

    try:
        return scalar(node.evaluate(Rows(nothing, 1)))
    except FilterError as error:
        raise NoProgram("a constant is an error") from error


def integer_of(node: Node) -> Node:
    """Return the integer that was cast to numeric, which compares the same; else the node."""
    node = bare(node)
    if isinstance(node, Call) and node.name == "cast" and node.type == "numeric":
        inner = node.arguments[0]
        return inner if inner.type in INTEGERS else node
    return node
