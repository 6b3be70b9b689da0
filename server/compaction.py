"""Compaction: contents without dead rows, made beside the living ones and swapped in.

An UPDATE leaves a dead row id behind, with its vector, key, column values and texts. A compaction
copies what is alive at one moment into new contents, then applies the changes that the old contents
have had since, until none are left.

Invariants:

- The old contents are only read; whatever happens to a compaction, they serve on.
- Every run of changes that the old contents took after that moment is applied to the new ones, in
  the same order and by the same code. So both hold the same rows; only row ids differ.
- Nothing of it is on disk: the journal knows keys, not row ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np

from gpu.compaction import compacted

from .batches import Changes
from .contents import Contents
from .frozen import freeze

#: Rows copied between two looks at whoever waits: some milliseconds.
_SLICE_ROWS = 16_384
#: So few changed rows are applied under the writer lock; a normal batch has as many.
_FEW_ROWS = 2048
#: After so many rounds the rest is applied under the writer lock, however much it is: changes that
#: come as fast as they can be applied would never be caught up with.
_MOST_ROUNDS = 20
#: Rows of the new tail encoded at a time.
_ENCODE_ROWS = 2048


class Compaction:
    """One compaction of ``base``. ``record`` may be called while another thread does the rest."""

    def __init__(self, base: Contents) -> None:
        """Begin with the present of ``base``; the caller holds the writer lock."""
        self.base = base
        self._frozen, self._counters = freeze(base), dict(base.counters)
        self._runs: list[list[Changes]] = []
        self._lock = Lock()
        self._made: Contents | None = None

    def record(self, pieces: Sequence[Changes]) -> None:
        """Note a run of changes that ``base`` has taken."""
        run = [piece for piece in pieces if len(piece)]
        if run:
            with self._lock:
                self._runs.append(run)

    def build(self, pause: Callable[[], None] = lambda: None) -> None:
        """Copy what was alive and catch up; ``pause`` is called often and may raise to stop."""
        made = Contents(self.base.spec, compacted(self._frozen.index, pause))
        made.counters = self._counters
        self._copy_rows(made, pause)
        self._copy_attic(made, pause)
        self._made = made
        for _ in range(_MOST_ROUNDS):
            if self._waiting_rows() <= _FEW_ROWS:
                break
            self.catch_up(pause)

    def catch_up(self, pause: Callable[[], None] = lambda: None) -> None:
        """Apply the changes recorded so far to the new contents, and encode their tail."""
        made = self._built()
        with self._lock:
            runs, self._runs = self._runs, []
        for run in runs:
            pause()
            made.apply(run)
        while made.index.encode_pending(_ENCODE_ROWS):
            pause()

    def finish(self) -> Contents:
        """Return the new contents with all that is recorded; the caller holds the writer lock."""
        made = self._built()
        for run in self._runs:
            made.apply(run)
        self._runs = []
        return made

    def dispose(self) -> None:
        """Empty the old contents' map of keys, bit by bit: at once it would stop all threads."""
        slots = self.base.slots
        while slots:
            slots.popitem()

    def _built(self) -> Contents:
        assert self._made is not None, "build comes first"
        return self._made

    def _waiting_rows(self) -> int:
        with self._lock:
            return sum(len(piece) for run in self._runs for piece in run)

    def _copy_rows(self, made: Contents, pause: Callable[[], None]) -> None:
        """Copy keys and columns; texts get new codes, so that those of dead rows are forgotten."""
        frozen = self._frozen
        live = np.flatnonzero(frozen.index.alive())
        for first in range(0, len(live), _SLICE_ROWS):
            pause()
            part = live[first : first + _SLICE_ROWS]
            keys = frozen.keys.raw(part)
            views = [view.take(part).to_arrow() for view in frozen.columns.values()]
            made.key_rows.extend(keys)
            made.columns.extend([c.decode(v) for c, v in zip(made.codecs, views, strict=True)])
            made.slots.update(zip(keys, range(first, first + len(keys)), strict=True))

    def _copy_attic(self, made: Contents, pause: Callable[[], None]) -> None:
        frozen = self._frozen
        for first in range(0, len(frozen.attic), _SLICE_ROWS):
            pause()
            part = slice(first, first + _SLICE_ROWS)
            slots = frozen.attic[part]
            views = [view.take(slots).to_arrow() for view in frozen.attic_columns.values()]
            rows = [c.decode(v) for c, v in zip(made.codecs, views, strict=True)]
            keys = frozen.attic_keys.raw(slots)
            made.slots.update(made.attic.extend(keys, rows, frozen.attic_reasons[part]))
