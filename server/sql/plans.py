"""A SELECT over an index, understood: what is known before its parameters are.

The conjuncts of WHERE are of three sorts: the light form (``query = ..``, ``k = ..``), what stops a
search (``distance < ..``), and everything else, which is a filter. Every distance to a vector that
the statement mentions is a column for filters and outputs, called ``distance_name(slot)``; slot 0
is the distance that the search is by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from server.filters import syntax
from server.filters.syntax import Syntax, parts, rewritten

from .errors import SqlError
from .expressions import COUNT, METRICS, OPERATORS, STAND_IN
from .statements import OrderKey, Output, SearchCall, Select, Star
from .tables import IndexTable

#: k of vecmirror.search() when none is given.
DEFAULT_K = 10
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_LIGHT_PARTS = ("query", "k", "filter", "recall_target", "min_lsn", "consistency")
_CALL_PARTS = ("index", "query", "k", "filter")

NO_QUERY = (
    "a query vector did not reach the index: "
    "write WHERE query = '[..]' or ORDER BY {column} {operator} '[..]'"
)
NO_QUERY_HINT = (
    "compare query with a constant or a parameter of the vector type; for joins, set "
    "use_remote_estimate on the foreign server and write the join as LATERAL"
)


def distance_name(slot: int) -> str:
    """Return the name of a distance as a column; no column of a table has it."""
    return f"\0distance{slot}"


@dataclass(frozen=True, slots=True)
class PlannedOutput:
    """One output. ``light``: it echoes that part of the light form; else ``value`` is evaluated."""

    name: str
    value: Syntax
    light: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a SELECT over an index asks for.

    ``light``: the parts of the light form that were given. ``vectors``: the vector of each
    distance slot; slot 0 is the search's if ``searching``. ``bounds``: (operator, value) of
    ``distance < value``. ``condition``: the filter. ``order``: keys after the rewriting of
    distances; ``by_distance``: it is by rising distance first. ``function``: asked as a table
    function, whose NULL arguments mean that they were not given.
    """

    table: IndexTable
    outputs: tuple[PlannedOutput, ...]
    light: Mapping[str, Syntax] = field(default_factory=dict)
    vectors: tuple[Syntax, ...] = ()
    searching: bool = False
    bounds: tuple[tuple[str, Syntax], ...] = ()
    condition: Syntax | None = None
    order: tuple[OrderKey, ...] = ()
    by_distance: bool = False
    limit: Syntax | None = None
    offset: Syntax | None = None
    sample: float | None = None
    counting: bool = False
    function: bool = False
    minimum_lsn: tuple[Syntax, ...] = ()
    #: What binding.py has worked out and may use again.
    memo: dict[str, Any] = field(init=False, default_factory=dict, compare=False, repr=False)

    @property
    def types(self) -> dict[str, str]:
        """Canonical type by name of all that expressions can read."""
        distances = {distance_name(slot): "float8" for slot in range(len(self.vectors) or 1)}
        return {**self.table.filter_types, **distances}

    @property
    def asks_for_search(self) -> bool:
        """Whether it makes sense only with a query vector: k, query or distance is in it."""
        outputs = any(output.light in ("query", "k", "distance") for output in self.outputs)
        asked = any(part in self.light for part in ("k", "recall_target"))
        return outputs or asked or self.reads_distance

    @property
    def reads_distance(self) -> bool:
        """Whether an output, the filter or the order needs the distance of the search."""
        trees = [output.value for output in self.outputs if not output.light]
        trees += [key.value for key in self.order]
        trees += [self.condition] if self.condition else []
        return any(_reads(tree, distance_name(0)) for tree in trees) or bool(self.bounds)


def reads_distances(tree: Syntax) -> bool:
    """Whether a rewritten expression depends on a distance."""
    names = [part.name for part in parts(tree) if isinstance(part, syntax.Name)]
    return any(name.startswith(distance_name(0)[:-1]) for name in names)


def _reads(tree: Syntax, name: str) -> bool:
    return any(isinstance(part, syntax.Name) and part.name == name for part in parts(tree))


def plan_select(select: Select, table: IndexTable) -> Plan:
    """Return the plan of a SELECT over ``table``; raise SqlError for what cannot be served."""
    return _Planner(select, table).plan()


