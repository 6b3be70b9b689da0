"""Random columns and random well-typed SQL expressions over them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pyarrow as pa

from pgsync.changes import ARROW_TYPES
from pgsync.table import ColumnSpec
from server.columns import ColumnCodec, ColumnView

N_ROWS = 90

#: Column name to type. Those named after extremes hold values at the ends of their type.
COLUMNS = {
    "b": "bool",
    "i2": "int2",
    "i4": "int4",
    "i8": "int8",
    "ends2": "int2",
    "ends4": "int4",
    "ends8": "int8",
    "f4": "float4",
    "f8": "float8",
    "ends_f4": "float4",
    "ends_f8": "float8",
    "t": "text",
    "t2": "text",
    "d": "date",
    "ts": "timestamp",
    "tz": "timestamptz",
    "u": "uuid",
    "a2": "int2[]",
    "a4": "int4[]",
    "a8": "int8[]",
    "ta": "text[]",
}

SQL_TYPES = {name: kind.replace("text", 'text COLLATE "C"') for name, kind in COLUMNS.items()}
SQL_TYPES["ta"] = 'text[] COLLATE "C"'

WORDS = [
    *("red", "Red", "RED", "green", "a%b", "a_b", "back\\slash", "o'neil", "", " ", "zz", "z"),
    *("Ünï", "ünï", "日本", "\U0001f600", "\ue000", "1", "-7", "12", "true", "a\nb", "aab", "aaab"),
]
PATTERNS = [
    *("%e%", "r_d", "R%", "a\\%b", "%\\_%", "%", "", "RED", "%n", "_", "__", "%a%b", "a%a%b"),
    *("\\", "a\\", "%\\", "%_\\", "red\\", "%e\\", "Ün_", "%\\\\%", "a_%b", "_%_", "%%d", "日%"),
]
ESCAPES = ["!", "", "\\", "_", "%", "a", "xx", "e"]
INTS = [0, 1, 2, 3, 5, 7, -1, -2, -7, 12, 100, 41]
FRACTIONS = ["0.1", "0.5", "1.5", "2.5", "-2.25", "1e3", ".25", "3.0", "0.10", "7.", "-0.5", "1e-3"]
SPECIAL_FLOATS = ["'NaN'", "'Infinity'", "'-inf'", "'0.1'", "'-0'", "'1e10'", "'16777217'"]
PRINTED = ["i2", "i4", "ends8", "b", "u", "f4", "f8", "ends_f4", "ends_f8", "d", "ts", "tz"]
UUIDS = [uuid.UUID(int=value) for value in (0, 1, 255, 2**64, 2**127, 2**128 - 1, 2**128 - 256)]
US_PER_DAY = 86_400_000_000
DAYS = [0, 1, -1, 59, 365, 9000, 9496, 9497, -730_119, 2_921_939, 2**31 - 1, -(2**31)]
TICKS = [
    *(0, 1, -1, 9496 * US_PER_DAY, 9496 * US_PER_DAY + 43_200_000_000, 500_000),
    *(9497 * US_PER_DAY - 1, -730_119 * US_PER_DAY, 2**63 - 1, -(2**63)),
]
MOMENTS = [
    *("2000-01-01", "2000-01-02", "2026-01-01", "2026-01-01 12:00:00", "infinity", "-infinity"),
    *("2026-01-01T00:00:00+02:00", "1999-12-31 23:59:59.999999", "2025-12-31 22:00Z", "20260101"),
    *("2024-02-29", "epoch", "0044-03-15 BC", "2026-01-01 00:00:00.5-0330", "10000-01-01"),
]


class Rows:
    """Random rows: as SQL parameters for Postgres and as ColumnViews for us."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.values = {name: [self._value(name) for _ in range(N_ROWS)] for name in COLUMNS}

    def views(self) -> dict[str, ColumnView]:
        """Return the columns as the server holds them."""
        return {name: self._view(name, values) for name, values in self.values.items()}

    @staticmethod
    def _view(name: str, values: list[Any]) -> ColumnView:
        kind = COLUMNS[name]
        array = pa.array(values, ARROW_TYPES[kind])
        return ColumnCodec(ColumnSpec(name, kind)).decode(array)

    def load(self, connection: psycopg.Connection) -> None:
        """Create the table ``fz`` and fill it."""
        columns = ", ".join(f"{name} {kind}" for name, kind in SQL_TYPES.items())
        # The planner tries patterns on what ANALYZE found, and fails where no row would.
        settings = "autovacuum_enabled = off"
        connection.execute(f"CREATE TABLE fz (id int8, {columns}) WITH ({settings})".encode())
        places = ", ".join(_placeholder(kind) for kind in COLUMNS.values())
        statement = f"INSERT INTO fz VALUES (%s, {places})".encode()
        with connection.cursor() as cursor:
            cursor.executemany(statement, list(self._parameters()))

    def _parameters(self) -> Iterator[list[Any]]:
        for row in range(N_ROWS):
            parameters: list[Any] = [row]
            for name, kind in COLUMNS.items():
                value = self.values[name][row]
                repeats = {"date": 3, "timestamp": 4, "timestamptz": 4}.get(kind, 1)
                shown = uuid.UUID(bytes=value) if kind == "uuid" and value else value
                parameters += [shown] * repeats
            yield parameters

    def _value(self, name: str) -> Any:
        if self.chance.random() < 0.15:
            return None
        kind = COLUMNS[name]
        if kind.endswith("[]"):
            count = self.chance.choice([0, 1, 1, 2, 3, 4])
            return [self._item(kind.removesuffix("[]")) for _ in range(count)]
        return self._scalar(name, kind)

    def _item(self, kind: str) -> Any:
        if self.chance.random() < 0.12:
            return None
        return self.chance.choice(WORDS if kind == "text" else INTS)

    def _scalar(self, name: str, kind: str) -> Any:
        bits = {"int2": 15, "int4": 31, "int8": 63}.get(kind)
        if bits and name.startswith("ends"):
            ends = (0, 1, -1, 2**bits - 1, -(2**bits), 2 ** (bits // 2), 2**bits - 2, 7)
            return self.chance.choice(ends)
        pools: dict[str, Sequence[Any]] = {
            "bool": [True, False],
            "text": WORDS,
            "date": DAYS,
            "timestamp": TICKS,
            "timestamptz": TICKS,
            "uuid": [value.bytes for value in UUIDS],
            "float4": [0.1, 0.5, 1.5, -2.25, 3.0, 0.0, 7.0],
            "float8": [0.1, 0.5, 1.5, -2.25, 3.0, 0.0, 7.0, 12.0],
        }
        if name == "ends_f4":
            pools["float4"] = [float("nan"), float("inf"), -float("inf"), 3e38, 1e-45, -0.0, 2.5]
        if name == "ends_f8":
            pools["float8"] = [float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, -0.0, 9e18]
        return self.chance.choice(pools.get(kind, INTS))


def _placeholder(kind: str) -> str:
    """Return SQL that makes a value of ``kind``; moments come as their integers, exactly."""
    if kind == "date":
        return (
            "CASE WHEN %s::int8 = 2147483647 THEN 'infinity'::date"
            " WHEN %s::int8 = -2147483648 THEN '-infinity'::date"
            " ELSE DATE '2000-01-01' + %s::int4 END"
        )
    if kind in ("timestamp", "timestamptz"):
        return (
            f"CASE WHEN %s::int8 = 9223372036854775807 THEN 'infinity'::{kind}"
            f" WHEN %s::int8 = -9223372036854775808 THEN '-infinity'::{kind}"
            f" ELSE {kind} '2000-01-01' + (%s::int8 / 86400000000) * INTERVAL '1 day'"
            " + (%s::int8 %% 86400000000) * INTERVAL '1 microsecond' END"
        )
    return f"%s::{kind}"


class Expressions:
    """Random well-typed SQL expressions over the columns."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.pick = chance.choice

    def predicate(self, depth: int) -> str:
        """Return a boolean expression."""
        makers: list[Callable[[int], str]] = [
            *([self._comparison] * 6),
            self._text_match,
            self._text_match,
            self._in_list,
            self._in_list,
            self._between,
            self._null_test,
            self._distinct,
            self._any_all,
            self._any_all,
            self._array_operator,
            self._array_operator,
            self._boolean,
        ]
        if depth > 0:
            makers += [*([self._junction] * 8), self._negation, self._negation, self._truth_test]
        return self.pick(makers)(depth - 1)

    def _maybe(self, likelihood: float) -> bool:
        return self.chance.random() < likelihood

    def _wrap(self, text: str) -> str:
        # Without parentheses the precedence of operators is compared too.
        return text if self._maybe(0.08) else f"({text})"

    def _junction(self, depth: int) -> str:
        word = self.pick([" AND ", " OR "])
        count = self.pick([2, 2, 3])
        return word.join(self._wrap(self.predicate(depth)) for _ in range(count))

    def _negation(self, depth: int) -> str:
        return f"NOT {self._wrap(self.predicate(depth))}"

    def _truth_test(self, depth: int) -> str:
        wanted = self.pick(["TRUE", "FALSE", "UNKNOWN", "NULL"])
        return f"{self._wrap(self.predicate(depth))} IS {self.pick(['', 'NOT '])}{wanted}"

    def _boolean(self, depth: int) -> str:
        plain = ["b", "true", "false", "NULL", "'t'", "i4::bool", "b IS NOT TRUE", "NOT b"]
        return self.pick(plain)

    def _comparison(self, depth: int) -> str:
        operator = self.pick(["=", "<>", "!=", "<", "<=", ">", ">="])
        left, right = self._operands(depth)
        if self._maybe(0.02):
            operator = f"OPERATOR(pg_catalog.{operator})"
        return f"{left} {operator} {right}"

    def _operands(self, depth: int) -> tuple[str, str]:
        """Return two expressions that compare, the first never an untyped literal."""
        family = self._family()
        return self._typed(family, depth), self.value(family, depth)

    def _family(self) -> str:
        return self.pick(["number"] * 8 + ["text"] * 4 + ["moment"] * 3 + ["uuid", "bool", "array"])

    def _typed(self, family: str, depth: int) -> str:
        makers: dict[str, Callable[[int], str]] = {
            "number": self._number,
            "text": self._text,
            "moment": self._moment,
            "uuid": lambda _: "u",
            "bool": lambda _: "b",
            "array": lambda _: self.pick(["a4", "ta", "a8"]),
        }
        return makers[family](depth)

    def value(self, family: str, depth: int) -> str:
        """Return an expression or an untyped literal."""
        if self._maybe(0.06):
            return "NULL"
        if self._maybe(0.75):
            return self._typed(family, depth)
        literals: dict[str, Callable[[], str]] = {
            "number": lambda: self.pick(["'1'", "'2'", "' 7 '", "'0x10'", "'-1'"]),
            "text": lambda: quoted(self.pick(WORDS)),
            "moment": lambda: quoted(self.pick(MOMENTS)),
            "uuid": lambda: quoted(str(self.pick(UUIDS))),
            "bool": lambda: self.pick(["'yes'", "'off'", "'tr'", "true", "false"]),
            "array": lambda: self.pick(["'{}'", "'{1,2}'", "'{1,NULL}'", "'{-7}'"]),
        }
        return literals[family]()

    def _number(self, depth: int) -> str:
        draw = self.chance.random()
        if depth > 0 and draw < 0.3:
            operator = self.pick(["+", "-", "*", "/", "%"])
            left, right = self._wrap(self._number(depth - 1)), self._wrap(self._number(depth - 1))
            return f"{left} {operator} {right}"
        if depth > 0 and draw < 0.45:
            return self._number_call(depth)
        if draw < 0.6:
            return str(self.pick([*INTS, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63), 2**63]))
        if draw < 0.7:
            return self.pick(FRACTIONS)
        if draw < 0.74:
            return self.pick(SPECIAL_FLOATS) + "::" + self.pick(["float8", "real"])
        ends = ["ends2", "ends4", "ends8", "ends_f4", "ends_f8"]
        return self.pick(["i2", "i4", "i8", "f4", "f8"] * 4 + ends)

    def _number_call(self, depth: int) -> str:
        inner = self._wrap(self._number(depth - 1))
        target = self.pick(["int2", "int", "bigint", "real", "double precision", "float8"])
        forms: list[Callable[[], str]] = [
            lambda: f"abs({inner})",
            lambda: f"- {inner}",
            lambda: f"length({self._text(depth - 1)})",
            lambda: f"{inner}::{target}",
            lambda: f"CAST({inner} AS {target})",
            lambda: f"coalesce({self._number(depth - 1)}, {inner})",
            lambda: self._case(lambda: self._number(depth - 1), depth),
            lambda: f"cardinality({self.pick(['a2', 'a4', 'a8', 'ta'])})",
            lambda: "b::int",
            lambda: f"t::{target}" if self._maybe(0.2) else "i4",
            lambda: self.pick(["d - DATE '2026-01-01'", "d - d", "'12'::text::int4"]),
            lambda: f"{self.pick(['i2', 'i4', 'i8'])}::numeric",
        ]
        return self.pick(forms)()

    def _case(self, value: Callable[[], str], depth: int) -> str:
        otherwise = f" ELSE {value()}" if self._maybe(0.7) else ""
        if self._maybe(0.3):
            operand, when = self._operands(0)
            return f"CASE {operand} WHEN {when} THEN {value()}{otherwise} END"
        branches = " ".join(
            f"WHEN {self.predicate(depth - 1)} THEN {value()}" for _ in range(self.pick([1, 2]))
        )
        return f"CASE {branches}{otherwise} END"

    def _text(self, depth: int) -> str:
        if depth > 0 and self._maybe(0.3):
            inner = self._text(depth - 1)
            forms: list[Callable[[], str]] = [
                lambda: f"upper({inner})",
                lambda: f"lower({inner})",
                lambda: f"{inner} || {self._text(depth - 1)}",
                lambda: self._case(lambda: self._text(depth - 1), depth),
                lambda: f"coalesce({inner}, {quoted(self.pick(WORDS))})",
                lambda: f"{self.pick(PRINTED)}::text",
                lambda: f'({inner}) COLLATE "C"',
            ]
            return self.pick(forms)()
        return self.pick(["t", "t2", "t", "t2", quoted(self.pick(WORDS)) + "::text"])

    def _moment(self, depth: int) -> str:
        if depth > 0 and self._maybe(0.35):
            forms: list[Callable[[], str]] = [
                lambda: f"d + {self.pick(['i4', 'i2', '1'])}",
                lambda: f"d - {self.pick(['i4', '3'])}",
                lambda: "i4 + d",
                lambda: f"{self._moment(0)}::{self.pick(['date', 'timestamp', 'timestamptz'])}",
                lambda: self._case(lambda: self._moment(0), depth),
            ]
            return self.pick(forms)()
        kind = self.pick(["date", "timestamp", "timestamptz", "timestamp with time zone"])
        literal = quoted(self.pick(MOMENTS))
        return self.pick(["d", "ts", "tz", "d", "ts", "tz", f"{kind} {literal}"])

    def _text_match(self, depth: int) -> str:
        operand = self._text(depth)
        pattern = quoted(self.pick(PATTERNS)) if self._maybe(0.9) else "t2"
        if self._maybe(0.2):
            return f"{operand} {self.pick(['~~', '~~*', '!~~', '!~~*'])} {pattern}"
        word = self.pick(["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE"])
        if self._maybe(0.15):
            patterns = ", ".join(quoted(self.pick(PATTERNS[:13])) for _ in range(2))
            return f"{operand} {word} {self.pick(['ANY', 'ALL'])} (ARRAY[{patterns}])"
        escape = f" ESCAPE {quoted(self.pick(ESCAPES))}" if self._maybe(0.25) else ""
        return f"{operand} {word} {pattern}{escape}"

    def _in_list(self, depth: int) -> str:
        family = self.pick(["number", "number", "text", "moment", "uuid", "bool"])
        operand = self._typed(family, depth)
        items = ", ".join(self.value(family, 0) for _ in range(self.pick([1, 2, 3, 5])))
        return f"{operand} {self.pick(['', 'NOT '])}IN ({items})"

    def _between(self, depth: int) -> str:
        family = self.pick(["number", "text", "moment"])
        operand = self._typed(family, depth)
        low, high = self.value(family, 0), self.value(family, 0)
        words = f"{self.pick(['', 'NOT '])}BETWEEN {self.pick(['', '', 'SYMMETRIC '])}"
        return f"{operand} {words}{low} AND {high}"

    def _null_test(self, depth: int) -> str:
        operand = self._wrap(self._typed(self._family(), depth))
        return f"{operand} {self.pick(['IS NULL', 'IS NOT NULL', 'ISNULL', 'NOTNULL'])}"

    def _distinct(self, depth: int) -> str:
        left, right = self._operands(depth)
        return f"{left} IS {self.pick(['', 'NOT '])}DISTINCT FROM {right}"

    def _any_all(self, depth: int) -> str:
        operator = self.pick(["=", "=", "<>", "<", "<=", ">", ">="])
        word = self.pick(["ANY", "SOME", "ALL"])
        if self._maybe(0.5):
            family = self.pick(["number", "text"])
            columns = {"number": ["a2", "a4", "a8"], "text": ["ta"]}[family]
            return f"{self.value(family, depth)} {operator} {word} ({self.pick(columns)})"
        family = self.pick(["number", "text", "moment", "uuid"])
        items = ", ".join(self._typed(family, 0) for _ in range(self.pick([1, 2, 4])))
        array = f"ARRAY[{items}]"
        if self._maybe(0.4):
            array = {
                "number": "'{1,2,NULL,7}'",
                "text": '\'{red,"a_b",zz,""}\'',
                "moment": "'{2000-01-01,\"2026-01-01 12:00\",infinity}'",
                "uuid": f"'{{{UUIDS[1]},{UUIDS[4]}}}'",
            }[family]
        array = self.pick([array, array, array, "'{}'", "NULL"])
        return f"{self._typed(family, depth)} {operator} {word} ({array})"

    def _array_operator(self, depth: int) -> str:
        name = self.pick(["a2", "a4", "a8", "ta", "ta"])
        kind = COLUMNS[name]
        other = self.pick([name, self._array_literal(kind), self._array_literal(kind)])
        operator = self.pick(["&&", "@>", "<@", "=", "<>"])
        sides = [name, other] if self._maybe(0.6) else [other, name]
        return f"{sides[0]} {operator} {sides[1]}"

    def _array_literal(self, kind: str) -> str:
        if kind == "text[]":
            items = [self.pick([quoted(self.pick(WORDS)), "NULL", "t"]) for _ in range(2)]
            array = f"ARRAY[{', '.join(items)}]::text[]"
            return self.pick([array, "'{}'", "'{red,zz}'", "ARRAY[t]"])
        items = [str(self.pick(INTS)), self.pick(["NULL", "i2", "1"])]
        return self.pick([f"ARRAY[{', '.join(items)}]::{kind}", "'{}'", "'{1,2}'", "'{7}'"])


def quoted(text: str) -> str:
    """Return a string literal; sometimes the tests need one that standard quoting cannot show."""
    if "\n" in text:
        return "E'" + text.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"
    return "'" + text.replace("'", "''") + "'"
