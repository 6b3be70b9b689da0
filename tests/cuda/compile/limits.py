"""The table of what each kernel may use: ``python -m tests.cuda.compile.limits`` writes it anew.

With names of kernel files behind it only their rows. It is written from what the compilers of the
dev extra make of the present sources, after a look at every number that grew; the tests then hold
the sources to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

from gpu.cuda.instances import INSTANCES, names_of
from tests.cuda.compile.cubin import facts
from tests.cuda.compile.nvrtc import ARCHITECTURES

TABLE = Path(__file__).parent / "limits.json"


class Limits(NamedTuple):
    """Most registers and static shared bytes of a kernel, and whether it has 16-byte loads."""

    registers: int
    shared_bytes: int
    loads_wide: int


@cache
def table() -> Mapping[str, Mapping[str, Limits]]:
    """Return kernel -> ``"13 sm_90"`` -> limits."""
    read = json.loads(TABLE.read_text(encoding="utf-8"))
    return {k: {c: Limits(*v) for c, v in columns.items()} for k, columns in read.items()}


def column(toolkit: str, architecture: int) -> str:
    """Return the table's name of a compilation."""
    return f"{toolkit} sm_{architecture}"


def measured(stem: str, toolkit: str, architecture: int) -> dict[str, Limits]:
    """Return what the instances of a stem use, by C++ name."""
    return {
        name: Limits(f.usage.registers, f.usage.shared_bytes, int(f.wide_loads > 0))
        for name, f in facts(stem, toolkit, architecture).items()
    }


def _write(stems: Sequence[str]) -> None:
    columns = [(t, a) for t, architectures in ARCHITECTURES.items() for a in architectures]
    wanted = [(s, *c) for s in stems for c in columns if names_of(s, c[1])]
    rows = {name: dict(cells) for name, cells in _kept(stems).items()}
    with ThreadPoolExecutor(2) as pool:
        for (_, toolkit, arch), found in zip(
            wanted, pool.map(lambda w: measured(*w), wanted), strict=True
        ):
            for name, limits in found.items():
                rows.setdefault(name, {})[column(toolkit, arch)] = limits
    lines = [f"{json.dumps(name)}: {json.dumps(cells)}" for name, cells in sorted(rows.items())]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _kept(rewritten: Sequence[str]) -> Mapping[str, Mapping[str, Limits]]:
    """Return the rows of all instances that there are, but those of files to be looked at anew."""
    names = {i.name for stem, own in INSTANCES.items() if stem not in rewritten for i in own}
    return {name: cells for name, cells in table().items() if name in names}


if __name__ == "__main__":
    _write(sys.argv[1:] or list(INSTANCES))