class _Planner:
    def __init__(self, select: Select, table: IndexTable) -> None:
        self._select, self._table = select, table
        self._metric = table.spec.metric
        self._vectors: list[Syntax] = []
        self._light: dict[str, Syntax] = {}
        self._lsns: list[Syntax] = []
        self._searching = False
        self._sample = select.sample

    def plan(self) -> Plan:
        select = self._select
        function = isinstance(select.source, SearchCall)
        if isinstance(select.source, SearchCall):
            self._light = call_arguments(select.source)
            self._light.setdefault("k", syntax.Number(str(DEFAULT_K), select.source.position))
            self._light.pop("index")
        rest = self._light_conjuncts(conjuncts(select.where))
        order = tuple(self._order_key(key) for key in select.order)
        self._find_search(order)
        order = tuple(replace(key, value=self._rewrite(key.value)) for key in order)
        conditions, bounds = self._conditions(rest)
        counting = self._counts()
        outputs = () if counting else tuple(self._outputs(function))
        plan = Plan(
            table=self._table,
            outputs=outputs,
            light=self._light,
            vectors=tuple(self._vectors),
            searching=self._searching,
            bounds=tuple(bounds),
            condition=_joined(conditions),
            order=order,
            by_distance=bool(order) and self._is_rising_distance(order[0]),
            limit=select.limit,
            offset=select.offset,
            sample=self._sample,
            counting=counting,
            function=function,
            minimum_lsn=tuple(self._lsns),
        )
        return plan

    # the light form

    def _light_conjuncts(self, found: Iterable[Syntax]) -> list[Syntax]:
        """Take the light form out of WHERE; return the rest."""
        rest: list[Syntax] = []
        for tree in found:
            if not (self._take_light(tree) or self._take_sample(tree)):
                rest.append(tree)
        return rest

    def _take_light(self, tree: Syntax) -> bool:
        if not isinstance(tree, syntax.Binary):
            return False
        for column, value, operator in (
            (tree.left, tree.right, tree.operator),
            (tree.right, tree.left, _MIRRORED.get(tree.operator, tree.operator)),
        ):
            part = self._light_part(column)
            if part not in _LIGHT_PARTS or not is_constant(value):
                continue
            equal = operator.rpartition(".")[2] == "=" if part == "query" else operator == "="
            if part == "min_lsn" and (equal or operator == ">="):
                self._lsns.append(value)
                self._light.setdefault(part, value)
            elif equal:
                self._give(part, value, tree.position)
            else:
                continue
            return True
        return False

    def _light_part(self, tree: Syntax) -> str:
        if not isinstance(tree, syntax.Name) or tree.name not in self._table.columns:
            return ""
        return self._table.columns[tree.name].light

    def _give(self, part: str, value: Syntax, position: int) -> None:
        if part in self._light:
            message = f"{part} is given twice"
            raise SqlError("42601", message, position=position + 1)
        self._light[part] = value

    def _take_sample(self, tree: Syntax) -> bool:
        """Take ``random() < 0.01``, by which ANALYZE asks for a sample."""
        match tree:
            case syntax.Binary("<", syntax.Function("random", ()), syntax.Number(text)):
                self._sample = float(text)
                return True
        return False

    # distances

    def _order_key(self, key: OrderKey) -> OrderKey:
        """Resolve the number or alias of an output, as ORDER BY does."""
        outputs, value = self._select.outputs, key.value
        if isinstance(value, syntax.Number):
            place = int(value.text) if value.text.isdigit() else 0
            if not 1 <= place <= len(outputs):
                message = f"ORDER BY position {value.text} is not in select list"
                raise SqlError("42P10", message, position=value.position + 1)
            named = outputs[place - 1].value
        elif isinstance(value, syntax.Name):
            named = next((out.value for out in outputs if out.name == value.name), value)
        else:
            named = value
        return key if isinstance(named, Star) else replace(key, value=named)

    def _find_search(self, order: tuple[OrderKey, ...]) -> None:
        """Find the vector that the search is by: of the light form, else of ORDER BY."""
        if "query" in self._light:
            self._vectors.append(self._light["query"])
            self._searching = True
        elif order and not order[0].descending:
            vector = self._compared_vector(order[0].value)
            if vector is not None:
                self._vectors.append(vector)
                self._searching = True

    def _compared_vector(self, tree: Syntax) -> Syntax | None:
        """Return v of ``vector column <-> v``; raise SqlError for another metric's operator."""
        if not isinstance(tree, syntax.Binary) or tree.operator not in METRICS:
            return None
        for column, value in ((tree.left, tree.right), (tree.right, tree.left)):
            if not self._is_vector_column(column):
                continue
            if METRICS[tree.operator] != self._metric:
                right = OPERATORS[self._metric]
                raise SqlError(
                    "0A000",
                    f"the index {self._table.name} has metric {self._metric}: "
                    f"{tree.operator} is another one's operator",
                    hint=f"use {right}, or mirror the column into an index of the other metric",
                    position=tree.position + 1,
                )
            if self._light_part(value) == "query" and "query" in self._light:
                return self._light["query"]
            if not is_constant(value):
                raise _no_expression(value, "the other side of a distance must be a constant")
            return value
        return None

    def _is_vector_column(self, tree: Syntax) -> bool:
        while isinstance(tree, syntax.Cast) and tree.type == self._table.vector.type.name:
            tree = tree.operand
        return isinstance(tree, syntax.Name) and tree.name == self._table.vector.name

    def _slot(self, vector: Syntax) -> int:
        """Return the slot of a vector, a new one if it was not mentioned before."""
        for slot, known in enumerate(self._vectors):
            if known is vector or _same(known, vector):
                return slot
        if not self._searching and not self._vectors:
            # Slot 0 is the search's own; there is none.
            self._vectors.append(syntax.Keyword(None, vector.position))
        self._vectors.append(vector)
        return len(self._vectors) - 1

    def _rewrite(self, tree: Syntax) -> Syntax:
        """Return an expression over columns: distances by name, the vector never NULL."""
        return rewritten(tree, self._change)

    def _change(self, tree: Syntax) -> Syntax | None:
        vector = self._compared_vector(tree)
        if vector is not None:
            assert isinstance(tree, syntax.Binary)
            return syntax.Name(distance_name(self._slot(vector)), tree.position)
        if isinstance(tree, syntax.NullTest) and self._is_vector_column(tree.operand):
            return syntax.Keyword(tree.negated, tree.position)
        if not isinstance(tree, syntax.Name):
            return None
        part = self._light_part(tree)
        if part == "distance":
            if not self._searching:
                raise self.no_query(tree.position)
            return syntax.Name(distance_name(0), tree.position)
        if part:
            hint = "compare it with = and a constant, in an AND of WHERE"
            raise _no_expression(tree, f"{tree.name} belongs to the search, not to rows", hint)
        if self._is_vector_column(tree):
            operator = OPERATORS[self._metric]
            hint = f"compare it by {operator} with a constant"
            raise _no_expression(tree, "the vector column cannot be in this expression", hint)
        return None

    def no_query(self, position: int | None = None) -> SqlError:
        """Return the error for a search without a query vector."""
        return no_query(self._table, position)

    # conditions

    def _conditions(self, found: list[Syntax]) -> tuple[list[Syntax], list[tuple[str, Syntax]]]:
        conditions: list[Syntax] = []
        bounds: list[tuple[str, Syntax]] = []
        for tree in found:
            changed = self._rewrite(tree)
            bound = _bound(changed)
            if bound is not None and self._searching:
                bounds.append(bound)
            else:
                conditions.append(changed)
        return conditions, bounds

    def _is_rising_distance(self, key: OrderKey) -> bool:
        name = distance_name(0)
        return (
            self._searching
            and not key.descending
            and not key.nulls_first
            and isinstance(key.value, syntax.Name)
            and key.value.name == name
        )

    # outputs

    def _counts(self) -> bool:
        values = [output.value for output in self._select.outputs]
        counts = [isinstance(value, syntax.Function) and value.name == COUNT for value in values]
        if len(values) == 1 and counts[0]:
            return True
        if any(counts):
            hint = "ask for count(*) alone"
            raise SqlError("0A000", "count(*) beside columns is not served here", hint=hint)
        return False

    def _outputs(self, function: bool) -> Iterable[PlannedOutput]:
        for output in self._select.outputs:
            if isinstance(output.value, Star):
                yield from self._star(output.value, function)
            else:
                yield self._output(output, function)

    def _star(self, star: Star, function: bool) -> Iterable[PlannedOutput]:
        """Return what * stands for: no column of the light form but the distance, if there is."""
        for column in self._table.columns.values():
            if column.role == "light" or (function and column.role != "key"):
                continue
            yield PlannedOutput(column.name, syntax.Name(column.name, star.position))
        if self._searching:
            name = self._table.light["distance"]
            yield PlannedOutput(name, syntax.Name(distance_name(0), star.position))

    def _output(self, output: Output, function: bool) -> PlannedOutput:
        value = output.value
        assert not isinstance(value, Star)
        if isinstance(value, syntax.Name):
            return self._named(value, output.name or value.name, function)
        return PlannedOutput(output.name or default_name(value), self._rewrite(value))

    def _named(self, value: syntax.Name, name: str, function: bool) -> PlannedOutput:
        if function and value.name == "key" and "key" not in self._table.columns:
            return self._key_output(value, name)
        column = self._table.columns.get(value.name)
        if column is None or (column.light in ("", "distance") and column.role != "vector"):
            if column is not None and column.light == "distance" and not self._searching:
                return PlannedOutput(name, value, "distance")
            return PlannedOutput(name, self._rewrite(value))
        return PlannedOutput(name, value, column.light)

    def _key_output(self, value: syntax.Name, name: str) -> PlannedOutput:
        if len(self._table.key) > 1:
            listed = ", ".join(self._table.key)
            message = f"the key of {self._table.name} has several columns"
            raise SqlError("42703", message, hint=f"name them: {listed}")
        return PlannedOutput(name, syntax.Name(self._table.key[0], value.position))


