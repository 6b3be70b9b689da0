"""The types a filter knows: Postgres' names for them, their families and implicit casts.

``numeric`` exists between literals and operators only: no column has it.
"""

from __future__ import annotations

from server.columns import DTYPES as COLUMN_DTYPES

INTEGERS = ("int2", "int4", "int8")
FLOATS = ("float4", "float8")
NUMBERS = (*INTEGERS, "numeric", *FLOATS)
MOMENTS = ("date", "timestamp", "timestamptz")
SCALARS = ("bool", *NUMBERS, "text", *MOMENTS, "uuid")

#: NumPy type of the values of each scalar type. uuid is S16: fixed 16 bytes, ordered as memcmp
#: orders them. text and numeric hold codes of words.
DTYPES: dict[str, str] = {**COLUMN_DTYPES, "uuid": "S16", "numeric": "<i4"}

#: Smallest and largest value of the integer types.
INTEGER_BOUNDS = {"int2": 2**15, "int4": 2**31, "int8": 2**63}

#: Names that Postgres accepts for the types, folded, without type modifiers.
ALIASES: dict[str, str] = {
    **{name: name for name in SCALARS},
    "boolean": "bool",
    "smallint": "int2",
    "integer": "int4",
    "int": "int4",
    "bigint": "int8",
    "real": "float4",
    "float": "float8",
    "double precision": "float8",
    "decimal": "numeric",
    "dec": "numeric",
    "varchar": "text",
    "character varying": "text",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}

#: What messages call a type.
_SPOKEN = {
    "bool": "boolean",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
}

#: Postgres' type category of each scalar and the preferred type of each category (pg_type).
_CATEGORY = {
    **dict.fromkeys(NUMBERS, "N"),
    **dict.fromkeys(MOMENTS, "D"),
    "bool": "B",
    "text": "S",
    "uuid": "U",
}
_PREFERRED = {"float8", "timestamptz", "bool", "text"}

#: Types each type is cast to without being asked (pg_cast, castcontext 'i').
_IMPLICIT = {
    "int2": {"int4", "int8", "numeric", "float4", "float8"},
    "int4": {"int8", "numeric", "float4", "float8"},
    "int8": {"numeric", "float4", "float8"},
    "numeric": {"float4", "float8"},
    "float4": {"float8"},
    "date": {"timestamp", "timestamptz"},
    "timestamp": {"timestamptz"},
}

#: Explicit casts beyond the implicit ones and those through text.
_EXPLICIT = {
    *((a, b) for a in NUMBERS for b in NUMBERS),
    *((a, b) for a in MOMENTS for b in MOMENTS),
    ("bool", "int4"),
    ("int4", "bool"),
}


def spoken(type_name: str) -> str:
    """Return the name that Postgres' messages give a type."""
    if is_array(type_name):
        return spoken(element_of(type_name)) + "[]"
    return _SPOKEN.get(type_name, type_name)


def is_array(type_name: str) -> bool:
    """Whether it is an array type."""
    return type_name.endswith("[]")


def element_of(type_name: str) -> str:
    """Return the type of an array's elements."""
    return type_name.removesuffix("[]")


def array_of(type_name: str) -> str:
    """Return the type of arrays of it."""
    return type_name + "[]"


def casts_implicitly(source: str, target: str) -> bool:
    """Whether Postgres turns ``source`` into ``target`` on its own."""
    if is_array(source) and is_array(target):
        return casts_implicitly(element_of(source), element_of(target))
    return source == target or target in _IMPLICIT.get(source, ())


def casts_explicitly(source: str, target: str) -> bool:
    """Whether CAST turns ``source`` into ``target``."""
    if is_array(source) or is_array(target):
        both = is_array(source) and is_array(target)
        return both and casts_explicitly(element_of(source), element_of(target))
    return source == target or "text" in (source, target) or (source, target) in _EXPLICIT


def depends_on_settings(a: str, b: str) -> bool:
    """Whether comparing or casting between two types depends on DateStyle or TimeZone."""
    a, b = element_of(a), element_of(b)
    crosses = a != b and "timestamptz" in (a, b)
    return crosses or ("text" in (a, b) and (a in MOMENTS or b in MOMENTS))


def common_type(types: list[str | None]) -> str | None:
    """Return the type that IN, CASE and ARRAY give their items; None if they do not match.

    None among ``types`` is a literal of unknown type; only such make text (Postgres'
    documentation, section 10.5).
    """
    chosen: str | None = None
    for candidate in types:
        if candidate is None or candidate == chosen:
            continue
        if chosen is None:
            chosen = candidate
        elif _category(candidate) != _category(chosen):
            return None
        elif _widens(chosen, candidate):
            chosen = candidate
    return chosen or "text"


def _category(type_name: str) -> str:
    return "A" if is_array(type_name) else _CATEGORY[type_name]


def _widens(chosen: str, candidate: str) -> bool:
    forth, back = casts_implicitly(chosen, candidate), casts_implicitly(candidate, chosen)
    return chosen not in _PREFERRED and forth and not back
