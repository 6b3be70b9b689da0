"""Row ids and distances to rows of Python values, as types.py says each type's are."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu.exact import distances_to_all
from server.columns import ColumnView
from server.filters import Expression, check_value, syntax
from server.filters.values import Arrays, Values, Vector, from_view
from server.state import MirrorState

from .answers import Column
from .binding import Bound, constant
from .expressions import OTHER_TYPES
from .key_columns import key_rows
from .parameters import Values as Parameters
from .plans import Plan, PlannedOutput, distance_name
from .types import FLOAT8, INT8, TEXT, type_named

IDs = NDArray[np.int64]
Distances = NDArray[np.float32]


def output_columns(plan: Plan, unknown: Parameters) -> tuple[Column, ...]:
    """Return the columns of the answer; ``unknown`` stands for the parameters.

    Raise FilterError.
    """
    if plan.counting:
        return (Column("count", INT8),)
    return tuple(_column(plan, output, unknown) for output in plan.outputs)


def _column(plan: Plan, output: PlannedOutput, unknown: Parameters) -> Column:
    value = output.value
    if isinstance(value, syntax.Name) and value.name in plan.table.columns:
        known = plan.table.columns[value.name]
        return Column(output.name, known.type.oid, known.typmod)
    if isinstance(value, syntax.Name) and value.name == distance_name(0):
        return Column(output.name, FLOAT8)
    if isinstance(value, syntax.Cast) and value.type in OTHER_TYPES:
        found = type_named(value.type)
    else:
        found = type_named(check_value(value, dict(unknown), plan.types).type)
    return Column(output.name, found.oid if found else TEXT)


@dataclass(slots=True)
class Page:
    """Some rows of an answer: what outputs are computed from, each thing once."""

    state: MirrorState
    bound: Bound
    ids: IDs
    distances: Distances | None
    _views: dict[str, ColumnView] = field(default_factory=dict)

    def column(self, name: str) -> ColumnView:
        """Return a key, a mirrored column or a distance over the rows of the page."""
        if name not in self._views:
            self._views[name] = self._column(name)
        return self._views[name]

    def _column(self, name: str) -> ColumnView:
        table = self.bound.plan.table
        if name in table.key:
            return key_rows(self.state, table.key.index(name), self.ids)
        if name in self.state.columns:
            return self.state.column(name).take(self.ids)
        slot = int(name.removeprefix(distance_name(0)[:-1]))
        valid = np.ones(len(self.ids), np.bool_)
        return ColumnView("float8", valid, self.distance(slot).astype(np.float64))

    def distance(self, slot: int) -> Distances:
        """Return the distances f32[r] to the vector of a slot."""
        if slot == 0 and self.distances is not None:
            return self.distances
        vector = self.bound.vectors[slot]
        assert vector is not None
        return distances_to_all(self.state.index.rows, vector, self.ids)


Writer = Callable[[Page], list[Any]]


def writers(bound: Bound) -> list[Writer]:
    """Return what makes the values of each output."""
    return [_writer(bound, output) for output in bound.plan.outputs]


def rows_of(page: Page, outputs: list[Writer]) -> list[tuple[object, ...]]:
    """Return the rows of a page."""
    if not outputs:
        return [()] * len(page.ids)
    return list(zip(*(write(page) for write in outputs), strict=True))


def _writer(bound: Bound, output: PlannedOutput) -> Writer:
    plan, value = bound.plan, output.value
    if output.light:
        return _constant(bound.echoes.get(output.light))
    if isinstance(value, syntax.Name):
        if value.name == plan.table.vector.name:
            return _vectors(np.float16 if plan.table.vector.type.name == "halfvec" else np.float32)
        return _column_writer(value.name)
    if isinstance(value, syntax.Cast) and value.type in OTHER_TYPES:
        return _constant(constant(value, bound.values, value.type))
    return _expression(check_value(value, dict(bound.values), plan.types))


def _constant(value: object) -> Writer:
    return lambda page: [value] * len(page.ids)


def _vectors(dtype: type[np.floating[Any]]) -> Writer:
    return lambda page: list(page.state.vectors(page.ids).astype(dtype, copy=False))


def _column_writer(name: str) -> Writer:
    if name == distance_name(0):
        return lambda page: page.distance(0).tolist()
    return lambda page: view_values(page.column(name))


def _expression(expression: Expression) -> Writer:
    if expression.constant:
        value = _python(expression.type, expression.value)
        return _constant(value)

    def write(page: Page) -> list[Any]:
        vector = expression.evaluate(page.column, len(page.ids))
        values = vector_values(vector)
        return values * len(page.ids) if vector.rows == 1 else values

    return write


def _python(type_name: str, value: object) -> object:
    if type_name == "uuid" and isinstance(value, bytes):
        return uuid.UUID(bytes=value)
    return value


def view_values(view: ColumnView) -> list[Any]:
    """Return the values of a column, None for NULL."""
    if view.offsets is None and view.dictionary is None and view.type != "uuid":
        values: list[Any] = view.values.tolist()
        if not view.valid.all():
            return [value if here else None for value, here in zip(values, view.valid, strict=True)]
        return values
    return vector_values(from_view(view))


def vector_values(vector: Vector) -> list[Any]:
    """Return the values of a vector of the filter language, None for NULL."""
    values = _lists(vector) if isinstance(vector, Arrays) else _scalars(vector)
    if vector.null is None:
        return values
    return [None if null else value for value, null in zip(values, vector.null, strict=True)]


def _lists(arrays: Arrays) -> list[Any]:
    items = vector_values(arrays.items)
    return [tuple(items[start:end]) for start, end in pairwise(arrays.offsets.tolist())]


def _scalars(values: Values) -> list[Any]:
    if values.words is not None:
        words = values.words
        return [words[code] for code in values.data.tolist()]
    if values.type == "uuid":
        return [uuid.UUID(bytes=raw.ljust(16, b"\0")) for raw in values.data.tolist()]
    found: list[Any] = values.data.tolist()
    return found
