"""The types of the SQL port: name, OID, Python value, text and binary form.

| type | Python value |
|---|---|
| boolean | bool |
| smallint integer bigint oid pg_lsn | int |
| date | int: days since 2000-01-01, as ColumnView; infinities: ends of int4 |
| timestamp timestamptz | int: microseconds since 2000-01-01; infinities: ends of int8 |
| real double precision | float |
| numeric | Decimal, finite |
| text varchar bpchar name "char" unknown void | str |
| uuid | uuid.UUID |
| vector halfvec | f32[d], f16[d] |
| T[] | tuple (a list can be written, too); None for NULL |

OIDs are Postgres' own (pg_type.dat). pgvector's types get theirs when the extension is created, so
ours are our choice, from the range that Postgres leaves to users; clients look them up by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .errors import SqlError
from .wire import binary_forms as binary
from .wire import text_forms as text
from .wire import vector_forms as vectors

BOOL, CHAR, NAME, INT8, INT2, INT4, TEXT, OID = 16, 18, 19, 20, 21, 23, 25, 26
FLOAT4, FLOAT8, UNKNOWN, BPCHAR, VARCHAR, DATE = 700, 701, 705, 1042, 1043, 1082
TIMESTAMP, TIMESTAMPTZ, NUMERIC, VOID, UUID, PG_LSN = 1114, 1184, 1700, 2278, 2950, 3220
VECTOR, HALFVEC = 16_400, 16_402

Read = Callable[[bytes], Any]
Write = Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class SqlType:
    """One type. ``name`` is pg_type.typname, ``spoken`` what format_type shows.

    ``size`` is pg_type.typlen (-1: varies). ``array_oid`` is 0 where there are no arrays of it,
    ``element_oid`` 0 where it is no array itself. Readers raise SqlError.
    """

    name: str
    spoken: str
    oid: int
    size: int
    read_text: Read
    write_text: Write
    read_binary: Read
    write_binary: Write
    array_oid: int = 0
    element_oid: int = 0


def type_of(oid: int) -> SqlType | None:
    """Return the type with this OID, None where we have none."""
    return BY_OID.get(oid)


def type_named(name: str) -> SqlType | None:
    """Return the type that SQL calls ``name`` in lower case: int4, integer, _int4, integer[]."""
    return _BY_NAME.get(name)


def from_text(oid: int, literal: str) -> Any:
    """Return the value of a literal of a type; raise SqlError (22P02 and its like)."""
    return BY_OID[oid].read_text(literal.encode())


def to_text(oid: int, value: Any) -> str:
    """Return a value that is not NULL as Postgres shows it."""
    return BY_OID[oid].write_text(value).decode()


def _number(name: str, spoken: str, oid: int, code: str, array_oid: int) -> SqlType:
    """Return an integer or float; ``code`` as in struct."""
    size = {"h": 2, "i": 4, "q": 8, "f": 4, "d": 8}[code]
    floats = {"f": (text.write_float4, binary.write_float4), "d": (text.write_float8, None)}
    write_text, write_binary = floats.get(code, (text.write_int, None))
    whole = code not in floats
    return SqlType(
        name,
        spoken,
        oid,
        size,
        text.integer_reader(name) if whole else text.literal_reader(name),
        write_text,
        binary.packed_reader(spoken, code),
        write_binary or binary.packed_writer(code),
        array_oid,
    )


def _string(name: str, spoken: str, oid: int, size: int, array_oid: int) -> SqlType:
    read, write = text.text_of, text.write_text
    return SqlType(name, spoken, oid, size, read, write, read, write, array_oid)


def _moment(name: str, spoken: str, oid: int, write: Write, array_oid: int) -> SqlType:
    code = "i" if name == "date" else "q"
    read, read_binary = text.literal_reader(name), binary.packed_reader(spoken, code)
    size = 4 if name == "date" else 8
    writer = binary.packed_writer(code)
    return SqlType(name, spoken, oid, size, read, write, read_binary, writer, array_oid)


def _vector(name: str, oid: int, dtype: str) -> SqlType:
    return SqlType(
        name,
        name,
        oid,
        -1,
        vectors.text_reader(name, dtype),
        vectors.write_text,
        vectors.binary_reader(name, ">" + dtype),
        vectors.binary_writer(">" + dtype),
        oid + 1,
    )


def _read_void(raw: bytes) -> str:
    raise SqlError("0A000", "cannot accept a value of type void")


_SCALARS = (
    SqlType(
        "bool",
        "boolean",
        BOOL,
        1,
        text.literal_reader("bool"),
        text.write_bool,
        binary.read_bool,
        binary.write_bool,
        1000,
    ),
    _number("int2", "smallint", INT2, "h", 1005),
    _number("int4", "integer", INT4, "i", 1007),
    _number("int8", "bigint", INT8, "q", 1016),
    _number("float4", "real", FLOAT4, "f", 1021),
    _number("float8", "double precision", FLOAT8, "d", 1022),
    _string("text", "text", TEXT, -1, 1009),
    _string("varchar", "character varying", VARCHAR, -1, 1015),
    _string("bpchar", "character", BPCHAR, -1, 1014),
    _string("name", "name", NAME, 64, 1003),
    _string("char", '"char"', CHAR, 1, 1002),
    _string("unknown", "unknown", UNKNOWN, -2, 0),
    _moment("date", "date", DATE, text.write_date, 1182),
    _moment("timestamp", "timestamp without time zone", TIMESTAMP, text.write_timestamp, 1115),
    _moment("timestamptz", "timestamp with time zone", TIMESTAMPTZ, text.write_timestamptz, 1185),
    SqlType(
        "oid",
        "oid",
        OID,
        4,
        text.read_oid,
        text.write_int,
        binary.packed_reader("oid", "I"),
        binary.packed_writer("I"),
        1028,
    ),
    SqlType(
        "numeric",
        "numeric",
        NUMERIC,
        -1,
        text.literal_reader("numeric"),
        text.write_numeric,
        binary.read_numeric,
        binary.write_numeric,
        1231,
    ),
    SqlType(
        "uuid",
        "uuid",
        UUID,
        16,
        text.read_uuid,
        text.write_uuid,
        binary.read_uuid,
        binary.write_uuid,
        2951,
    ),
    SqlType(
        "pg_lsn",
        "pg_lsn",
        PG_LSN,
        8,
        text.read_lsn,
        text.write_lsn,
        binary.packed_reader("pg_lsn", "Q"),
        binary.packed_writer("Q"),
        3221,
    ),
    SqlType("void", "void", VOID, 4, _read_void, text.write_void, _read_void, text.write_void),
    _vector("vector", VECTOR, "f4"),
    _vector("halfvec", HALFVEC, "f2"),
)

#: NumPy types of the items that long arrays have: read without a step for each item.
_ITEM_DTYPES = {"int2": ">i2", "int4": ">i4", "int8": ">i8", "float4": ">f4", "float8": ">f8"}


def _arrays() -> Iterator[SqlType]:
    for item in _SCALARS:
        if item.array_oid:
            whole = item.name in ("int2", "int4", "int8")
            yield SqlType(
                f"_{item.name}",
                f"{item.spoken}[]",
                item.array_oid,
                -1,
                text.integer_array_reader(item.name)
                if whole
                else text.array_reader(item.read_text),
                text.array_writer(item.write_text),
                binary.array_reader(
                    f"{item.spoken}[]", item.oid, item.read_binary, _ITEM_DTYPES.get(item.name)
                ),
                binary.array_writer(item.oid, item.write_binary),
                element_oid=item.oid,
            )


TYPES: tuple[SqlType, ...] = (*_SCALARS, *_arrays())
BY_OID: dict[int, SqlType] = {known.oid: known for known in TYPES}

#: Other names that SQL has for the types.
_ALIASES = {
    "int": "int4",
    "decimal": "numeric",
    "dec": "numeric",
    "float": "float8",
    "char varying": "varchar",
    "timestamp with time zone": "timestamptz",
}
_BY_NAME: dict[str, SqlType] = {known.spoken: known for known in TYPES}
_BY_NAME |= {known.name: known for known in TYPES}
_BY_NAME |= {f"{known.name}[]": BY_OID[known.array_oid] for known in _SCALARS if known.array_oid}
_BY_NAME |= {alias: _BY_NAME[name] for alias, name in _ALIASES.items()}
_BY_NAME |= {f"{alias}[]": _BY_NAME[f"{name}[]"] for alias, name in _ALIASES.items()}
