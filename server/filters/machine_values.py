"""Values of filters as the 64-bit numbers that programs compute with (``gpu.filter_program``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu.arrays import I64, Bool

from .compare import ticks
from .literals import Value
from .sqltypes import FLOATS, INTEGERS, MOMENTS
from .values import Values, sequence

#: Types whose values are one number each; all others have no place on a program's stack.
MACHINE_TYPES = ("bool", *INTEGERS, *FLOATS, *MOMENTS)

_MAGNITUDE = np.int64(2**63 - 1)
_INFINITY = np.int64(0x7FF0 << 48)


def numbers(values: Values) -> I64:
    """Return values of a machine type as i64[n]; floats as the bits of float64."""
    if values.type in FLOATS:
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return values.data.astype(np.float64).view(np.int64)
    return values.data.astype(np.int64)


def float_keys(bits: I64) -> I64:
    """Return numbers in the order of float64 ``bits``: NaN is the greatest, -0 equals 0."""
    size = bits & _MAGNITUDE
    keys = np.where(bits < 0, bits ^ _MAGNITUDE, bits)
    keys = np.where(size == 0, 0, keys)
    return np.where(size > _INFINITY, _MAGNITUDE, keys)


def comparison_keys(values: Values, other: str) -> I64:
    """Return numbers i64[n] in the order in which values compare with those of type ``other``."""
    if values.type in FLOATS:
        return float_keys(numbers(values))
    if values.type != other and values.type in MOMENTS:
        return ticks(values).astype(np.int64)
    return numbers(values)


def number(type_name: str, value: Value) -> int:
    """Return one value of a machine type as a number."""
    return int(numbers(sequence(type_name, (value,)))[0])


def uuid_words(items: Sequence[bytes]) -> I64:
    """Return sorted uuids as i64[2 n], the high and the low word of each."""
    joined = b"".join(item.ljust(16, b"\0") for item in items)
    return np.frombuffer(joined, ">u8").astype(np.uint64).view(np.int64)


def bit_words(flags: Bool) -> I64:
    """Return bool[n] as i64[ceil(n / 64)], bit i & 63 of word i >> 6."""
    packed = np.packbits(flags, bitorder="little")
    return np.pad(packed, (0, -len(packed) % 8)).view("<i8").astype(np.int64)


def spread(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return an array of ``rows`` values; one that stands for all is repeated."""
    return np.ascontiguousarray(np.broadcast_to(array, rows))
