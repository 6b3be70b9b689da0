"""A plan with its parameters: the vector, the numbers and the filters of one execution."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.filters import Filter, FilterError, Typed, check_condition, check_value, parse, syntax
from server.filters.syntax import Syntax
from server.searching import check_queries

from .errors import SqlError
from .expressions import OTHER_TYPES
from .parameters import Values, items_of, meaning_of, parameters_in
from .plans import Plan, distance_name, no_query, reads_distances
from .tables import IndexTable
from .types import from_text, type_named

#: Items of arrays in a condition that is kept for the next execution.
_MOST_KEPT_ITEMS = 10_000
_CONSISTENCIES = ("eventual", "session", "strong")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One execution of a plan.

    ``vectors``: f32[d] of each distance slot, None where there is none. ``wanted``: rows up to the
    end of LIMIT and k, None for all; ``offset`` of them are skipped. ``below``: the search stops
    at this distance; ``inclusive``: only beyond it. ``echoes``: values of the light form as given.
    ``nothing``: a comparison with NULL keeps no row. ``mask_key``: by value, what ``filters`` mean
    in any state of the index; None where their answer cannot be kept.
    """

    plan: Plan
    values: Values
    vectors: tuple[NDArray[np.float32] | None, ...] = ()
    k: int | None = None
    limit: int | None = None
    offset: int = 0
    filters: tuple[Filter, ...] = ()
    mask_key: Hashable = None
    by_distance: bool = False
    below: float | None = None
    inclusive: bool = False
    recall_target: float | None = None
    min_lsn: int = 0
    consistency: str = "eventual"
    echoes: Mapping[str, object]
    nothing: bool = False

    @property
    def query(self) -> NDArray[np.float32] | None:
        """The vector of the search."""
        return self.vectors[0] if self.plan.searching else None

    @property
    def wanted(self) -> int | None:
        """Rows that may be asked for, those to skip included; None: no end."""
        ends = [] if self.k is None else [self.k]
        ends += [] if self.limit is None else [self.limit + self.offset]
        return min(ends, default=None)


def bind(plan: Plan, values: Values, *, sampling: bool = False) -> Bound:
    """Return a plan with its values; raise SqlError or FilterError.

    ``sampling``: it is ANALYZE that asks, whose sample has no search and so no distance.
    """
    if not (plan.searching or sampling or plan.sample is not None) and plan.asks_for_search:
        raise no_query(plan.table)
    before: Bound | None = plan.memo.get("bound")
    if before is not None and (again := _Binder(plan, values).bind_again(before)) is not None:
        return again
    bound = _Binder(plan, values).bind()
    if "repeats" not in plan.memo:
        plan.memo["repeats"] = _repeats(plan)
    if plan.memo["repeats"] and not bound.nothing:
        plan.memo["bound"] = _without_values(bound)
    return bound


def _without_values(bound: Bound) -> Bound:
    """Return what is the same in each execution; values may be long, and are not kept."""
    condition = bound.plan.condition
    differs = condition is not None and bool(parameters_in(condition))
    echoes = {name: value for name, value in bound.echoes.items() if name != "query"}
    filters = () if differs else bound.filters
    return replace(bound, values={}, vectors=(), filters=filters, echoes=echoes)


def _repeats(plan: Plan) -> bool:
    """Whether executions differ in the search's vector and in the values of the condition only."""
    if not plan.searching or len(plan.vectors) > 1:
        return False
    fixed = [tree for name, tree in plan.light.items() if name != "query"]
    fixed += [tree for _, tree in plan.bounds]
    fixed += [tree for tree in (plan.limit, plan.offset) if tree is not None]
    return not any(parameters_in(tree) for tree in (*fixed, *plan.minimum_lsn))