def no_query(table: IndexTable, position: int | None = None) -> SqlError:
    """Return the error for a search without a query vector."""
    operator = OPERATORS[table.spec.metric]
    message = NO_QUERY.format(column=table.vector.name, operator=operator)
    at = None if position is None else position + 1
    return SqlError("HV000", message, hint=NO_QUERY_HINT, position=at)


def conjuncts(tree: Syntax | None) -> Iterable[Syntax]:
    """Yield what WHERE joins by AND, whatever the parentheses."""
    if tree is None:
        return
    if isinstance(tree, syntax.Junction) and tree.every:
        for operand in tree.operands:
            yield from conjuncts(operand)
    else:
        yield tree


def is_constant(tree: Syntax) -> bool:
    """Whether an expression depends on no column."""
    return not any(isinstance(part, syntax.Name) for part in parts(tree))


def has_stand_in(tree: Syntax) -> bool:
    """Whether the value of an expression is not known while postgres_fdw plans."""
    return any(isinstance(part, syntax.Parameter) and part.key == STAND_IN for part in parts(tree))


def call_arguments(call: SearchCall) -> dict[str, Syntax]:
    """Return the arguments of ``vecmirror.search`` by name; raise SqlError."""
    given: dict[str, Syntax] = dict(zip(_CALL_PARTS, call.arguments, strict=False))
    known = (*_CALL_PARTS, "recall_target", "min_lsn", "consistency")
    names = [name for name, _ in call.named]
    wrong = [name for name in names if name not in known or name in given]
    missing = [name for name in ("index", "query") if name not in {*given, *names}]
    if len(call.arguments) > len(_CALL_PARTS) or wrong or missing or len(set(names)) < len(names):
        raise SqlError(
            "42883",
            "vecmirror.search does not take these arguments",
            hint="vecmirror.search(index, query, k, filter, recall_target => .., min_lsn => .., "
            "consistency => ..)",
            position=call.position + 1,
        )
    return {**given, **dict(call.named)}


