"""What the checker counted, by source line: sectors of global, wavefronts of shared requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

_LABEL = re.compile(r"//.*@([\w-]+)\s*$")


@dataclass(frozen=True, slots=True)
class Line:
    """Accesses of one line of a kernel to one kind of memory, over all warps of the launches.

    ``requests``: instructions of a warp; ``cost``: 32-byte sectors they touch (global) or
    wavefronts they take (shared); ``ideal``: the fewest that could carry the same bytes.
    """

    space: Literal["global", "shared"]
    file: str
    line: int
    requests: int
    cost: int
    ideal: int
    nbytes: int


class Report:
    """Lines by place (``"scan.cu:71"``) or by label: ``// @codes`` at the end of a line."""

    def __init__(self, lines: Iterable[Line], folders: Iterable[Path]) -> None:
        self.lines = sorted(lines, key=lambda line: (line.file, line.line, line.space))
        self._folders = tuple(folders)

    def at(self, where: str, space: Literal["global", "shared"]) -> list[Line]:
        """Return the lines of a place or a label; raises KeyError if nothing ran there."""
        found = [x for x in self.lines if x.space == space and where in self._names(x)]
        if not found:
            seen = sorted({n for x in self.lines if x.space == space for n in self._names(x)})
            raise KeyError(f"no {space} access at {where!r}; there were {', '.join(seen)}")
        return found

    def _names(self, line: Line) -> set[str]:
        names = {f"{line.file}:{line.line}"}
        label = labels(line.file, self._folders).get(line.line)
        return names | {label} if label else names

    def sectors_per_request(self, where: str) -> float:
        """Return how many 32-byte sectors a warp's request touches there."""
        lines = self.at(where, "global")
        return sum(x.cost for x in lines) / sum(x.requests for x in lines)

    def sectors_over_ideal(self, where: str) -> float:
        """Return touched sectors over the fewest possible: 1.0 is fully coalesced."""
        lines = self.at(where, "global")
        return sum(x.cost for x in lines) / sum(x.ideal for x in lines)

    def conflict_factor(self, where: str) -> float:
        """Return wavefronts over the fewest possible: 1.0 is free of bank conflicts."""
        lines = self.at(where, "shared")
        return sum(x.cost for x in lines) / sum(x.ideal for x in lines)

    def wavefronts_per_request(self, where: str) -> float:
        """Return how often the banks are asked for one request of a warp there."""
        lines = self.at(where, "shared")
        return sum(x.cost for x in lines) / sum(x.requests for x in lines)

    def nbytes(self, where: str, space: Literal["global", "shared"] = "global") -> int:
        """Return how many bytes all lanes together asked for there."""
        return sum(x.nbytes for x in self.at(where, space))

    def __str__(self) -> str:
        heads = "place                       memory  requests      cost     ideal       bytes"
        rows = [
            f"{x.file + ':' + str(x.line):27} {x.space:6} {x.requests:9} {x.cost:9}"
            f" {x.ideal:9} {x.nbytes:11}"
            for x in self.lines
        ]
        return "\n".join([heads, *rows])


@cache
def labels(file: str, folders: tuple[Path, ...]) -> dict[int, str]:
    """Return the labels of a kernel file by line number."""
    path = next((f / file for f in folders if (f / file).exists()), None)
    if path is None:
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    matches = ((i, _LABEL.search(text)) for i, text in enumerate(lines, start=1))
    return {i: m.group(1) for i, m in matches if m}
