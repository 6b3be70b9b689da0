"""Plan: how many lists to probe and how many rows to re-rank for a recall target.

Measured at training time with held-out rows against exact search, stored with the codec: for some
k, without a filter and under filters that keep given shares of the rows at random. Between them
the plan is straight in logarithms. A filter that keeps fewer rows than any measured makes the k-th
match a neighbour further out: it is searched as the smallest measured share for more neighbours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

#: Without any measurement: lists to probe as multiples of sqrt(nlist), for recall 0.95 and 0.99.
#: Measured needs were 0.8 to 1.8 and 2 to 7.
GUESS_PROBES, GUESS_PROBES_HIGH = 2.0, 5.0
DEFAULT_TARGET = 0.95
#: Choices remembered: searches repeat themselves, and a choice takes as long as a kernel's call.
MOST_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Step:
    """For ``k`` neighbours with recall ``target`` it takes this ``nprobe`` and ``rerank``.

    Measured under a filter that keeps ``share`` of the rows; 1: without one.
    """

    k: int
    target: float
    nprobe: int
    rerank: int
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Measured steps; every k and share has the same targets. An empty plan guesses."""

    nlist: int
    steps: tuple[Step, ...] = ()
    _chosen: dict[tuple[int, float | None, float], tuple[int, int]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def choose(self, k: int, target: float | None, share: float = 1.0) -> tuple[int, int]:
        """Return (nprobe, rerank) for k neighbours among the rows a filter of ``share`` keeps."""
        asked = (k, target, share)
        chosen = self._chosen.get(asked)
        if chosen is None:
            if len(self._chosen) >= MOST_REMEMBERED:
                self._chosen.clear()
            chosen = self._chosen[asked] = self._choose(k, target, share)
        return chosen

    def _choose(self, k: int, target: float | None, share: float) -> tuple[int, int]:
        goal = DEFAULT_TARGET if target is None else target
        shares = sorted({step.share for step in self.steps}) or [1.0]
        share = min(max(share, 1e-9), shares[-1])
        if share in shares:
            nprobe, rerank = self._at(goal, share, k, k)
        elif share < shares[0]:
            nprobe, rerank = self._at(goal, shares[0], k * shares[0] / share, k)
        else:
            low, high = next(pair for pair in pairwise(shares) if share <= pair[1])
            few, many = self._at(goal, low, k, k), self._at(goal, high, k, k)
            part = math.log(share / low) / math.log(high / low)
            nprobe, rerank = (a * (b / a) ** part for a, b in zip(few, many, strict=True))
        return min(max(1, math.ceil(nprobe)), self.nlist), max(k, math.ceil(rerank))

    def _at(self, goal: float, share: float, reach: float, k: int) -> tuple[float, float]:
        """Return (nprobe for ``reach`` neighbours, rerank for ``k``) at one measured share."""
        curve = self._curve(goal, share)
        nprobe = _interpolated([(step.k, step.nprobe) for step in curve], reach)
        return nprobe, _interpolated([(step.k, step.rerank) for step in curve], k)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that lies in the file header."""
        return {"nlist": self.nlist, "steps": [asdict(step) for step in self.steps]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """Rebuild from ``to_json``."""
        return cls(data["nlist"], tuple(Step(**step) for step in data["steps"]))

    def _curve(self, goal: float, share: float) -> list[Step]:
        """Return the steps of the lowest measured target that is not below ``goal``, by k."""
        steps = [step for step in self.steps if step.share == share]
        targets = sorted({step.target for step in steps})
        if not targets:
            return _guess(self.nlist, goal)
        chosen = next((target for target in targets if target >= goal), targets[-1])
        return sorted((s for s in steps if s.target == chosen), key=lambda step: step.k)


def _guess(nlist: int, goal: float) -> list[Step]:
    high = goal > DEFAULT_TARGET
    probes = (GUESS_PROBES_HIGH if high else GUESS_PROBES) * math.sqrt(nlist)
    rows_per_hit = 10 if high else 5
    return [Step(k, goal, math.ceil(probes), max(10, k) * rows_per_hit) for k in (10, 100)]


def _interpolated(points: list[tuple[int, int]], k: float) -> float:
    """Return the value at ``k`` of a curve of (k, value), straight in logarithms, never falling.

    Below the first k its value holds; beyond the last k the last slope goes on.
    """
    first_k, first_value = points[0]
    if k <= first_k or len(points) == 1:
        return first_value * math.sqrt(max(1.0, k / first_k))
    pairs = list(pairwise(points))
    (k0, v0), (k1, v1) = next((pair for pair in pairs if k <= pair[1][0]), pairs[-1])
    slope = max(0.0, math.log(v1 / v0) / math.log(k1 / k0))
    return v0 * math.exp(slope * math.log(k / k0))