def _same(a: Syntax, b: Syntax) -> bool:
    """Whether two constants are written alike."""
    return _bare(a) == _bare(b)


def _bare(tree: Syntax) -> Syntax:
    """Return a tree without positions."""
    return replace(rewritten(tree, _without_position), position=0)


def _without_position(tree: Syntax) -> Syntax | None:
    return replace(tree, position=0) if tree.position and _is_leaf(tree) else None


def _is_leaf(tree: Syntax) -> bool:
    return isinstance(tree, (syntax.Number, syntax.String, syntax.Parameter, syntax.Keyword))


def _bound(tree: Syntax) -> tuple[str, Syntax] | None:
    """Return (operator, value) of ``distance < value``."""
    if not isinstance(tree, syntax.Binary):
        return None
    for column, value, operator in (
        (tree.left, tree.right, tree.operator),
        (tree.right, tree.left, _MIRRORED.get(tree.operator, "")),
    ):
        named = isinstance(column, syntax.Name) and column.name == distance_name(0)
        if named and operator in ("<", "<=") and is_constant(value):
            return operator, value
    return None


def _joined(conditions: list[Syntax]) -> Syntax | None:
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    return syntax.Junction(True, tuple(conditions), conditions[0].position)


def _no_expression(tree: Syntax, message: str, hint: str | None = None) -> SqlError:
    return SqlError("0A000", message, hint=hint, position=tree.position + 1)


def default_name(tree: Syntax) -> str:
    """Return the name that Postgres gives an output without an alias."""
    weak = "?column?"
    while isinstance(tree, (syntax.Cast, syntax.Collation)):
        # A cast names what has no name of its own.
        weak = tree.type if isinstance(tree, syntax.Cast) and weak == "?column?" else weak
        tree = tree.operand
    if isinstance(tree, (syntax.Function, syntax.Name)):
        return tree.name
    if isinstance(tree, (syntax.Case, syntax.Array)):
        return type(tree).__name__.lower()
    return "bool" if isinstance(tree, syntax.Keyword) and tree.value is not None else weak