class _Binder:
    def __init__(self, plan: Plan, values: Values) -> None:
        self._plan, self._values = plan, values
        self._nothing = False

    def bind(self) -> Bound:
        plan = self._plan
        vectors = tuple(self._vector(slot, tree) for slot, tree in enumerate(plan.vectors))
        light = {name: self._light(name) for name in plan.light if name != "query"}
        if plan.searching:
            light["query"] = _echo(plan.table, vectors[0])
        k = light.get("k")
        limit = self._count(plan.limit, "LIMIT")
        recall, lsn = light.get("recall_target"), self._min_lsn()
        wanted = (limit is not None and not plan.counting) or k is not None
        below, inclusive, conditions = self._bounds(stops=wanted and plan.searching)
        filters, mask_key = self._filters(light.get("filter"), conditions)
        bound = Bound(
            plan=plan,
            values=self._values,
            vectors=vectors,
            k=_checked_k(k),
            limit=limit,
            offset=self._count(plan.offset, "OFFSET") or 0,
            filters=filters,
            mask_key=mask_key,
            by_distance=plan.by_distance or self._orders_by_query(vectors),
            below=below,
            inclusive=inclusive,
            recall_target=_checked_recall(recall),
            min_lsn=lsn,
            consistency=self._consistency(light.get("consistency")),
            echoes=light,
            nothing=self._nothing,
        )
        return bound

    def bind_again(self, before: Bound) -> Bound | None:
        """Return an execution like ``before``, with other values; None if it is not like it."""
        vector = self._vector(0, self._plan.vectors[0])
        if vector is None:
            return None
        bound, filters, mask_key = before, before.filters, before.mask_key
        if self._plan.condition is not None and parameters_in(self._plan.condition):
            if bound.below is None and self._plan.bounds:
                return None  # bounds are conditions here
            filters, mask_key = self._filters(bound.echoes.get("filter"), [])
        return replace(
            bound,
            values=self._values,
            vectors=(vector,),
            filters=filters,
            mask_key=mask_key,
            echoes={**bound.echoes, "query": _echo(self._plan.table, vector)},
        )

    # vectors

    def _vector(self, slot: int, tree: Syntax) -> NDArray[np.float32] | None:
        plan, spec = self._plan, self._plan.table.spec
        if slot == 0 and not plan.searching:
            return None
        value = constant(tree, self._values, "vector")
        if value is None:
            if "query" in plan.light and slot == 0 and not plan.function:
                self._nothing = True  # query = NULL
                return None
            message = "the query vector is NULL"
            raise SqlError("22004", message, position=tree.position + 1)
        vector = _as_vector(value, tree.position)
        check_queries(vector[None], spec.table.dim)
        return vector

    def _orders_by_query(self, vectors: tuple[NDArray[np.float32] | None, ...]) -> bool:
        """Whether ORDER BY is by the distance to a vector equal to the search's."""
        plan = self._plan
        if not plan.searching or not plan.order or plan.order[0].descending:
            return False
        key = plan.order[0].value
        names = [distance_name(slot) for slot in range(len(vectors))]
        if not isinstance(key, syntax.Name) or key.name not in names:
            return False
        first, other = vectors[0], vectors[names.index(key.name)]
        return first is not None and other is not None and bool(np.array_equal(first, other))

    # the light form

    def _light(self, name: str) -> object:
        plan = self._plan
        column = plan.table.columns[plan.table.light[name]]
        value = constant(plan.light[name], self._values, column.type.name)
        if value is None and not plan.function and name != "min_lsn":
            self._nothing = True
        return value

    def _min_lsn(self) -> int:
        lsns = [constant(tree, self._values, "pg_lsn") for tree in self._plan.minimum_lsn]
        if "min_lsn" in self._plan.light and not lsns:
            lsns = [constant(self._plan.light["min_lsn"], self._values, "pg_lsn")]
        if None in lsns:
            self._nothing = not self._plan.function or self._nothing
        found: list[Any] = [lsn for lsn in lsns if lsn is not None]
        return max(found, default=0)

    def _consistency(self, value: object) -> str:
        if value is None:
            return "eventual"
        if value not in _CONSISTENCIES:
            message = "consistency is 'eventual', 'session' or 'strong'"
            raise SqlError("22023", message, hint="session is eventual with min_lsn")
        return str(value)

    # numbers and filters

    def _count(self, tree: Syntax | None, what: str) -> int | None:
        if tree is None:
            return None
        value = constant(tree, self._values, "int8")
        if value is None:
            return None
        assert isinstance(value, int)
        if value < 0:
            state = "2201W" if what == "LIMIT" else "2201X"
            raise SqlError(state, f"{what} must not be negative")
        return value

    def _bounds(self, *, stops: bool) -> tuple[float | None, bool, list[Syntax]]:
        """Return where the search stops; bounds that stop nothing are conditions like others."""
        plan = self._plan
        if not stops:
            name = distance_name(0)
            trees: list[Syntax] = [
                syntax.Binary(op, syntax.Name(name, value.position), value, value.position)
                for op, value in plan.bounds
            ]
            return None, False, trees
        below, inclusive = None, False
        for operator, tree in plan.bounds:
            value = constant(tree, self._values, "float8")
            if value is None:
                self._nothing = True
                continue
            assert isinstance(value, float)
            if below is None or (value, operator == "<=") < (below, inclusive):
                below, inclusive = value, operator == "<="
        return below, inclusive, []

    def _filters(
        self, text: object, conditions: list[Syntax]
    ) -> tuple[tuple[Filter, ...], Hashable]:
        """Return the filters of WHERE and of the light form, and what they mean by value."""
        plan = self._plan
        filters: list[Filter] = []
        said = ""
        values: tuple[Hashable, ...] = ()
        if isinstance(text, str) and text.strip():
            filters.append(light_filter(plan.table, text))
            said = text
        trees = [*([plan.condition] if plan.condition else []), *conditions]
        if trees:
            tree = trees[0] if len(trees) == 1 else syntax.Junction(True, tuple(trees), 0)
            found, meaning = self._condition(tree)
            filters.append(found)
            values = meaning
        if any(reads_distances(one) for one in trees):
            return tuple(filters), None
        return tuple(filters), ("sql", plan.table.name, said, *values) if filters else None

    def _condition(self, tree: Syntax) -> tuple[Filter, tuple[Hashable, ...]]:
        """Return a checked condition and what it means by value; the last one is kept."""
        memo, values = self._plan.memo, self._values
        if memo.get("tree") is not tree:
            memo["tree"], memo["text"], memo["checked"] = tree, repr(tree), (None, None)
            memo["places"] = parameters_in(tree)
        meaning = (memo["text"], *(meaning_of(values.get(place)) for place in memo["places"]))
        known, checked = memo["checked"]
        if known != meaning:
            checked = check_condition(tree, dict(values), self._plan.types)
            if sum(items_of(values.get(place)) for place in memo["places"]) <= _MOST_KEPT_ITEMS:
                memo["checked"] = meaning, checked
        return checked, meaning


