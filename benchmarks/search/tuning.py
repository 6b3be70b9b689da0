"""Finding the settings that reach a recall; which of them is fastest a clock has to tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .engines import Limits, Setting

#: Breadths tried, as multiples of the smallest one that can reach the recall at all.
STEPS = (1.0, 1.04, 1.09, 1.15, 1.22, 1.32, 1.45, 1.7)


def smallest(low: int, high: int, good: Callable[[int], bool]) -> int | None:
    """Return the smallest number of [low, high] that is good, None if none is; bisection."""
    if not good(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle + 1, high)
    return low


def candidates(recall: Callable[[Setting], float], limits: Limits, target: float) -> list[Setting]:
    """Return settings that reach ``target``, none of which is worse than another in both ways."""
    (narrow, wide), (shallow, deep) = limits

    def reaches(breadth: int, depth: int) -> bool:
        return recall(Setting(breadth, depth)) >= target

    first = smallest(narrow, wide, lambda breadth: reaches(breadth, deep))
    if first is None:
        return []
    found: list[Setting] = []
    for step in STEPS:
        breadth = min(round(first * step), wide)
        depth = smallest(shallow, deep, partial(reaches, breadth))
        if depth is not None and all(depth < other.depth for other in found):
            found.append(Setting(breadth, depth))
    return found
