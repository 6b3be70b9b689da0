"""Literals and parameters to values of a type, by the rules of Postgres' input functions.

A value is None, bool, int (integers; moments in Postgres' units), float, Decimal, str, 16 bytes
(uuid), or a tuple of these (arrays). Messages never repeat the literal: it may be private.
"""

from __future__ import annotations

import datetime
import math
import re
import uuid
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import numpy as np

from . import moments
from .errors import FEATURE_NOT_SUPPORTED, INVALID_TEXT, OUT_OF_RANGE, FilterError
from .exact import check_numeric
from .sqltypes import INTEGER_BOUNDS, INTEGERS, element_of, is_array, spoken
from .tokens import check_text

Value = bool | int | float | Decimal | str | bytes | tuple["Value | None", ...]

#: Items of one array literal or array parameter: a set of ids as large as an index may be.
MAX_ARRAY_ITEMS = 10_000_000

_INTEGER = re.compile(
    r"([+-]?)(0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+|\d(?:_?\d)*)", re.ASCII
)
_HEX_FLOAT = re.compile(
    r"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?\d+)?", re.ASCII
)
_FLOAT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NUMERIC = re.compile(
    r"[+-]?(?:\d(?:_?\d)*\.?(?:\d(?:_?\d)*)?|\.\d(?:_?\d)*)(?:[eE][+-]?\d(?:_?\d)*)?", re.ASCII
)
_NOT_FINITE = {"nan": math.nan}
_NOT_FINITE |= {sign + word: math.inf for sign in ("", "+") for word in ("inf", "infinity")}
_NOT_FINITE |= {"-" + word: -math.inf for word in ("inf", "infinity")}
_UUID = re.compile(r"(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}")
_BOOLEANS = {"on": True, "1": True, "of": False, "off": False, "0": False}
_BOOLEANS |= {word[:n]: word == "true" for word in ("true", "false") for n in range(1, 6)}
_BOOLEANS |= {word[:n]: word == "yes" for word in ("yes", "no") for n in range(1, 4)}
# Possessive, so that a long run of blanks is looked at once.
_ITEM = re.compile(
    r'\s*+(?:"((?:[^"\\]|\\.)*+)"\s*+|((?:[^"\\{},]|\\.)*+))([,}])', re.DOTALL | re.ASCII
)
_WHITESPACE = " \t\n\r\f\v"

#: Binary exponents at which a float32 rounds to infinity.
_FLOAT4_END = 2.0**128 - 2.0**103


def from_text(type_name: str, text: str, position: int) -> Value:
    """Return what the literal ``text`` means as a value of ``type_name``; raise FilterError."""
    if is_array(type_name):
        return _array_from_text(type_name, text, position)
    return _READERS[type_name](text, position)


def from_python(type_name: str, value: object, position: int) -> Value | None:
    """Return a parameter as a value of ``type_name``; raise FilterError.

    Strings are read like literals, so that JSON can carry dates, uuids and large integers.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return from_text(type_name, check_text(value, position), position)
    if is_array(type_name) and isinstance(value, (list, tuple)):
        _check_items(len(value), position)
        inner = element_of(type_name)
        return tuple(from_python(inner, item, position) for item in value)
    converted = _convert(type_name, value, position)
    if converted is None:
        raise FilterError(
            f"a parameter of Python type {type(value).__name__} is no {spoken(type_name)}",
            position,
            INVALID_TEXT,
            "cast the parameter to say which type it has: $1::float8",
        )
    return converted


def natural_type(value: object) -> str | None:
    """Return the type of a parameter that has no context; None if that does not show it."""
    for python, name in _NATURAL:
        if isinstance(value, python):
            return name
    if isinstance(value, int):
        return "int4" if -(2**31) <= value < 2**31 else "int8"
    return None


def float4_from_text(text: str, position: int) -> float:
    """Return the float32 nearest to a decimal number, as a Python float."""
    return _narrow(_float_from_text(text, position, "float4"), text, position)


_NATURAL: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (float, "float8"),
    (str, "text"),
    (Decimal, "numeric"),
    (datetime.datetime, "timestamptz"),
    (datetime.date, "date"),
    (uuid.UUID, "uuid"),
)


def _convert(  # noqa: PLR0911 - one per Python type
    type_name: str, value: object, position: int
) -> Value | None:
    """Return a value that is not a string; None if its Python type does not fit."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value) if type_name == "bool" else None
    if isinstance(value, (int, np.integer)):
        return _from_int(type_name, int(value), position)
    if isinstance(value, (float, np.floating, Decimal)):
        exact = value if isinstance(value, Decimal) else float(value)
        return _from_fraction(type_name, exact, position)
    if isinstance(value, datetime.datetime) and type_name in ("timestamp", "timestamptz"):
        return moments.timestamp_from_python(value, with_zone=type_name == "timestamptz")
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        days = moments.date_from_python(value)
        if type_name == "date":
            return days
        return days * moments.US_PER_DAY if type_name in ("timestamp", "timestamptz") else None
    if isinstance(value, uuid.UUID) and type_name == "uuid":
        return value.bytes
    return None


