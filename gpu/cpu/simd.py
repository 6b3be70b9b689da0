"""Words to write vector code with: LLVM types, loads, broadcasts, reductions, plain memory access.

Vectors are 16 float32 or int32 wide. What is written here is generic LLVM, which becomes one
AVX-512, two AVX2 or four NEON instructions; instructions of one machine lie with their kernel.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .features import FLAVOUR
from .jit import emitted

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64, F16 = ir.FloatType(), ir.DoubleType(), ir.HalfType()
V16F, V16I, V16H = (ir.VectorType(kind, 16) for kind in (F32, I32, F16))
V8D = ir.VectorType(F64, 8)
V64B, V32B, V16B = (ir.VectorType(I8, lanes) for lanes in (64, 32, 16))
V16S = ir.VectorType(I16, 16)

#: From LLVM 22 on vpdpbusd takes bytes; older ones took them as 32-bit words.
BYTES_IN_DOT = llvmlite.binding.llvm_version_info[0] >= 22


def number(value: int) -> Any:
    """Return an int64 constant."""
    return ir.Constant(I64, value)


def splat(vector: Any, value: float) -> Any:
    """Return a constant vector of one value."""
    return ir.Constant(vector, [value] * vector.count)


def function(b: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Declare an LLVM function."""
    signature = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(b.module, signature, name)


def pointer(b: Any, address: Any, kind: Any) -> Any:
    """Return an int64 address as a pointer to ``kind``."""
    return b.inttoptr(address, kind.as_pointer())


def load(b: Any, address: Any, kind: Any) -> Any:
    """Load ``kind`` from an int64 address, whatever its alignment."""
    value = b.load(pointer(b, address, kind))
    value.align = 1
    return value


def store(b: Any, value: Any, address: Any) -> None:
    """Store ``value`` at an int64 address, whatever its alignment."""
    b.store(value, pointer(b, address, value.type)).align = 1


def moved(b: Any, address: Any, index: Any, step: int) -> Any:
    """Return ``address + step * index``."""
    return b.add(address, b.mul(index, number(step)))


def broadcast(b: Any, value: Any, vector: Any) -> Any:
    """Return ``value`` in every lane."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = b.insert_element(nothing, value, ir.Constant(I32, 0))
    return b.shuffle_vector(first, nothing, splat(ir.VectorType(I32, vector.count), 0))


def shuffled(b: Any, one: Any, two: Any, lanes: list[int]) -> Any:
    """Return the given lanes of ``one`` and ``two`` joined."""
    return b.shuffle_vector(one, two, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x y + z, in one rounding where the machine can."""
    suffix = f"v{x.type.count}f{64 if x.type == V8D else 32}"
    return b.call(function(b, f"llvm.fmuladd.{suffix}", x.type, [x.type] * 3), [x, y, z])


def folded(b: Any, vector: Any, join: Any) -> Any:
    """Reduce a vector to a scalar with ``join(b, lower half, upper half)``."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        lower = shuffled(b, vector, vector, list(range(lanes)))
        upper = shuffled(b, vector, vector, list(range(lanes, 2 * lanes)))
        vector = join(b, lower, upper)
    return b.extract_element(vector, ir.Constant(I32, 0))


def smaller(b: Any, x: Any, y: Any) -> Any:
    """Return the smaller of two; the second where one is NaN."""
    return b.select(b.fcmp_ordered("<", x, y), x, y)


def larger(b: Any, x: Any, y: Any) -> Any:
    """Return the larger of two; the second where one is NaN."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def load_halves(b: Any, address: Any) -> Any:
    """Load 16 float16 as float32. Without such an instruction: by integers; infinity is 65,536."""
    if FLAVOUR != "portable":
        return b.fpext(load(b, address, V16H), V16F)
    bits = b.zext(load(b, address, V16S), V16I)
    magnitude = b.shl(b.and_(bits, splat(V16I, 0x7FFF)), splat(V16I, 13))
    value = b.fmul(b.bitcast(magnitude, V16F), splat(V16F, 2.0**112))
    sign = b.shl(b.and_(bits, splat(V16I, 0x8000)), splat(V16I, 16))
    return b.bitcast(b.or_(b.bitcast(value, V16I), sign), V16F)


def accumulator(b: Any, vector: Any, value: float = 0) -> Any:
    """Make a variable of the function, set to ``value`` here."""
    variable = cgutils.alloca_once(b, vector)
    b.store(splat(vector, value), variable)
    return variable


def _peek(kind: Any, signed: bool) -> Any:
    """Read an integer as int64: mixed types would become float64."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        value = load(b, args[0], kind)
        if kind == I64:
            return value
        return b.sext(value, I64) if signed else b.zext(value, I64)

    return types.int64(types.intp), emit


def _poke(kind: Any) -> Any:
    """Write the low bits of an int64."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        store(b, args[1] if kind == I64 else b.trunc(args[1], kind), args[0])
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), emit


@emitted
def peek_i64(typing: Any, at: Any) -> Any:
    """Read an int64."""
    return _peek(I64, signed=True)


@emitted
def poke_i64(typing: Any, at: Any, value: Any) -> Any:
    """Write an int64."""
    return _poke(I64)


@emitted
def peek_i32(typing: Any, at: Any) -> Any:
    """Read an int32."""
    return _peek(I32, signed=True)


@emitted
def poke_i32(typing: Any, at: Any, value: Any) -> Any:
    """Write an int32."""
    return _poke(I32)


@emitted
def peek_u16(typing: Any, at: Any) -> Any:
    """Read two bytes."""
    return _peek(I16, signed=False)


@emitted
def poke_u16(typing: Any, at: Any, value: Any) -> Any:
    """Write two bytes."""
    return _poke(I16)


@emitted
def peek_u8(typing: Any, at: Any) -> Any:
    """Read a byte."""
    return _peek(I8, signed=False)


@emitted
def poke_u8(typing: Any, at: Any, value: Any) -> Any:
    """Write a byte."""
    return _poke(I8)


@emitted
def peek_f32(typing: Any, at: Any) -> Any:
    """Read a float32."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return load(b, args[0], F32)

    return types.float32(types.intp), emit


@emitted
def poke_f32(typing: Any, at: Any, value: Any) -> Any:
    """Write a float32."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        store(b, args[1], args[0])
        return context.get_dummy_value()

    return types.void(types.intp, types.float32), emit


@emitted
def prefetch(typing: Any, at: Any) -> Any:
    """Ask for the cache line at an address, into the second-level cache; any address is allowed."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        fetch = function(b, "llvm.prefetch.p0", ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        hints = [ir.Constant(I32, hint) for hint in (0, 2, 1)]
        b.call(fetch, [pointer(b, args[0], I8), *hints])
        return context.get_dummy_value()

    return types.void(types.intp), emit


@emitted
def hold(typing: Any, *arrays: Any) -> Any:
    """Keep arrays alive up to here: numba frees one after its last use, its address is no use."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return types.void(types.StarArgTuple.from_types(arrays)), emit
