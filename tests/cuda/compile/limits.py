"""The table of what each kernel may use: ``python -m tests.cuda.compile.limits`` writes it anew.

It is written from what the compilers of the dev extra make of the present sources, after a look at
every number that grew; the tests then hold the sources to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

from gpu.cuda.instances import INSTANCES, names_of
from tests.cuda.compile.cubin import code, usage
from tests.cuda.compile.nvrtc import ARCHITECTURES, compiled

TABLE = Path(__file__).parent / "limits.json"
#: Architectures that today's nvdisasm no longer reads.
UNREADABLE = (70,)


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
    module = compiled(stem, toolkit, architecture)
    used = usage(module.cubin, architecture)
    codes = {} if architecture in UNREADABLE else code(module.cubin)
    return {
        name: Limits(
            used[symbol].registers,
            used[symbol].shared_bytes,
            int(bool(codes) and codes[symbol].wide_loads() > 0),
        )
        for name, symbol in module.symbols.items()
    }


def _write() -> None:
    columns = [(t, a) for t, architectures in ARCHITECTURES.items() for a in architectures]
    wanted = [(s, *c) for s in INSTANCES for c in columns if names_of(s, c[1])]
    rows: dict[str, dict[str, Limits]] = {}
    with ThreadPoolExecutor(2) as pool:
        for (_, toolkit, arch), found in zip(
            wanted, pool.map(lambda w: measured(*w), wanted), strict=True
        ):
            for name, limits in found.items():
                rows.setdefault(name, {})[column(toolkit, arch)] = limits
    lines = [f"{json.dumps(name)}: {json.dumps(cells)}" for name, cells in sorted(rows.items())]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write()