def _from_int(type_name: str, value: int, position: int) -> Value | None:
    if type_name in INTEGERS:
        return _check_integer(type_name, value, position)
    if type_name in ("float4", "float8", "numeric"):
        if abs(value) > 10**1000:
            raise FilterError("number out of range", position, OUT_OF_RANGE)
        return from_text(type_name, str(value), position)
    return None


def _from_fraction(type_name: str, value: float | Decimal, position: int) -> Value | None:
    if type_name in ("float4", "float8", "numeric"):
        return from_text(type_name, str(value), position)
    # JSON knows no integers: 3.0 is one.
    if type_name in INTEGERS and math.isfinite(value) and value == int(value):
        return _check_integer(type_name, int(value), position)
    return None


def _invalid(type_name: str, position: int) -> FilterError:
    message = f"invalid input syntax for type {spoken(type_name)}"
    return FilterError(message, position, INVALID_TEXT)


def _check_integer(type_name: str, value: int, position: int) -> int:
    bound = INTEGER_BOUNDS[type_name]
    if not -bound <= value < bound:
        raise FilterError(
            f"value out of range for type {spoken(type_name)}", position, OUT_OF_RANGE
        )
    return value


def _integer_from_text(type_name: str) -> Callable[[str, int], int]:
    def read(text: str, position: int) -> int:
        match = _INTEGER.fullmatch(text.strip(_WHITESPACE))
        if match is None:
            raise _invalid(type_name, position)
        digits = match[2].replace("_", "").lstrip("0") or "0"
        _check_length(len(digits), position)
        base = {"x": 16, "o": 8, "b": 2}.get(digits[0].lower(), 10)
        value = int(digits[1:] if base != 10 else digits, base)
        return _check_integer(type_name, -value if match[1] == "-" else value, position)

    return read


def _check_length(digits: int, position: int) -> None:
    """Refuse what no bigint can be: it has 63 binary digits, and int() of a million is slow."""
    if digits > 66:
        raise FilterError("value out of range", position, OUT_OF_RANGE)


def _float_from_text(text: str, position: int, type_name: str = "float8") -> float:
    word = text.strip(_WHITESPACE)
    if word.lower() in _NOT_FINITE:
        return _NOT_FINITE[word.lower()]
    if _HEX_FLOAT.fullmatch(word):
        return _hex_float(word, position)
    if not _FLOAT.fullmatch(word):
        raise _invalid(type_name, position)
    value = float(word)
    if math.isinf(value) or (value == 0 and _has_digits(word)):
        message = f"value out of range for type {spoken(type_name)}"
        raise FilterError(message, position, OUT_OF_RANGE)
    return value


def _hex_float(word: str, position: int) -> float:
    try:
        return float.fromhex(word)
    except OverflowError as error:
        raise FilterError("number out of range", position, OUT_OF_RANGE) from error


def _has_digits(number: str) -> bool:
    """Whether a decimal number has a digit other than 0 before its exponent."""
    return bool(set(re.split("[eE]", number)[0]) & set("123456789"))


