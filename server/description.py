"""Description: what ``GET /v1/indexes/{name}`` says about the rows, the feed and the files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pgsync.changes import ChangeBatch
from pgsync.lsn import format_lsn

from . import snapshot as snapshots
from .apply import Applier
from .upkeep import Upkeep


class Heard:
    """What was heard of the source, and when, in seconds of ``clock``."""

    def __init__(self, applier: Applier, clock: Callable[[], float]) -> None:
        self._applier, self._clock = applier, clock
        self.source_lsn = 0
        self._caught_up_at_s, self._last_batch_s = 0.0, 0.0

    def note(self, batch: ChangeBatch) -> None:
        """Note a batch that was taken."""
        self._last_batch_s = self._clock()
        self.source_lsn = max(self.source_lsn, batch.source_lsn)
        if self._applier.state.phase == "live" and self._lag_bytes() == 0:
            self._caught_up_at_s = self._last_batch_s

    def describe(self, durable_lsn: int) -> dict[str, object]:
        """Return the positions, and how far behind they are."""
        now_s, state = self._clock(), self._applier.state
        silent = self._last_batch_s == 0
        caught_up = state.phase == "live" and self._lag_bytes() == 0
        caught_up_at_s = self._caught_up_at_s or None
        lag_s = None if caught_up_at_s is None else now_s - caught_up_at_s
        return {
            "applied_lsn": format_lsn(state.applied_lsn),
            "durable_lsn": format_lsn(durable_lsn),
            "source_lsn": format_lsn(self.source_lsn),
            "system_id": self._applier.feed.system_id,
            "lag_bytes": self._lag_bytes(),
            "lag_ms": 0.0 if caught_up else None if lag_s is None else round(lag_s * 1000, 1),
            "caught_up_at": caught_up_at_s,
            "last_batch_age_s": None if silent else round(now_s - self._last_batch_s, 3),
        }

    def _lag_bytes(self) -> int:
        return max(0, self.source_lsn - self._applier.applied_lsn)


def describe_rows(applier: Applier, upkeep: Upkeep) -> dict[str, object]:
    """Return figures of the rows and of the work on them."""
    index = applier.state.index
    trained = index.trained_part
    return {
        "phase": applier.state.phase,
        "epoch": applier.feed.newest,
        "rows": index.live_rows,
        "row_ids": index.n_rows,
        "dead_rows": index.dead_rows,
        "dead_rows_in_lists": index.dead_encoded_rows,
        "tail_rows": index.n_rows - index.encoded_rows,
        "backend": index.backend.name,
        "trained": index.trained,
        "training": upkeep.training(),
        "upkeep": upkeep.running(),
        "drift": None if trained is None else trained.drift.stats(trained.lists.lengths),
        "copy": None if applier.copy is None else asdict(applier.copy),
        "excluded": applier.contents.attic.excluded(),
        "changes": dict(applier.contents.counters),
        "resync_reason": applier.feed.lost,
    }


def describe_files(
    directory: Path, position: snapshots.Position | None, now_s: float, journal_bytes: int
) -> dict[str, object]:
    """Return figures of the snapshots in ``directory`` and of the journal."""
    taken = None
    if position is not None:
        age_s = round(now_s - position.taken_at_s, 1)
        taken = {"lsn": format_lsn(position.applied_lsn), "age_s": age_s}
    return {
        "snapshot": taken,
        "journal_bytes": journal_bytes,
        "snapshot_bytes": snapshots.size_bytes(directory),
    }
