"""pgvector's vector and halfvec: text ``[1,2,3]``, binary u16 dim, u16 0, big-endian floats.

Source: pgvector, src/vector.c and src/halfvec.c. Values are f32[d] and f16[d].
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable
from math import isfinite

import numpy as np
import orjson
from numpy.typing import NDArray

from server.sql.errors import SqlError

from .binary_forms import broken
from .text_forms import INVALID_TEXT, OUT_OF_RANGE, write_float4

Vector = NDArray[np.floating]

#: pgvector's VECTOR_MAX_DIM and HALFVEC_MAX_DIM.
MAX_DIM = 16_000

_HEADER = struct.Struct("!HH")
#: An integer to JSON, which has only one zero.
_MINUS_ZERO = re.compile(rb"-0+(?![0-9.eE])")
_NUMBER_BYTES = b"0123456789+-.eE, \t\n\r\f\v"
#: float4out writes an exponent below the first and from the second on; orjson later.
_FIXED_FROM, _FIXED_TO = 1e-4, 1e6


def text_reader(name: str, dtype: str) -> Callable[[bytes], Vector]:
    """Return the reader of ``[1,2,3]``."""

    def read(raw: bytes) -> Vector:
        if dtype == "f4" and (plain := _plain(raw)) is not None:
            return plain
        numbers = _numbers(raw, name)
        if not numbers:
            raise SqlError("22000", f"{name} must have at least 1 dimension")
        if len(numbers) > MAX_DIM:
            raise SqlError("54000", f"{name} cannot have more than {MAX_DIM} dimensions")
        with np.errstate(over="ignore"):
            vector = np.asarray(numbers, np.float64).astype(dtype)
        if not np.isfinite(vector).all():
            raise SqlError(OUT_OF_RANGE, f"a component is out of range for type {name}")
        return vector

    return read


def _plain(raw: bytes) -> NDArray[np.float32] | None:
    """Read what most vectors are, a JSON list of finite numbers; None for anything else.

    Numbers are read as float64 and rounded to float32 once, as on the long way. That has JSON's
    integer -0, too, whose sign is lost here.
    """
    try:
        numbers = orjson.loads(raw)
        # Letters that true and false have: JSON's only values that pass for numbers.
        if type(numbers) is not list or b"u" in raw or b"s" in raw:
            return None
        if 0 in numbers and _MINUS_ZERO.search(raw):
            return None
        vector = np.frombuffer(array("f", numbers), np.float32)
    except (orjson.JSONDecodeError, TypeError, OverflowError):
        return None
    # A sum of squares that is finite has finite terms; others take the long way.
    return vector if 0 < len(vector) <= MAX_DIM and isfinite(np.vdot(vector, vector)) else None


def _numbers(raw: bytes, name: str) -> list[float]:
    """Return the components; what JSON calls no number but C does is read one by one."""
    if raw.translate(None, _NUMBER_BYTES) == b"[]" and len(raw) > 2:
        try:
            found = orjson.loads(raw)
            if isinstance(found, list) and not _MINUS_ZERO.search(raw):
                return found
        except orjson.JSONDecodeError:
            pass
        trimmed = raw.strip(b" \t\n\r\f\v")
        if trimmed[:1] == b"[" and trimmed[-1:] == b"]":
            try:
                return [float(word) for word in trimmed[1:-1].split(b",")]
            except ValueError:
                pass
    elif raw.strip() == b"[]":
        return []
    message = f"invalid input syntax for type {name}"
    raise SqlError(INVALID_TEXT, message, hint="write [1,2,3]")


def write_text(vector: Vector) -> bytes:
    """Write ``[1,2,3]``, each component with the fewest digits that read back as it."""
    narrow = np.ascontiguousarray(vector, np.float32)
    text = orjson.dumps(narrow, option=orjson.OPT_SERIALIZE_NUMPY)
    text = text.replace(b".0,", b",").replace(b".0]", b"]")
    sizes = np.abs(narrow)
    unlike = ((sizes < _FIXED_FROM) & (sizes != 0)) | ~(sizes < _FIXED_TO)
    if unlike.any():
        words = text[1:-1].split(b",")
        for at in np.flatnonzero(unlike).tolist():
            words[at] = write_float4(narrow[at])
        text = b"[" + b",".join(words) + b"]"
    return text


def binary_reader(name: str, dtype: str) -> Callable[[bytes], Vector]:
    """Return the reader of the binary form; ``dtype`` is big-endian."""
    wire = np.dtype(dtype)

    def read(raw: bytes) -> Vector:
        if len(raw) < _HEADER.size:
            raise broken(name)
        dim, unused = _HEADER.unpack_from(raw)
        if unused or not 0 < dim <= MAX_DIM or len(raw) != _HEADER.size + dim * wire.itemsize:
            raise broken(name)
        vector = np.frombuffer(raw, wire, dim, _HEADER.size).astype(wire.newbyteorder("="))
        if not np.isfinite(vector).all():
            raise SqlError("22000", f"NaN and infinite values are not allowed in {name}")
        return vector

    return read


def binary_writer(dtype: str) -> Callable[[Vector], bytes]:
    """Return the writer of the binary form; ``dtype`` is big-endian."""

    def write(vector: Vector) -> bytes:
        return _HEADER.pack(len(vector), 0) + np.asarray(vector).astype(dtype).tobytes()

    return write
