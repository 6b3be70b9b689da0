"""Recovery: a mirror's contents from the newest valid snapshot and the journal after it.

Invariants:

- A snapshot that cannot be read is skipped, with a warning, if an older one and the journal still
  reach the same point; otherwise opening fails rather than forget acknowledged changes.
- Replay takes the same path as submit, so what was refused then is refused now.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from pgsync.changes import BatchKind, ChangeBatch, change_schema

from . import snapshot
from .apply import Applier
from .batches import read_batch, read_changes
from .errors import JournalCorrupt, ResyncRequired, StaleEpoch, StorageError
from .feed import Feed
from .journal import Journal

log = structlog.get_logger("vecmirror.recovery")


def recover(
    applier: Applier, journal: Journal, snapshots: Path, heard: Callable[[ChangeBatch], None]
) -> tuple[int, snapshot.Position | None]:
    """Bring ``applier`` to where it was; return the durable LSN and the snapshot's position.

    ``heard`` gets every batch replayed. Raises JournalCorrupt or StorageError.
    """
    position = _restore(applier, journal, snapshots)
    durable_lsn, from_seq = (position.applied_lsn, position.journal_seq) if position else (0, 1)
    schema = change_schema(applier.spec.table)
    for record in journal.replay(from_seq):
        batch = read_batch(record.payload, schema)
        try:
            applier.take(batch, read_changes(batch, applier.spec), record.seq)
        except (ResyncRequired, StaleEpoch):
            continue  # it was refused when it came, or the snapshot is of a newer copy
        durable_lsn = next_durable_lsn(durable_lsn, batch)
        heard(batch)
    return durable_lsn, position


def next_durable_lsn(durable_lsn: int, batch: ChangeBatch) -> int:
    """Return the durable LSN after a journaled batch: watermarks rise, but a new copy resets."""
    if batch.kind is BatchKind.CHANGES:
        return max(durable_lsn, batch.watermark_lsn)
    return batch.watermark_lsn if batch.kind is BatchKind.COPY_END else durable_lsn


def _restore(applier: Applier, journal: Journal, snapshots: Path) -> snapshot.Position | None:
    """Load the newest usable snapshot; return its position, None if the journal has everything."""
    for path in reversed(snapshot.listed(snapshots)):
        try:
            return _load(applier, journal, path)
        except StorageError as error:
            log.warning("snapshot skipped", index=applier.spec.name, reason=str(error))
    if journal.first_seq != 1:
        raise JournalCorrupt("no snapshot can be read and the journal does not reach back")
    return None


def _load(applier: Applier, journal: Journal, path: Path) -> snapshot.Position:
    position = snapshot.read_position(path)
    if not journal.first_seq <= position.journal_seq <= journal.next_seq:
        raise JournalCorrupt(f"the journal does not reach back to snapshot {path.name}")
    contents, position = snapshot.read_snapshot(path, applier.spec, applier.backend)
    feed = Feed(position.system_id, position.epoch, lost=position.lost)
    applier.restore(contents, feed, position.applied_lsn)
    return position