@lru_cache(1024)
def light_filter(table: IndexTable, text: str) -> Filter:
    """Return the filter of the light form; raise SqlError, whose detail has the position."""
    try:
        return parse(text, None, table.filter_types)
    except FilterError as error:
        raise SqlError(
            error.sqlstate,
            f"filter: {error.message}",
            hint=error.hint,
            detail=f"at character {error.position + 1} of the filter",
        ) from error


def constant(tree: Syntax, values: Values, type_name: str) -> object:
    """Return the value of an expression without columns as one of ``type_name``.

    Types are those of types.py. None is NULL; raise SqlError or FilterError.
    """
    if (known := _written(tree, values, type_name)) is not None:
        return known
    wanted = type_named(type_name)
    assert wanted is not None
    if type_name not in OTHER_TYPES:
        canonical = type_name
        cast = syntax.Cast(tree, canonical, tree.position)
        checked = check_value(cast, dict(values), {})
        return checked.value
    return _other_constant(tree, values, wanted.oid)


def _written(tree: Syntax, values: Values, type_name: str) -> object:
    """Return the value of a parameter that has the type already; None: it takes more to know."""
    if isinstance(tree, syntax.Cast) and tree.type == type_name:
        tree = tree.operand
    if not isinstance(tree, syntax.Parameter) or not isinstance(tree.key, int):
        return None
    value = values.get(tree.key)
    return value.value if isinstance(value, Typed) and value.type == type_name else None


def _other_constant(tree: Syntax, values: Values, oid: int) -> object:
    """Return a constant of a type that filters do not know: vectors, LSNs."""
    while isinstance(tree, syntax.Cast):
        tree = tree.operand
    match tree:
        case syntax.Parameter(key) if key in values:
            assert isinstance(key, int)
            value = values[key]
            value = value.value if isinstance(value, Typed) else value
            return from_text(oid, value) if isinstance(value, str) else value
        case syntax.Parameter(key):
            raise SqlError("42P02", f"there is no parameter ${key}", position=tree.position + 1)
        case syntax.String(text):
            return from_text(oid, text)
        case syntax.Keyword(None):
            return None
        case syntax.Array(items):
            return tuple(constant(item, values, "float8") for item in items)
    raise SqlError("0A000", "a constant or a parameter is needed here", position=tree.position + 1)


def _as_vector(value: object, position: int) -> NDArray[np.float32]:
    """Return f32[d] of a vector, an array of numbers, or its literal."""
    try:
        with np.errstate(over="ignore"):
            vector = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise SqlError("22P02", "this is no vector", position=position + 1) from error
    if vector.ndim != 1:
        raise SqlError("22P02", "this is no vector", position=position + 1)
    return vector


def _echo(table: IndexTable, vector: NDArray[np.float32] | None) -> object:
    """Return the query vector as a value of its column's type."""
    halves = vector is not None and table.vector.type.name == "halfvec"
    return vector.astype(np.float16) if halves and vector is not None else vector


def _checked_k(k: object) -> int | None:
    if k is None:
        return None
    assert isinstance(k, int)
    if k < 1:
        raise SqlError("22023", "k must be at least 1")
    return k


def _checked_recall(value: object) -> float | None:
    if value is None:
        return None
    assert isinstance(value, (float, Decimal, int))
    if not 0 < value <= 1:
        raise SqlError("22023", "recall_target is greater than 0 and at most 1")
    return float(value)
