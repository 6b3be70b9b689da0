"""CPU time of processes and of all their children, out of Linux' /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    own_s: float
    reaped_s: float  # of children that ended and were waited for


def cpu_seconds(pid: int) -> float:
    """Return user and system time of one process, in seconds; 0 when there is no such process."""
    found = _read(pid)
    return found.own_s if found else 0.0


def tree_cpu_seconds(root: int) -> float:
    """Return the time of ``root``, of its living descendants and of those that ended."""
    processes = {pid: found for pid in _pids() if (found := _read(pid))}
    total, wanted = 0.0, [root]
    while wanted:
        pid = wanted.pop()
        if pid in processes:
            total += processes[pid].own_s + processes[pid].reaped_s
        wanted += [child for child, found in processes.items() if found.parent == pid]
    return total


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return CPU seconds by role between two readings."""
    return {role: round(after[role] - before.get(role, 0.0), 3) for role in after}


def per_row_us(seconds: Mapping[str, float], rows: int) -> dict[str, float]:
    """Return CPU seconds by role as microseconds for each row."""
    return {role: round(value / rows * 1e6, 2) for role, value in seconds.items()}


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _read(pid: int) -> _Process | None:
    """Read /proc/<pid>/stat; the fields after the command, which may hold spaces (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    user, system, reaped_user, reaped_system = (int(value) for value in fields[11:15])
    return _Process(
        parent=int(fields[1]),
        own_s=(user + system) / _TICKS_PER_S,
        reaped_s=(reaped_user + reaped_system) / _TICKS_PER_S,
    )
