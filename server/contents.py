"""Contents: the rows of one epoch of an index, and the only way in which they change.

Invariants:

- ``slots`` maps the key of every row of the table to its row id, or to ~slot in the attic. The
  attic holds the rows that are not in the index, with the reason and their filter columns: a later
  change may leave those out.
- Row id r of the index has key r and column value r; the three grow together.
- ``apply`` raises ResyncRequired before it changes anything. After any other error the contents are
  not to be used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpu.index import Index
from pgsync.changes import VectorState

from .attic import Attic
from .batches import Changes
from .columns import ArrowArray, ColumnCodec, ColumnStore, ColumnView, concat, same_rows
from .folding import GONE, Fold, Run, fold
from .keys import KeyRows, RawKey, raw_keys
from .sources import Sources, resolve
from .spec import IndexSpec

#: Rows gathered at a time: bounds the copy of a large transaction's vectors.
_GATHER_ROWS = 16_384


class Contents:
    """Index, keys, columns and attic of one epoch. One writer at a time."""

    def __init__(
        self, spec: IndexSpec, index: Index | None = None, codecs: Sequence[ColumnCodec] = ()
    ) -> None:
        """Make empty contents; ``index`` and ``codecs`` are what a snapshot held."""
        self.spec = spec
        self.index = index or Index(spec.index_params())
        self.codecs = tuple(codecs) or tuple(ColumnCodec(c) for c in spec.table.columns)
        self.key_rows = KeyRows(spec.table.key)
        self.columns = ColumnStore(self.codecs)
        self.attic = Attic(spec.table.key, self.codecs)
        self.slots: dict[RawKey, int] = {}
        self.counters = dict.fromkeys(("upserts", "deletes", "truncates", "unchanged"), 0)

    def apply(self, pieces: Sequence[Changes]) -> None:
        """Make a run of changes, given in pieces, the newest contents, all at once."""
        pieces = [piece for piece in pieces if len(piece)]
        if pieces:
            self._apply(_Joined(self.spec, pieces))
            self.index.publish()

    @property
    def dead_rows(self) -> int:
        """Rows that are gone but still take memory: a vector, or at least their texts."""
        return self.index.state.dead_rows + self.attic.forgotten_rows

    @property
    def rows_ever(self) -> int:
        """Rows since these contents began, dead or alive."""
        return len(self.slots) + self.dead_rows

    def restore(self) -> None:
        """Find the slots of keys that a snapshot brought back."""
        rows, attic = np.flatnonzero(self.index.state.alive()), self.attic.living()
        self.slots = dict(zip(self.key_rows.view().raw(rows), rows.tolist(), strict=True))
        excluded = self.attic.key_rows.view().raw(attic)
        self.slots.update(zip(excluded, (~attic).tolist(), strict=True))

    def _apply(self, joined: _Joined) -> None:
        outcome = fold(joined.run, self.slots)
        sources = resolve(joined.run, outcome, self.attic.reasons())
        winners = np.fromiter((n for n in outcome.final.values() if n != GONE), np.int64)
        indexed = sources.states[winners] == VectorState.PRESENT
        columns = joined.columns(self.codecs)
        wanted = self._drop_unchanged(outcome, joined, sources, columns, winners[indexed])
        self._remove(outcome)
        self._add(joined, sources, columns, wanted)
        self._exclude(joined, sources, columns, winners[~indexed])
        self.slots.update(self.attic.compact())
        self._count(joined.run)

    def _add(
        self,
        joined: _Joined,
        sources: Sources,
        columns: Sequence[ColumnView],
        winners: NDArray[np.int64],
    ) -> None:
        """Give row ids to the versions that ``winners`` (change numbers) made."""
        if not len(winners):
            return
        first = len(self.key_rows)
        for start in range(0, len(winners), _GATHER_ROWS):
            part = sources.vectors[winners[start : start + _GATHER_ROWS]]
            self.index.add(self._vectors(joined, part))
        keys = joined.take_keys(winners)
        self.key_rows.extend(keys)
        self.columns.extend(self._columns(sources, columns, winners))
        self.slots.update(zip(keys, range(first, first + len(keys)), strict=True))

    def _exclude(
        self,
        joined: _Joined,
        sources: Sources,
        columns: Sequence[ColumnView],
        winners: NDArray[np.int64],
    ) -> None:
        """Put the versions without a valid vector into the attic."""
        if not len(winners):
            return
        keys = joined.take_keys(winners)
        rows = self._columns(sources, columns, winners)
        self.slots.update(self.attic.extend(keys, rows, sources.states[winners]))

    def _remove(self, outcome: Fold) -> None:
        """Kill the stored versions of every key that the run touched."""
        if outcome.cleared:
            old = list(self.slots.values())
            self.slots.clear()
        else:
            found = map(self.slots.get, outcome.final)
            old = [slot for slot in found if slot is not None]
            for key, number in outcome.final.items():
                if number == GONE:
                    self.slots.pop(key, None)
        slots = np.array(old, np.int64)
        rows = slots[slots >= 0]
        if len(rows):
            self.index.kill(rows)
        self.attic.kill(~slots[slots < 0])

    def _drop_unchanged(
        self,
        outcome: Fold,
        joined: _Joined,
        sources: Sources,
        columns: Sequence[ColumnView],
        winners: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return ``winners`` without those that only repeat what the index holds.

        An UPDATE of a column that is not mirrored arrives like any other; a new row id for each
        would fill the index with dead rows. Their keys leave ``outcome.final``.
        """
        if outcome.cleared or not self.slots:
            return winners
        keys = joined.take_keys(winners)
        slots = np.array([self.slots.get(key, -1) for key in keys], np.int64)
        known = np.flatnonzero(slots >= 0)
        same = known[self._same(joined, sources, columns, winners[known], slots[known])]
        if not len(same):
            return winners
        for number in same.tolist():
            del outcome.final[keys[number]]
        self.counters["unchanged"] += len(same)
        return np.delete(winners, same)

    def _same(
        self,
        joined: _Joined,
        sources: Sources,
        columns: Sequence[ColumnView],
        winners: NDArray[np.int64],
        rows: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the positions at which ``winners`` (change numbers) equal stored ``rows``."""
        same = sources.vectors[winners] == len(joined.run.ops) + rows
        for start in range(0, len(winners), _GATHER_ROWS):
            part = start + np.flatnonzero(~same[start : start + _GATHER_ROWS])
            if len(part):
                new_vectors = self._vectors(joined, sources.vectors[winners[part]])
                old_vectors = self.index.state.vectors(rows[part])
                same[part] = _same_vectors(new_vectors, old_vectors, self.spec.raw_dtype)
        left = np.flatnonzero(same)
        if len(left):
            new_columns = self._columns(sources, columns, winners[left])
            for new, stored in zip(new_columns, self.columns.views().values(), strict=True):
                same[left] &= same_rows(new, stored.take(rows[left]))
        return np.flatnonzero(same)

    def _vectors(self, joined: _Joined, sources: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors f32[s, d] that ``sources`` (none in the attic) name."""
        n = len(joined.run.ops)
        stored = sources >= n
        if not stored.any():
            return joined.vectors(sources)
        if stored.all():
            return self.index.state.vectors(sources - n)
        vectors = np.empty((len(sources), self.spec.table.dim), np.float32)
        vectors[stored] = self.index.state.vectors(sources[stored] - n)
        vectors[~stored] = joined.vectors(sources[~stored])
        return vectors

    def _columns(
        self, sources: Sources, columns: Sequence[ColumnView], winners: NDArray[np.int64]
    ) -> list[ColumnView]:
        """Return every column of the versions that ``winners`` made, in order."""
        if not sources.columns:
            return [_chosen(column, winners) for column in columns]
        stored, attic = self.columns.views().values(), self.attic.columns.views().values()
        return [
            _gather(sources.columns.get(number), winners, stores)
            for number, stores in enumerate(zip(columns, stored, attic, strict=True))
        ]

    def _count(self, run: Run) -> None:
        counts = np.bincount(run.ops, minlength=4)
        self.counters["upserts"] += int(counts[1])
        self.counters["deletes"] += int(counts[2])
        self.counters["truncates"] += int(counts[3])


class _Joined:
    """Pieces of one run: narrow columns joined, vectors left where they are."""

    def __init__(self, spec: IndexSpec, pieces: Sequence[Changes]) -> None:
        self._pieces = pieces
        self._starts = np.cumsum([0, *(len(piece) for piece in pieces)])
        key = spec.table.key
        old_name = f"old:{key[0].name}"
        has_old = any(len(p) > p.rows.column(old_name).null_count for p in pieces)
        self.run = Run(
            _concatenate([piece.ops for piece in pieces]),
            _concatenate([piece.commit_lsns for piece in pieces]),
            [k for piece in pieces for k in raw_keys(piece.rows, "key:", key)],
            [k for piece in pieces for k in raw_keys(piece.rows, "old:", key)] if has_old else None,
            _concatenate([piece.vector_states for piece in pieces]),
            _concatenate([piece.unchanged for piece in pieces]),
        )

    def take_keys(self, numbers: NDArray[np.int64]) -> list[RawKey]:
        """Return the keys of the changes ``numbers``."""
        keys: Sequence[Any] = self.run.keys
        return [keys[number] for number in numbers.tolist()]

    def columns(self, codecs: Sequence[ColumnCodec]) -> list[ColumnView]:
        """Return the filter columns of all n changes."""
        return [codec.decode(self._column(f"col:{codec.name}")) for codec in codecs]

    def vectors(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors f32[len(numbers), d] of changes that carry one."""
        if len(self._pieces) == 1:
            return _take_rows(self._pieces[0].vectors, numbers)
        vectors = np.empty((len(numbers), self._pieces[0].vectors.shape[1]), np.float32)
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        for owner in np.unique(owners).tolist():
            own = owners == owner
            vectors[own] = self._pieces[owner].vectors[numbers[own] - self._starts[owner]]
        return vectors

    def _column(self, name: str) -> ArrowArray:
        columns = [piece.rows.column(name) for piece in self._pieces]
        return columns[0] if len(columns) == 1 else pa.concat_arrays(columns)


def _concatenate(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _take_rows(vectors: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return ``vectors[numbers]`` as float32, without a copy where the rows lie side by side."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first + 1 == len(numbers) and np.all(numbers[1:] > numbers[:-1]):
        taken = vectors[first : last + 1]
    else:
        taken = vectors[numbers]
    return taken.astype(np.float32, copy=False)


def _chosen(column: ColumnView, winners: NDArray[np.int64]) -> ColumnView:
    """Return ``column.take(winners)``, without a copy where that is the whole column."""
    whole = len(winners) == len(column) and bool(np.all(winners[1:] > winners[:-1]))
    return column if whole else column.take(winners)


def _gather(
    sources: NDArray[np.int64] | None,
    winners: NDArray[np.int64],
    stores: tuple[ColumnView, ColumnView, ColumnView],
) -> ColumnView:
    """Return one column of ``winners`` out of the run, the index and the attic."""
    run, stored, attic = stores
    if sources is None:
        return _chosen(run, winners)
    wanted = sources[winners]
    from_run, from_attic = (wanted >= 0) & (wanted < len(run)), wanted < 0
    from_stored = wanted >= len(run)
    parts = [
        run.take(wanted[from_run]),
        stored.take(wanted[from_stored] - len(run)),
        attic.take(~wanted[from_attic]),
    ]
    order = np.concatenate([np.flatnonzero(m) for m in (from_run, from_stored, from_attic)])
    return concat(parts).take(np.argsort(order))


def _same_vectors(
    new: NDArray[np.float32], old: NDArray[np.float32], raw_dtype: str
) -> NDArray[np.bool_]:
    rounded = new.astype(raw_dtype).astype(np.float32)
    return np.asarray((rounded == old).all(axis=1))
