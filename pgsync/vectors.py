"""Vector columns: binary values of all rows at once to a state per row and an array f32|f16[n, d].

Forms (pgvector's send functions, and Postgres' array_send): ``vector`` and ``halfvec`` are u16 dim,
u16 0, dim floats; ``sparsevec`` is i4 dim, i4 count, i4 0, the zero-based indices, the values;
arrays carry a header of 20 bytes per dimension one and a length before each element.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .changes import VectorState
from .columns import walk_array
from .fields import UNCHANGED, Fields, gather, join
from .table import VectorType

Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[Any]
#: Returns which rows have exactly d components without NULLs, and the vectors of those rows.
Reader = Callable[[Fields, int], tuple[Mask, Vectors]]


def decode_vectors(
    vector_type: VectorType, dim: int, fields: Fields
) -> tuple[npt.NDArray[np.uint8], Vectors]:
    """Return VectorState u8[n] and the vectors [n, dim], zero where the state is not PRESENT.

    Vectors of halfvec columns are float16, all others float32; a float8 value beyond float32 counts
    as not finite. Raises DecodeError for values that are not of the type.
    """
    present = fields.present
    fits, values = _READERS[vector_type](fields.pick(present), dim)
    finite = _finite(values)
    states = np.full(len(present), VectorState.NULL, np.uint8)
    states[fields.lengths == UNCHANGED] = VectorState.UNCHANGED
    found = np.full(len(fits), VectorState.WRONG_DIMENSION, np.uint8)
    found[fits] = np.where(finite, VectorState.PRESENT, VectorState.NOT_FINITE)
    states[present] = found
    good = states == VectorState.PRESENT
    if good.all():
        return states, values
    vectors = np.zeros((len(present), dim), values.dtype)
    vectors[good] = values[finite]
    return states, vectors


def _finite(values: Vectors) -> Mask:
    if values.dtype == np.float16:  # comparing bits: NumPy has no fast float16 arithmetic
        return np.asarray(((values.view(np.uint16) & 0x7C00) != 0x7C00).all(axis=1))
    return np.asarray(np.isfinite(values).all(axis=1))


def _read_dense(fields: Fields, dim: int, *, name: str, wire: str) -> tuple[Mask, Vectors]:
    header = np.dtype([("dim", ">u2"), ("zero", ">u2")])
    short = fields.lengths < header.itemsize
    if short.any():
        raise fields.error(name, short, "a value without a header")
    headers = gather(fields.data, fields.starts, header)
    dims = headers["dim"].astype(np.int64)
    component = np.dtype(wire)
    broken = (fields.lengths != header.itemsize + component.itemsize * dims) | (
        headers["zero"] != 0
    )
    if broken.any():
        raise fields.error(name, broken, "a length that does not match the dimension")
    fits = dims == dim
    starts = fields.starts[fits] + header.itemsize
    items = gather(fields.data, starts, [("v", wire, (dim,))])
    return fits, items["v"].astype(component.newbyteorder("="))


def _read_sparse(fields: Fields, dim: int) -> tuple[Mask, Vectors]:
    header = np.dtype([("dim", ">i4"), ("count", ">i4"), ("zero", ">i4")])
    short = fields.lengths < header.itemsize
    if short.any():
        raise fields.error("sparsevec", short, "a value without a header")
    headers = gather(fields.data, fields.starts, header)
    counts = headers["count"].astype(np.int64)
    broken = (counts < 0) | (fields.lengths != header.itemsize + 8 * counts)
    broken |= headers["zero"] != 0
    if broken.any():
        raise fields.error("sparsevec", broken, "a length that does not match the element count")
    fits = np.asarray(headers["dim"] == dim)
    starts = fields.starts[fits] + header.itemsize
    return fits, _densify(Fields(fields.data, starts, counts[fits]), dim)


def _densify(elements: Fields, dim: int) -> Vectors:
    """Return f32[n, dim] from indices and values; ``lengths`` counts the elements of each row."""
    counts, width = elements.lengths, 4 * elements.lengths
    indices = np.frombuffer(join(Fields(elements.data, elements.starts, width)), ">i4")
    values = np.frombuffer(join(Fields(elements.data, elements.starts + width, width)), ">f4")
    rows = np.repeat(np.arange(len(counts)), counts)
    outside = (indices < 0) | (indices >= dim)
    if outside.any():
        bad = np.zeros(len(counts), np.bool_)
        bad[rows[outside]] = True
        raise elements.error("sparsevec", bad, "an index outside the dimension")
    vectors = np.zeros((len(counts), dim), np.float32)
    vectors[rows, indices] = values
    return vectors


def _read_array(
    fields: Fields, dim: int, *, name: str, wire: str, element_oid: int
) -> tuple[Mask, Vectors]:
    value = np.dtype([("length", ">i4"), ("v", wire)])
    names = ("n_dimensions", "has_nulls", "oid", "dim", "lower_bound")
    whole = np.dtype([*((field, ">i4") for field in names), ("elements", value, (dim,))])
    fits = fields.lengths == whole.itemsize
    items = gather(fields.data, fields.starts[fits], whole)
    plain = (items["n_dimensions"] == 1) & (items["oid"] == element_oid) & (items["dim"] == dim)
    plain &= (items["elements"]["length"] == np.dtype(wire).itemsize).all(axis=1)
    fits[fits] = plain
    _check_arrays(fields.pick(~fits), name, np.dtype(wire).itemsize, element_oid)
    with np.errstate(over="ignore"):
        return fits, items["elements"]["v"][plain].astype(np.float32)


def _check_arrays(fields: Fields, name: str, width: int, element_oid: int) -> None:
    """Raise DecodeError unless these are arrays, if not vectors: NULLs, other lengths, matrices."""
    octets = fields.octets
    for start, length in zip(fields.starts.tolist(), fields.lengths.tolist(), strict=True):
        starts: list[int] = []
        lengths: list[int] = []
        value = octets[start : start + length]
        walk_array(name, value, start, frozenset({element_oid}), starts, lengths)
        wrong = np.array([size not in (-1, width) for size in lengths], np.bool_)
        if wrong.any():
            elements = Fields(fields.data, np.array(starts), np.array(lengths))
            raise elements.error(name, wrong, f"an element that is not {width} bytes long")


_READERS: dict[VectorType, Reader] = {
    "vector": partial(_read_dense, name="vector", wire=">f4"),
    "halfvec": partial(_read_dense, name="halfvec", wire=">f2"),
    "sparsevec": _read_sparse,
    "float4[]": partial(_read_array, name="float4[]", wire=">f4", element_oid=700),
    "float8[]": partial(_read_array, name="float8[]", wire=">f8", element_oid=701),
}
