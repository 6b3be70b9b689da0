"""Apply: the only writer of a mirror's contents; it decides what becomes visible when.

Invariants:

- The changes below a watermark become visible in one published state; changes at or above it wait,
  staged, for a later watermark.
- A change at or below the last (commit LSN, ordinal) seen is dropped.
- While a new copy is filled the old contents serve; the swap is one published state.
- While a pin holds, nothing becomes visible; everything is staged.
- A compaction takes the place of the contents it was made from, or of none.

One thread at a time may call a method; the mirror's writer lock sees to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gpu import Backend, Index
from pgsync.changes import BatchKind, ChangeBatch

from .batches import Changes, Position
from .compaction import Compaction
from .contents import Contents
from .errors import ResyncRequired
from .feed import Feed
from .spec import IndexSpec
from .state import MirrorState

_LAST_ORDINAL = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Staged:
    """Changes that wait for their commit, and the journal record they came in (0: in none)."""

    seq: int
    changes: Changes


@dataclass(slots=True)
class CopyProgress:
    """How far a running copy is, and the journal record that began it."""

    begin_seq: int
    rows: int = 0
    rows_total: int = 0


class Applier:
    """Contents, staged changes and the shadow of a copy; ``publish`` gets every new state."""

    def __init__(
        self,
        spec: IndexSpec,
        publish: Callable[[MirrorState], None],
        backend: Backend | None = None,
    ) -> None:
        """Start empty; ``backend`` is what new contents search with, None: the best one here."""
        self.spec, self.feed, self.backend = spec, Feed(), backend
        self.contents = self._empty()
        self.applied_lsn = 0
        #: The highest watermark received; ahead of ``applied_lsn`` only while a pin holds.
        self.received_lsn = 0
        self.staged: list[Staged] = []
        self.copy: CopyProgress | None = None
        self.held = False
        self._shadow: Contents | None = None
        self._compaction: Compaction | None = None
        self._publish = publish
        self.refresh()

    def restore(self, contents: Contents, feed: Feed, applied_lsn: int) -> None:
        """Start from what a snapshot held."""
        self.contents, self.feed = contents, feed
        self.applied_lsn = self.received_lsn = applied_lsn
        self.refresh()

    def take(self, batch: ChangeBatch, changes: Changes, seq: int) -> None:
        """Take one batch; ``seq`` is its journal record. Raises ResyncRequired and engine errors.

        After ResyncRequired the contents are as before and the feed is lost.
        """
        self.feed.check(batch)
        self.feed.take(batch)
        if batch.kind is BatchKind.COPY_BEGIN:
            self._begin_copy(batch, seq)
        elif batch.kind is BatchKind.COPY:
            self._copy(batch, changes)
        elif batch.kind is BatchKind.COPY_END:
            self._end_copy(batch)
        else:
            self._stage(batch, changes, seq)

    def refresh(self) -> None:
        """Publish the contents as they are now; a card has the rows before a search can ask."""
        contents = self.contents
        contents.index.state.hold()
        state = MirrorState(
            index=contents.index.state,
            applied_lsn=self.applied_lsn,
            phase=self.feed.phase,
            epoch=self.feed.epoch,
            key_view=contents.key_rows.view(),
            columns=contents.columns.views(),
        )
        self.state = state
        self._publish(state)

    def release(self, lsn: int) -> None:
        """Make every staged change below ``lsn`` visible at once."""
        ready: list[Changes] = []
        kept: list[Staged] = []
        for staged in self.staged:
            below, above = staged.changes.split(lsn)
            ready.append(below)
            if len(above):
                kept.append(Staged(staged.seq, above))
        try:
            self.contents.apply(ready)
        except ResyncRequired as error:
            self.staged.clear()
            self.lose(str(error))
            raise
        if self._compaction is not None:
            self._compaction.record(ready)
        self.staged = kept
        self._advance(lsn, any(len(changes) for changes in ready))

    def lose(self, reason: str) -> None:
        """Note that changes are missing: serve what there is until a new copy."""
        self.feed.lost = reason
        self.refresh()

    def begin_compaction(self) -> Compaction:
        """Begin to make contents without dead rows; an unfinished attempt is forgotten."""
        self._compaction = Compaction(self.contents)
        return self._compaction

    def end_compaction(self, compaction: Compaction) -> bool:
        """Swap to the compacted contents; False if they are no longer those of these rows."""
        if compaction is not self._compaction:
            return False
        self.contents = compaction.finish()
        self._compaction = None
        self.refresh()
        return True

    def drop_compaction(self, compaction: Compaction) -> None:
        """Keep no more changes for a compaction that has come to an end."""
        if compaction is self._compaction:
            self._compaction = None

    @property
    def staged_lsn(self) -> int:
        """Commit LSN of the last change that waits, 0 when none does."""
        return self.staged[-1].changes.last[0] if self.staged else 0

    def oldest_needed_seq(self, next_seq: int) -> int:
        """Return the first journal record that a snapshot of the present does not replace."""
        needed = [staged.seq for staged in self.staged if staged.seq]
        if self.copy is not None:
            needed.append(self.copy.begin_seq)
        return min([next_seq, *needed])

    def _advance(self, lsn: int, changed: bool) -> None:
        self.applied_lsn = max(self.applied_lsn, lsn)
        if changed:
            self.refresh()
        elif self.applied_lsn != self.state.applied_lsn:
            self.state = replace(self.state, applied_lsn=self.applied_lsn)
            self._publish(self.state)

    def _empty(self) -> Contents:
        return Contents(self.spec, Index(self.spec.index_params(), self.backend))

    def _stage(self, batch: ChangeBatch, changes: Changes, seq: int) -> None:
        new = changes.after(self._seen())
        if len(new):
            self.staged.append(Staged(seq, new))
        self.received_lsn = max(self.received_lsn, batch.watermark_lsn)
        if not self.held:
            self.release(self.received_lsn)

    def _seen(self) -> Position:
        """Everything below the watermark was seen, and everything staged."""
        if self.staged:
            return max(self.staged[-1].changes.last, (self.received_lsn - 1, _LAST_ORDINAL))
        return max(0, self.received_lsn - 1), _LAST_ORDINAL

    def _begin_copy(self, batch: ChangeBatch, seq: int) -> None:
        self._shadow = self._empty()
        self.copy = CopyProgress(seq, 0, batch.rows_total)
        self.staged.clear()
        self.held = False
        self.refresh()

    def _copy(self, batch: ChangeBatch, changes: Changes) -> None:
        assert self._shadow is not None
        assert self.copy is not None
        self._shadow.apply([changes])
        self.copy.rows += len(changes)
        self.copy.rows_total = max(self.copy.rows_total, batch.rows_total)

    def _end_copy(self, batch: ChangeBatch) -> None:
        assert self._shadow is not None
        self._shadow.index.publish()
        self.contents, self._shadow, self.copy = self._shadow, None, None
        self._compaction = None
        self.applied_lsn = self.received_lsn = batch.watermark_lsn
        self.refresh()
