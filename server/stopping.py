"""What is saved at the end, so that the next start is quick.

A start loads the newest snapshot and replays the journal after it, batch by batch. Where much was
journaled since, a snapshot at the end takes less than that replay; where a snapshot would take
longer than the time that is left to stop, the journal alone has to do, and loses nothing either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from time import monotonic

import structlog

from gpu.errors import EngineError

from .errors import ServerError
from .mirror import Mirror, MirrorLike

log = structlog.get_logger("vecmirror.server")

#: Journal not yet in a snapshot; of batches of one row about two seconds to replay.
SAVE_FROM_BYTES = 16 << 20
#: What a slow disk takes in a second.
_BYTES_PER_S = 100 << 20


def save_grown(
    mirrors: Iterable[MirrorLike], deadline_s: float, clock: Callable[[], float] = monotonic
) -> None:
    """Write a snapshot of every index whose journal has grown, until ``deadline_s`` of the clock.

    Call it when no changes come any more. A snapshot that fails is logged, and changes nothing.
    """
    for mirror in mirrors:
        if isinstance(mirror, Mirror) and _has_grown(mirror):
            if clock() + _duration_s(mirror) <= deadline_s:
                _save(mirror)
            else:
                log.info("no time for a snapshot; the journal is kept", index=mirror.spec.name)


def _has_grown(mirror: Mirror) -> bool:
    options = mirror.options
    least = min(options.snapshot_bytes, SAVE_FROM_BYTES)
    mirror.options = replace(options, snapshot_bytes=least, snapshot_age_s=float("inf"))
    return mirror.snapshot_due()


def _duration_s(mirror: Mirror) -> float:
    itemsize = 2 if mirror.spec.raw_dtype == "float16" else 4
    return mirror.state.index.n_rows * mirror.spec.table.dim * itemsize / _BYTES_PER_S


def _save(mirror: Mirror) -> None:
    try:
        mirror.snapshot()
    except (ServerError, EngineError, MemoryError):
        log.exception("snapshot failed", index=mirror.spec.name)
        return
    log.info("snapshot written", index=mirror.spec.name)
