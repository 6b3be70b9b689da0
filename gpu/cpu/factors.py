"""From table sums to scores: biases and gains of 64 rows."""

from __future__ import annotations

from typing import Any

from numba import types

from .jit import emitted
from .layout import BLOCK
from .simd import V16F, load_halves, multiply_add, number, store


def scores_of(b: Any, sums: list[Any], factors: Any, of_query: dict[str, Any]) -> list[Any]:
    """Return scores without the base of 64 rows, in four vectors; ``factors``: their address."""
    scores = []
    for part, total in enumerate(sums):
        bias = load_halves(b, b.add(factors, number(32 * part)))
        gain = load_halves(b, b.add(factors, number(2 * BLOCK + 32 * part)))
        estimate = multiply_add(b, b.sitofp(total, V16F), of_query["slope"], of_query["offset"])
        scores.append(multiply_add(b, gain, estimate, b.fmul(bias, of_query["unit"])))
    return scores


@emitted
def widen_halves(typing: Any, halves: Any, out: Any) -> Any:
    """Write 16 float16 as float32."""

    def emit(context: Any, b: Any, signature: Any, args: Any) -> Any:
        store(b, load_halves(b, args[0]), args[1])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), emit
