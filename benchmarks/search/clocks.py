"""Queries a second: engines take turns, medians count.

With one thread it is the CPU time of the thread, which other work on the machine does not add to;
with more it is the time on the wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .engines import Engine, F32Rows, Setting

Mode = Literal["single", "batch"]


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine at one setting."""

    engine: Engine
    setting: Setting


@dataclass(frozen=True, slots=True)
class Speed:
    """Queries a second: of the thread's CPU time, and of the time on the wall."""

    cpu_qps: float
    wall_qps: float

    def counted(self, threads: int) -> float:
        """Return the figure that counts."""
        return self.cpu_qps if threads == 1 else self.wall_qps


def race(
    contenders: Sequence[Contender], queries: F32Rows, mode: Mode, threads: int, rounds: int
) -> list[Speed]:
    """Return the median speed of each; every round begins with the next one."""
    work = {"single": _one_by_one(queries), "batch": _at_once(queries)}[mode]
    taken: list[list[tuple[float, float]]] = [[] for _ in contenders]
    for turn in range(rounds):
        for place in range(len(contenders)):
            number = (turn + place) % len(contenders)
            one = contenders[number]
            one.engine.use(one.setting, threads)
            taken[number].append(_timed(work, one.engine))
    medians = [np.median(np.array(times), axis=0) for times in taken]
    return [Speed(len(queries) / cpu, len(queries) / wall) for cpu, wall in medians]


def _one_by_one(queries: F32Rows) -> Callable[[Engine], None]:
    rows = [queries[i : i + 1] for i in range(len(queries))]

    def work(engine: Engine) -> None:
        for row in rows:
            engine.one(row)

    return work


def _at_once(queries: F32Rows) -> Callable[[Engine], None]:
    def work(engine: Engine) -> None:
        engine.batch(queries)

    return work


def _timed(work: Callable[[Engine], None], engine: Engine) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.thread_time()
    work(engine)
    return time.thread_time() - cpu, time.perf_counter() - wall
