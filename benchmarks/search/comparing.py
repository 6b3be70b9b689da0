"""The comparison: tune every engine on half of the queries, measure all on the other half.

Settings that just reach a recall on one half can miss it on the other. Where ours finds less there
than a rival's does, ours is tuned for a little more: where it can find as much, it has to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .clocks import Contender, Mode, Speed, race
from .engines import Engine, SearchSet, Setting
from .ours import Vecmirror
from .tuning import candidates

#: Rounds that count, and those that only choose a setting.
ROUNDS, TUNING_ROUNDS = 9, 3
#: Recalls above a target that ours is tuned for, too.
MORE = (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004)
#: Queries of a batch, and of a round of single ones.
BATCH, SINGLE, TUNING_SINGLE = 1000, 400, 150


@dataclass(slots=True)
class Comparison:
    """One set, one number of threads. Rivals are lists of variants; the fastest one counts."""

    vectors: SearchSet
    ours: Vecmirror
    rivals: dict[str, list[Engine]]
    threads: int
    say: Callable[[str], None]
    _recalls: dict[tuple[int, Setting, bool], float] = field(default_factory=dict)

    @property
    def _half(self) -> int:
        return len(self.vectors.queries) // 2

    def ratios(self, target: float) -> list[dict[str, Any]]:
        """Return one entry for each rival and mode that both reach ``target`` in."""
        modes: list[Mode] = ["single", "batch"] if self.threads == 1 else ["batch"]
        known = {name: self._settings(some, target) for name, some in self.rivals.items()}
        return [entry for mode in modes for entry in self._of_mode(known, target, mode)]

    def planned(self, target: float) -> dict[str, Any]:
        """Return what a search that only names its recall gets."""
        setting = Setting(*self.ours.plan.choose(10, target))
        one = [Contender(self.ours, setting)]
        speeds = {
            mode: race(one, self._queries(mode), mode, self.threads, 3)[0]
            for mode in ("single", "batch")
        }
        return {
            "set": self.vectors.name,
            "target": target,
            "nprobe": setting.breadth,
            "rerank": setting.depth,
            "recall": self._recall(self.ours, setting, tuning=False),
            **{f"{mode}_qps": round(speed.counted(self.threads)) for mode, speed in speeds.items()},
        }

    def _settings(self, engines: Sequence[Engine], target: float) -> list[Contender]:
        """Return all settings of all variants that reach the recall on the tuning half."""
        return [
            Contender(engine, setting)
            for engine in engines
            for setting in candidates(
                partial(self._recall, engine, tuning=True),
                engine.limits,
                target,
            )
        ]

    def _of_mode(
        self, known: dict[str, list[Contender]], target: float, mode: Mode
    ) -> list[dict[str, Any]]:
        best = {name: self._fastest(some, mode) for name, some in known.items() if some}
        ours = {name: self._as_good_as(rival, target, mode) for name, rival in best.items()}
        for name in known.keys() - best.keys():
            self.say(f"{self.vectors.name}: {name} does not reach {target}")
        contenders = list(dict.fromkeys([*best.values(), *(one for one in ours.values() if one)]))
        speeds = race(contenders, self._queries(mode), mode, self.threads, ROUNDS)
        measured = dict(zip(contenders, speeds, strict=True))
        return [
            self._entry((one, measured[one]), (best[name], measured[best[name]]), target, mode)
            for name, one in ours.items()
            if one
        ]

    def _as_good_as(self, rival: Contender, target: float, mode: Mode) -> Contender | None:
        """Return our fastest setting for ``target`` that finds on the measured half what it does.

        Where none does, the one that finds most; None if none reaches the target.
        """
        wanted = self._recall(*_of(rival), tuning=False)
        ours = self._ours([*_a_little_more(target), *_a_little_more(max(target, wanted))])
        found = {one: self._recall(*_of(one), tuning=False) for one in ours}
        enough = [one for one in ours if found[one] >= wanted]
        if enough:
            return self._fastest(enough, mode)
        return max(ours, key=found.__getitem__, default=None)

    def _ours(self, goals: Sequence[float]) -> list[Contender]:
        """Return our settings that reach one of the recalls on the tuning half."""
        known = [one for goal in goals for one in self._settings([self.ours], min(goal, 1.0))]
        return list(dict.fromkeys(known))

    def _fastest(self, some: list[Contender], mode: Mode) -> Contender:
        """Race the settings on the tuning half."""
        if len(some) == 1:
            return some[0]
        size = TUNING_SINGLE if mode == "single" else self._half
        queries = self.vectors.queries[: self._half][:size]
        speeds = race(some, queries, mode, self.threads, TUNING_ROUNDS)
        fastest = max(range(len(some)), key=lambda i: speeds[i].counted(self.threads))
        return some[fastest]

    def _queries(self, mode: Mode) -> Any:
        """Return the measured half, for a batch topped up with the other to 1,000 queries."""
        measured = self.vectors.queries[self._half :]
        if mode == "single":
            return measured[:SINGLE]
        return measured[:BATCH] if len(measured) >= BATCH else self.vectors.queries[-BATCH:]

    def _recall(self, engine: Engine, setting: Setting, *, tuning: bool) -> float:
        key = (id(engine), setting, tuning)
        if key not in self._recalls:
            which = slice(0, self._half) if tuning else slice(self._half, None)
            engine.use(setting, 1)
            found = engine.batch(self.vectors.queries[which])
            self._recalls[key] = self.vectors.recall(which, found)
        return self._recalls[key]

    def _entry(
        self,
        ours: tuple[Contender, Speed],
        rival: tuple[Contender, Speed],
        target: float,
        mode: Mode,
    ) -> dict[str, Any]:
        ours_qps, rival_qps = (one[1].counted(self.threads) for one in (ours, rival))
        entry = {
            "set": self.vectors.name,
            "recall": target,
            "mode": mode,
            "threads": self.threads,
            "rival": rival[0].engine.name,
            "ours_qps": round(ours_qps),
            "rival_qps": round(rival_qps),
            "ratio": round(ours_qps / rival_qps, 3),
            "ours_recall": round(self._recall(*_of(ours[0]), tuning=False), 4),
            "rival_recall": round(self._recall(*_of(rival[0]), tuning=False), 4),
            "clock": "thread CPU time" if self.threads == 1 else "wall",
            "ours_wall_qps": round(ours[1].wall_qps),
            "rival_wall_qps": round(rival[1].wall_qps),
            "ours_setting": list(ours[0].setting),
            "rival_setting": list(rival[0].setting),
            "rival_index": rival[0].engine.label,
        }
        self.say(
            f"{entry['set']} {target} {mode}: {entry['ours_qps']:,} against {rival[0].engine.name} "
            f"{entry['rival_qps']:,} = {entry['ratio']}"
        )
        return entry


def _of(one: Contender) -> tuple[Engine, Setting]:
    return one.engine, one.setting


def _a_little_more(recall: float) -> list[float]:
    return [recall + more for more in MORE]
