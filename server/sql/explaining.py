"""EXPLAIN: the price by which postgres_fdw's planner chooses what to send us.

With ``use_remote_estimate`` it asks for the price of each form that a query could take and reads
``(cost=start..total rows=n width=bytes)`` of the first line. A search is cheap, cheaper still with
its LIMIT; reading without a query vector is dear; what we do not serve is dearer than anything that
the other side could do by itself, so that it is never sent.
"""

from __future__ import annotations

import weakref
from dataclasses import replace

from server.filters import FilterError, syntax
from server.filters.syntax import Syntax
from server.state import MirrorState

from .binding import bind, constant
from .errors import SqlError
from .hits import count
from .parameters import Values
from .plans import Plan, conjuncts, has_stand_in, reads_distances
from .tables import TableColumn

#: Start of a search that ends by itself, and of one that goes on; the whole of the others.
_LIMITED, _ENDLESS, _WITHOUT_QUERY, _UNSERVED = 1.0, 10.0, 1e6, 1e12
#: One row looked up by its key: postgres_fdw would ask for each row of the other side of a join,
#: and how many there are is its guess. A search that goes on answers all of them in one.
_LOOK_UP = 1e3
_A_ROW, _A_READ_ROW = 0.01, 10.0
#: Share of the rows that a condition keeps whose constant is not known yet.
_UNKNOWN_SHARE = 0.1
_ROWS_OF_UNKNOWN_LIMIT = 10
_TEXT_BYTES, _NUMBER_BYTES = 32, 8

UNSERVED_LINE = f"Foreign Scan  (cost={_UNSERVED:.2f}..{_UNSERVED:.2f} rows=1 width=8)"


def explain(plan: Plan, values: Values, state: MirrorState) -> str:
    """Return the line that says what a plan costs. Evaluates the filter: run it in a thread."""
    try:
        rows = 1 if plan.counting else _rows(plan, values, state)
    except FilterError:
        return UNSERVED_LINE
    width = sum(_width(plan.table.columns.get(output.name)) for output in plan.outputs) or 8
    start, total = _price(plan, rows)
    return (
        f"Foreign Scan on {plan.table.name}  "
        f"(cost={start:.2f}..{total:.2f} rows={rows} width={width})"
    )


def known_price(plan: Plan, state: MirrorState) -> str | None:
    """Return what ``explain`` said of a plan without values, if the same rows are alive still.

    The other side asks the same of each statement that it plans anew.
    """
    rows, counts, line = plan.memo.get("price", (lambda: None, None, None))
    found: str | None = line
    return found if rows() is state.index.rows and counts == _counts(state) else None


def keep_price(plan: Plan, state: MirrorState, line: str) -> None:
    """Remember what ``explain`` said of a plan without values."""
    plan.memo["price"] = weakref.ref(state.index.rows), _counts(state), line


def _counts(state: MirrorState) -> tuple[int, int]:
    """Return what changes with every row that comes or goes."""
    return state.n_rows, state.index.live_rows


def _price(plan: Plan, rows: int) -> tuple[float, float]:
    """Return the cost before the first row and that of all."""
    if plan.counting:
        return _UNSERVED, _UNSERVED
    if not plan.searching or (plan.order and not plan.by_distance):
        return _WITHOUT_QUERY, _WITHOUT_QUERY + rows * _A_READ_ROW
    start = _ENDLESS if plan.limit is None else _LIMITED
    if _key_lookup(plan) and any(map(has_stand_in, conjuncts(plan.condition))):
        start = _LOOK_UP
    return start, start + rows * _A_ROW


def _rows(plan: Plan, values: Values, state: MirrorState) -> int:
    """Return how many rows a plan finds: exactly, if all its constants are known."""
    known, share = _known(plan)
    live = state.index.live_rows
    try:
        bound = bind(known, {**values, 0: None}, sampling=True)
        found = 0 if bound.nothing else count(state, replace(bound, limit=None, offset=0))
    except SqlError as error:
        # A vector that is not there yet, or a mistake that the query itself will tell.
        if error.sqlstate not in ("22004", "42P02"):
            raise
        found = live
    rows = round(found * share) if share < 1 else found
    if _key_lookup(plan):
        rows = min(rows, 1)
    limit = _limit(plan, values)
    return max(1, rows if limit is None else min(rows, limit))


def _limit(plan: Plan, values: Values) -> int | None:
    """Return the rows that k and LIMIT leave."""
    ends = []
    for tree in (plan.light.get("k"), plan.limit):
        if tree is None:
            continue
        if has_stand_in(tree):
            ends.append(_ROWS_OF_UNKNOWN_LIMIT)
            continue
        value = constant(tree, values, "int8")
        if isinstance(value, int):
            ends.append(value)
    return min(ends, default=None)


def _known(plan: Plan) -> tuple[Plan, float]:
    """Return the plan without what is not known yet, and the share that the rest keeps."""
    searching = plan.searching and not any(map(has_stand_in, plan.vectors))
    unknown = 0
    conditions: list[Syntax] = []
    for tree in conjuncts(plan.condition):
        if has_stand_in(tree) or (not searching and reads_distances(tree)):
            unknown += 1
        else:
            conditions.append(tree)
    bounds = tuple(bound for bound in plan.bounds if not has_stand_in(bound[1]))
    light = {
        name: tree
        for name, tree in plan.light.items()
        if name not in ("query", "min_lsn") and not has_stand_in(tree)
    }
    condition: Syntax | None = None
    if conditions:
        condition = syntax.Junction(True, tuple(conditions), conditions[0].position)
    known = replace(
        plan,
        condition=condition,
        bounds=bounds if searching else (),
        light={name: tree for name, tree in light.items() if name != "k"},
        minimum_lsn=(),
        limit=None,
        offset=None,
        vectors=plan.vectors if searching else (),
        searching=searching,
        counting=True,
    )
    return known, _UNKNOWN_SHARE**unknown


def _key_lookup(plan: Plan) -> bool:
    """Whether a condition fixes the whole key, as in a join by it."""
    fixed = {
        side.name
        for tree in conjuncts(plan.condition)
        if isinstance(tree, syntax.Binary) and tree.operator == "="
        for side in (tree.left, tree.right)
        if isinstance(side, syntax.Name)
    }
    return set(plan.table.key) <= fixed


def _width(column: TableColumn | None) -> int:
    """Return about how many bytes a column's values take."""
    if column is None:
        return _NUMBER_BYTES
    if column.type.name in ("vector", "halfvec"):
        return 4 * column.typmod + 8
    return _NUMBER_BYTES if column.type.size > 0 else _TEXT_BYTES
