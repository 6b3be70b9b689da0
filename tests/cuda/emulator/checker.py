"""The Python side of the checked runtime: which memory there is, and what it saw where."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

from gpu.errors import BackendError

from . import build
from .memory import Allocation
from .traffic import Line, Report

_MOST_ROWS = 16384
_PROGRAM_COUNTER = re.compile(r" pc=(\S+)\+([0-9a-f]+)")
_FRAME = re.compile(r"^(.*):(\d+)(?: \(discriminator \d+\))?$")


class Checker:
    """Tells the runtime what is allocated and written, and reads what it counted."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._library = ctypes.CDLL(str(build.runtime(checked=True)))
        self._library.emu_locate.restype = ctypes.c_ulong
        self._folders = folders
        self._next_id = 0

    def add(self, allocation: Allocation) -> None:
        """Watch a new allocation. Device memory is uninitialised, pinned memory is not."""
        address, nbytes = ctypes.c_void_p(allocation.address), ctypes.c_size_t(allocation.nbytes)
        if not allocation.nbytes:
            return
        self._library.emu_region_add(address, nbytes, ctypes.c_int(self._next_id))
        self._next_id += 1
        if allocation.pinned:
            self._library.emu_mark_written(address, nbytes)

    def remove(self, allocation: Allocation) -> None:
        """Stop: accesses to it are out of bounds now."""
        address, nbytes = ctypes.c_void_p(allocation.address), ctypes.c_size_t(allocation.nbytes)
        self._library.emu_region_remove(address, nbytes)

    def written(self, address: int, nbytes: int) -> None:
        """Note that the host, or a copy, has set these bytes."""
        self._library.emu_mark_written(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))

    def watch(self, *, races: bool = True, initialisation: bool = True) -> None:
        """Choose what is looked for; bounds and alignment always are."""
        self._library.emu_check_options(races * 1 | initialisation * 2 | 4)

    def clear(self) -> None:
        """Forget the traffic so far."""
        self._library.emu_traffic_clear()

    def report(self) -> Report:
        """Return the traffic since the last ``clear``."""
        rows = (ctypes.c_ulonglong * (6 * _MOST_ROWS))()
        n = self._library.emu_traffic(rows, _MOST_ROWS)
        if n == _MOST_ROWS:
            raise BackendError("more places of access than the checker can report")
        table = [tuple(rows[6 * i : 6 * i + 6]) for i in range(n)]
        return Report(self._lines(table), self._folders)

    def _lines(self, table: Sequence[tuple[int, ...]]) -> Iterable[Line]:
        sums: dict[tuple[Literal["global", "shared"], str, int], list[int]] = {}
        places = self._places([row[1] for row in table])
        for (shared, _, *counts), place in zip(table, places, strict=True):
            total = sums.setdefault(("shared" if shared else "global", *place), [0, 0, 0, 0])
            total[:] = [a + b for a, b in zip(total, counts, strict=True)]
        return [Line(*key, *total) for key, total in sums.items()]

    def _places(self, addresses: Sequence[int]) -> list[tuple[str, int]]:
        located = [self._locate(a) for a in addresses]
        by_library: dict[str, list[int]] = {}
        for path, offset in located:
            by_library.setdefault(path, []).append(offset)
        found = {p: source_lines(p, tuple(sorted(set(o)))) for p, o in by_library.items()}
        return [found[path][offset] for path, offset in located]

    def _locate(self, address: int) -> tuple[str, int]:
        path = ctypes.create_string_buffer(4096)
        offset = self._library.emu_locate(ctypes.c_void_p(address), path, 4096)
        return path.value.decode(), int(offset)


def with_source_line(message: str) -> str:
    """Say the kernel's line where a message of the runtime has a program counter."""
    match = _PROGRAM_COUNTER.search(message)
    if match is None:
        return message
    offset = int(match.group(2), 16)
    file, line = source_lines(match.group(1), (offset,))[offset]
    return message.replace(match.group(0), f" at {file}:{line}")


@cache
def source_lines(library: str, offsets: tuple[int, ...]) -> dict[int, tuple[str, int]]:
    """Return the kernel's line for each return address of a library.

    The innermost inlined frame that is not the emulator's or compat.cuh's.
    """
    given = "\n".join(hex(o - 1) for o in offsets)
    command = ["addr2line", "-a", "-i", "-e", library]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    starts = [i for i, text in enumerate(lines) if text.startswith("0x")] + [len(lines)]
    frames = [lines[a + 1 : b] for a, b in pairwise(starts)]
    return {o: _kernel_frame(f) for o, f in zip(offsets, frames, strict=True)}


def _kernel_frame(frames: Sequence[str]) -> tuple[str, int]:
    places = [(Path(m.group(1)), int(m.group(2))) for m in map(_FRAME.match, frames) if m]
    for path, line in places:
        if path.parent != build.INCLUDE and path.name != "compat.cuh":
            return path.name, line
    return (places[0][0].name, places[0][1]) if places else ("?", 0)
