"""Parameters of a statement: which types they have, and their values for expressions.

A parameter's type is what the client fixed, else what it is cast to, else that of the column it is
compared with; text where nothing tells (Postgres' documentation, section 10.2, does likewise).
"""

from __future__ import annotations

import uuid
from array import array
from collections.abc import Hashable, Iterator, Mapping, Sequence
from hashlib import blake2b

import numpy as np

from server.filters import Typed, syntax
from server.filters.sqltypes import SCALARS, element_of
from server.filters.syntax import Syntax, parts

from .errors import SqlError
from .expressions import METRICS
from .lifting import FIRST_LIFTED
from .plans import call_arguments
from .statements import SearchCall, Select, Star
from .tables import LIGHT, IndexTable
from .types import INT4, INT8, TEXT, VECTOR, type_named, type_of

#: Canonical names of the types that clients see under another name.
_AS_TEXT = {"varchar": "text", "bpchar": "text", "name": "text"}
Values = Mapping[int, object]

#: Longest text that is compared as it is.
_SHORT_CHARACTERS = 200


def canonical(oid: int) -> str | None:
    """Return the filter language's name of a type, None if it has none."""
    known = type_of(oid)
    if known is None:
        return None
    if known.element_oid:
        element = canonical(known.element_oid)
        return None if element is None else f"{element}[]"
    name = _AS_TEXT.get(known.name, known.name)
    return name if name in SCALARS else None


def parameter_oids(
    trees: Sequence[tuple[Syntax, int]], table: IndexTable | None, fixed: Sequence[int]
) -> tuple[int, ...]:
    """Return the type of $1, $2, ..; ``trees`` come with the type a bare parameter in them has."""
    found: dict[int, int] = {}
    for tree, expected in trees:
        _note(found, tree, expected)
        for part in parts(tree):
            _infer(found, part, table)
    places = [
        part.key
        for tree, _ in trees
        for part in parts(tree)
        if isinstance(part, syntax.Parameter) and isinstance(part.key, int)
    ]
    count = max([place for place in places if place < FIRST_LIFTED], default=0)
    count = max(count, len(fixed))
    given = [*fixed, *([0] * (count - len(fixed)))]
    return tuple(oid or found.get(place, TEXT) for place, oid in enumerate(given, 1))


def select_trees(select: Select) -> Iterator[tuple[Syntax, int]]:
    """Yield the expressions of a SELECT with the type that a bare parameter there has."""
    for output in select.outputs:
        if not isinstance(output.value, Star):
            yield output.value, TEXT
    if isinstance(select.source, SearchCall):
        expected = {"index": TEXT, "query": VECTOR, "k": INT4, "filter": TEXT}
        for name, tree in call_arguments(select.source).items():
            known = type_named(LIGHT.get(name) or "text")
            assert known is not None
            yield tree, expected.get(name, known.oid)
    if select.where is not None:
        yield select.where, TEXT
    for key in select.order:
        yield key.value, TEXT
    for count in (select.limit, select.offset):
        if count is not None:
            yield count, INT8


def _note(found: dict[int, int], tree: Syntax, oid: int) -> None:
    if isinstance(tree, syntax.Parameter) and isinstance(tree.key, int) and oid:
        found.setdefault(tree.key, oid)


def _infer(found: dict[int, int], tree: Syntax, table: IndexTable | None) -> None:
    match tree:
        case syntax.Cast(operand, type_name):
            known = type_named(type_name)
            _note(found, operand, known.oid if known else 0)
        case syntax.Binary(operator, left, right) | syntax.Distinct(left, right, _, operator):
            for side, other in ((left, right), (right, left)):
                distance = isinstance(operator, str) and operator in METRICS
                _note(found, side, VECTOR if distance else _oid(other, table))
        case syntax.Membership(operand, items):
            for item in items:
                _note(found, item, _oid(operand, table))
        case syntax.Range(operand, low, high):
            for side in (low, high):
                _note(found, side, _oid(operand, table))
        case syntax.Quantified(_, left, array):
            known = type_of(_oid(left, table))
            _note(found, array, known.array_oid if known else 0)
            known = type_of(_oid(array, table))
            _note(found, left, known.element_oid if known else 0)


def _oid(tree: Syntax, table: IndexTable | None) -> int:
    """Return the type of a column, a cast or a distance; 0 for anything else."""
    match tree:
        case syntax.Name(name) if table is not None and name in table.columns:
            return table.columns[name].type.oid
        case syntax.Cast(_, type_name):
            known = type_named(type_name)
            return known.oid if known else 0
        case syntax.Binary(operator) if operator in METRICS:
            known = type_named("float8")
            return known.oid if known else 0
    return 0


def values_of(oids: Sequence[int], parameters: Sequence[object], lifted: Sequence[str]) -> Values:
    """Return parameters and lifted literals by number, in the form that filters take."""
    if len(parameters) != len(oids):
        message = f"{len(parameters)} parameters were sent, the statement has {len(oids)}"
        raise SqlError("08P01", message)
    values: dict[int, object] = {
        place: typed_value(oid, value)
        for place, (oid, value) in enumerate(zip(oids, parameters, strict=True), 1)
    }
    values.update(enumerate(lifted, FIRST_LIFTED))
    return values


def unknown_values(oids: Sequence[int], lifted: int) -> Values:
    """Return what stands for the values while only types matter."""
    values: dict[int, object] = {0: None}
    values.update((place, typed_value(oid, None)) for place, oid in enumerate(oids, 1))
    values.update((FIRST_LIFTED + place, None) for place in range(lifted))
    return values


def typed_value(oid: int, value: object) -> object:
    """Return a decoded parameter in the form that filters take.

    Text stays without a type, like a literal, for drivers send text for whatever they have.
    """
    kind = canonical(oid)
    if kind is None or kind == "text":
        return value
    if value is not None and element_of(kind) == "uuid":
        return Typed(kind, _uuid(value))
    return Typed(kind, _value(value))


def _uuid(value: object) -> object:
    if isinstance(value, (tuple, list)):
        return tuple(None if item is None else _uuid(item) for item in value)
    return value.bytes if isinstance(value, uuid.UUID) else value


def _value(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def parameters_in(tree: Syntax) -> tuple[int, ...]:
    """Return the numbers of the parameters, lifted literals and stand-ins in an expression."""
    found = {
        part.key
        for part in parts(tree)
        if isinstance(part, syntax.Parameter) and isinstance(part.key, int)
    }
    return tuple(sorted(found))


def items_of(value: object) -> int:
    """Return how many items a value of ``values_of`` has, if it is an array."""
    inner = value.value if isinstance(value, Typed) else value
    return len(inner) if isinstance(inner, tuple) else 0


def meaning_of(value: object) -> Hashable:
    """Return what tells values of ``values_of`` apart: short, however long the value is.

    By type and by what is written: numbers that are equal need not mean the same (-0, 1 and 1.0).
    """
    kind, inner = (value.type, value.value) if isinstance(value, Typed) else ("", value)
    if type(inner) is int or (type(inner) is str and len(inner) <= _SHORT_CHARACTERS):
        return kind, inner
    return kind, type(inner), blake2b(_written(inner), digest_size=16).digest()


def _written(value: object) -> bytes:
    if isinstance(value, tuple):
        try:
            return array("q", value).tobytes()
        except (TypeError, OverflowError):
            pass  # NULLs, or no integers
    if isinstance(value, np.ndarray):
        return value.tobytes()
    return repr(value).encode(errors="surrogatepass")
