"""Feed: which change batches fit what came before. Pure.

    epoch 0 --COPY_BEGIN e--> copying e --COPY*--> --COPY_END--> live at e --COPY_BEGIN e+1--> ...

Invariants:

- A batch of an epoch older than the newest begun is refused with StaleEpoch.
- Positions of two clusters never mix: only a new copy may bring another system identifier.
- Once changes are known to be missing (``lost``), only a new copy is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgsync.changes import BatchKind, ChangeBatch

from .errors import ResyncRequired, StaleEpoch
from .state import Phase


@dataclass(slots=True)
class Feed:
    """Where an index is in the life of its copies.

    ``epoch`` is the live copy (0: none), ``copying`` the unfinished one, ``copied`` whether that
    has rows, ``lost`` why the live one cannot be continued.
    """

    system_id: str | None = None
    epoch: int = 0
    copying: int | None = None
    copied: bool = False
    lost: str | None = None

    @property
    def newest(self) -> int:
        """The newest epoch begun; a new copy takes a higher one."""
        return self.epoch if self.copying is None else self.copying

    @property
    def phase(self) -> Phase:
        """The phase that the description and every state show."""
        if self.epoch == 0:
            return "new" if self.copying is None else "copying"
        return "live" if self.copying is None and self.lost is None else "resync"

    def is_repeat(self, batch: ChangeBatch) -> bool:
        """Tell whether a batch was taken before, its answer lost on the way."""
        if batch.kind is BatchKind.COPY_BEGIN:
            return batch.epoch == self.copying and not self.copied
        ended = batch.kind is BatchKind.COPY_END and self.copying is None
        return ended and batch.epoch == self.epoch and batch.system_id == self.system_id

    def check(self, batch: ChangeBatch) -> None:
        """Raise StaleEpoch or ResyncRequired for a batch that does not fit."""
        begins = batch.kind is BatchKind.COPY_BEGIN
        if batch.epoch < self.newest or (begins and batch.epoch == self.newest):
            raise StaleEpoch(batch.epoch, self.newest)
        if begins:
            return
        expected = self.epoch if batch.kind is BatchKind.CHANGES else self.copying
        if batch.epoch != expected or (batch.epoch == self.epoch and self.copying is not None):
            raise self._misplaced(batch)
        if batch.system_id != self.system_id:
            raise ResyncRequired("the changes come from another Postgres cluster")
        if batch.kind is BatchKind.CHANGES and self.lost is not None:
            raise ResyncRequired(self.lost)

    def take(self, batch: ChangeBatch) -> None:
        """Move on; the batch was checked."""
        if batch.kind is BatchKind.COPY_BEGIN:
            self.system_id, self.copying, self.copied = batch.system_id, batch.epoch, False
        elif batch.kind is BatchKind.COPY:
            self.copied = True
        elif batch.kind is BatchKind.COPY_END:
            self.epoch, self.copying, self.copied, self.lost = batch.epoch, None, False, None

    def _misplaced(self, batch: ChangeBatch) -> StaleEpoch | ResyncRequired:
        if batch.epoch == self.epoch:
            return StaleEpoch(batch.epoch, self.newest)
        return ResyncRequired(f"no copy of epoch {batch.epoch} is in the index: copy the table")
