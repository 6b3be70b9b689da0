"""Folding: from a run of changes to what each key is in the end. Pure.

A version of a row may lean on the one before it: an unchanged TOAST vector or column was not sent.
So every change i has *sources*: where its vector and each of its columns come from. A source is

    0 <= s < n      change number s of the run
    s >= n          row id s - n of the index
    s < 0           attic slot ~s: a stored row that is not in the index

Invariants:

- A value that was not sent is taken from the version before, wherever that is; if there is none,
  ResyncRequired is raised. It is never taken for NULL.
- Within a transaction a key may be held twice for a moment (rows that trade keys under a deferred
  constraint); the row that was there first is the one that leaves first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgsync.changes import Op, VectorState

from .errors import ResyncRequired
from .keys import RawKey

#: ``Fold.final`` of a key whose row is deleted.
GONE = -1


@dataclass(frozen=True, slots=True)
class Run:
    """n changes to fold, in stream order. ``old_keys`` is None when no change has an old key."""

    ops: NDArray[np.uint8]
    commit_lsns: NDArray[np.uint64]
    keys: Sequence[RawKey | None]
    old_keys: Sequence[RawKey | None] | None
    vector_states: NDArray[np.uint8]
    unchanged: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Fold:
    """The outcome of a run.

    ``cleared``: a TRUNCATE was among the changes; nothing stored before survives.
    ``final``: per key touched, the change that made its last version, or GONE.
    ``bases``: per change that leans on the version before it, the source of that version.
    """

    cleared: bool
    final: dict[RawKey, int]
    bases: dict[int, int]


def fold(run: Run, stored: Mapping[RawKey, int]) -> Fold:
    """Fold a run over ``stored`` (key -> row id, or ~slot for the attic); raise ResyncRequired."""
    if run.old_keys is None and not np.any(run.ops == Op.TRUNCATE):
        final: dict[RawKey, int] = dict(zip(run.keys, range(len(run.ops)), strict=True))  # type: ignore[arg-type]
        if len(final) == len(run.ops):
            return _fold_apart(run, final, stored)
    return _Folder(run, stored).fold()


def lean(run: Run) -> NDArray[np.bool_]:
    """Return which changes (bool[n]) lean on the version before them."""
    leaning = (run.vector_states == VectorState.UNCHANGED) | (run.unchanged != 0)
    return np.asarray(leaning & (run.ops == Op.UPSERT))


def _fold_apart(run: Run, final: dict[RawKey, int], stored: Mapping[RawKey, int]) -> Fold:
    """Fold changes that all have different keys: none depends on another."""
    bases: dict[int, int] = {}
    for number in np.flatnonzero(lean(run)).tolist():
        bases[number] = _needed(_as_source(stored.get(run.keys[number]), len(run.ops)))  # type: ignore[arg-type]
    for number in np.flatnonzero(run.ops == Op.DELETE).tolist():
        final[run.keys[number]] = GONE  # type: ignore[index]
    return Fold(False, final, bases)


class _Folder:
    """The general case, one change after the other."""

    def __init__(self, run: Run, stored: Mapping[RawKey, int]) -> None:
        self._run, self._stored = run, stored
        self._final: dict[RawKey, int] = {}
        self._bases: dict[int, int] = {}
        self._cleared = False
        #: Versions that still hold a key which another row has taken over, oldest first.
        self._leaving: dict[RawKey, list[int]] = {}

    def fold(self) -> Fold:
        run = self._run
        leaning, lsns, ops = lean(run).tolist(), run.commit_lsns.tolist(), run.ops.tolist()
        transaction = -1
        for number, (op, lsn, key) in enumerate(zip(ops, lsns, run.keys, strict=True)):
            if lsn != transaction:
                transaction = lsn
                self._leaving.clear()
            if op == Op.TRUNCATE or key is None:
                self._truncate()
            elif op == Op.DELETE:
                self._remove(key)
            else:
                self._upsert(number, key, leaning[number])
        return Fold(self._cleared, self._final, self._bases)

    def _upsert(self, number: int, key: RawKey, leaning: bool) -> None:
        old = self._run.old_keys[number] if self._run.old_keys is not None else None
        if old is None or old == key:
            before = self._version(key)
        else:
            before = self._remove(old)
            present = self._version(key)
            if present is not None:
                self._leaving.setdefault(key, []).append(present)
        if leaning:
            self._bases[number] = _needed(before)
        self._final[key] = number

    def _remove(self, key: RawKey) -> int | None:
        """Take the oldest version of ``key`` away and return its source."""
        if self._leaving.get(key):
            return self._leaving[key].pop(0)
        before = self._version(key)
        self._final[key] = GONE
        return before

    def _version(self, key: RawKey) -> int | None:
        number = self._final.get(key)
        if number is not None:
            return None if number == GONE else number
        return None if self._cleared else _as_source(self._stored.get(key), len(self._run.ops))

    def _truncate(self) -> None:
        self._final.clear()
        self._leaving.clear()
        self._cleared = True


def _as_source(slot: int | None, n: int) -> int | None:
    return n + slot if slot is not None and slot >= 0 else slot


def _needed(source: int | None) -> int:
    if source is None:
        raise ResyncRequired("a change leaves out values of a row that the index does not have")
    return source