def _narrow(value: float, text: str, position: int) -> float:
    """Round to float32 once: by way of a double that lies half-way it would be twice."""
    if not math.isfinite(value) or value == 0:
        return value
    if abs(value) >= _FLOAT4_END:
        raise FilterError("value out of range for type real", position, OUT_OF_RANGE)
    nearest = np.float32(value)
    with np.errstate(over="ignore"):  # next to the largest is infinity
        other = np.nextafter(nearest, np.float32(math.inf if value > float(nearest) else -math.inf))
    if value * 2 == float(nearest) + float(other) and _FLOAT.fullmatch(text.strip(_WHITESPACE)):
        exact = Decimal(text.strip(_WHITESPACE))
        if exact != Decimal(value):
            above = exact > Decimal(value)
            nearest = max(nearest, other) if above else min(nearest, other)
    if nearest == 0:
        raise FilterError("value out of range for type real", position, OUT_OF_RANGE)
    return float(nearest)


def _numeric_from_text(text: str, position: int) -> Decimal:
    word = text.strip(_WHITESPACE)
    if word.lower() in _NOT_FINITE:
        raise FilterError("numeric has no NaN or infinity here", position, FEATURE_NOT_SUPPORTED)
    if (match := _INTEGER.fullmatch(word)) and match[2][1:2].isalpha():
        digits = match[2].replace("_", "")
        _check_length(len(digits), position)
        return Decimal(int(match[1] + digits, 0))
    if not _NUMERIC.fullmatch(word):
        raise _invalid("numeric", position)
    try:
        return check_numeric(Decimal(word.replace("_", "")), position)
    except InvalidOperation as error:
        raise FilterError("value overflows numeric format", position, OUT_OF_RANGE) from error


def _bool_from_text(text: str, position: int) -> bool:
    word = text.strip(_WHITESPACE).lower()
    if word not in _BOOLEANS:
        raise _invalid("bool", position)
    return _BOOLEANS[word]


def _uuid_from_text(text: str, position: int) -> bytes:
    bare = text[1:-1] if text[:1] == "{" and text[-1:] == "}" else text
    if not _UUID.fullmatch(bare):
        raise _invalid("uuid", position)
    return bytes.fromhex(bare.replace("-", ""))


def _array_from_text(type_name: str, text: str, position: int) -> tuple[Value | None, ...]:
    """Read '{1,NULL,"a b"}' (Postgres' documentation, section 8.15.2), one dimension."""
    word = text.strip(_WHITESPACE)
    if word.startswith("[") or word.replace(" ", "").startswith("{{"):
        message = "arrays in a filter have one dimension that starts at 1"
        raise FilterError(message, position, FEATURE_NOT_SUPPORTED)
    if not word.startswith("{"):
        raise _malformed(position)
    if word[1:].strip(_WHITESPACE) == "}":
        return ()
    inner, items, at, closed = element_of(type_name), [], 1, False
    while not closed:
        match = _ITEM.match(word, at)
        if match is None:
            raise _malformed(position)
        items.append(_item(inner, match, position))
        at, closed = match.end(), match[3] == "}"
        _check_items(len(items), position)
    if at != len(word):
        raise _malformed(position)
    return tuple(items)


def _item(type_name: str, match: re.Match[str], position: int) -> Value | None:
    quoted, bare = match[1], match[2]
    if quoted is not None:
        return from_text(type_name, re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL), position)
    bare = bare.strip(_WHITESPACE) if "\\" not in bare else bare
    if not bare:
        raise _malformed(position)
    if bare.upper() == "NULL":
        return None
    return from_text(type_name, re.sub(r"\\(.)", r"\1", bare, flags=re.DOTALL), position)


def _malformed(position: int) -> FilterError:
    return FilterError("malformed array literal", position, INVALID_TEXT, "write {a,b,NULL}")


def _check_items(count: int, position: int) -> None:
    if count > MAX_ARRAY_ITEMS:
        raise FilterError(f"an array may have {MAX_ARRAY_ITEMS} items", position, "54000")


_READERS: dict[str, Callable[[str, int], Value]] = {
    **{name: _integer_from_text(name) for name in INTEGERS},
    "bool": _bool_from_text,
    "float4": float4_from_text,
    "float8": _float_from_text,
    "numeric": _numeric_from_text,
    "text": check_text,
    "uuid": _uuid_from_text,
    "date": moments.date_from_text,
    "timestamp": lambda text, at: moments.timestamp_from_text(text, at, with_zone=False),
    "timestamptz": lambda text, at: moments.timestamp_from_text(text, at, with_zone=True),
}
