"""Keys as columns, for filters and outputs.

Integers and uuids lie in arrays already. Text keys are coded into a dictionary when a filter first
asks for them; the strings of an index are only ever appended, so the codes are kept and extended.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from server.columns import DTYPES, ColumnView, Dictionary
from server.growing import GrowingArray
from server.state import MirrorState


class _Codes:
    """Codes of the strings of one index's text keys."""

    def __init__(self) -> None:
        self.dictionary = Dictionary(())
        self._codes = GrowingArray("<i4")
        self._lock = Lock()

    def first(self, strings: Any, count: int) -> NDArray[np.int32]:
        """Return the codes of the first ``count`` strings."""
        with self._lock:
            known = len(self._codes)
            if known < count:
                new = strings.take(np.arange(known, count))
                self._codes.extend(self.dictionary.encode(pa.array(new, pa.utf8())))
            view: NDArray[np.int32] = self._codes.view()[:count]
            return view


_codes: WeakKeyDictionary[Any, _Codes] = WeakKeyDictionary()
_lock = Lock()


def key_column(state: MirrorState, place: int) -> ColumnView:
    """Return the key column at ``place`` over all row ids [0, n) of a state."""
    spec, part, count = state.key_view.specs[place], state.key_view.parts[place], state.n_rows
    valid = np.ones(count, np.bool_)
    if isinstance(part, np.ndarray):
        return ColumnView(spec.type, valid, part[:count].astype(DTYPES[spec.type], copy=False))
    with _lock:
        codes = _codes.setdefault(part, _Codes())
    return ColumnView(spec.type, valid, codes.first(part, count), codes.dictionary.strings)


def key_rows(state: MirrorState, place: int, row_ids: NDArray[np.int64]) -> ColumnView:
    """Return the key column at ``place`` of ``row_ids`` (i64[r]) only."""
    spec, part = state.key_view.specs[place], state.key_view.parts[place]
    valid = np.ones(len(row_ids), np.bool_)
    if isinstance(part, np.ndarray):
        return ColumnView(spec.type, valid, part[row_ids].astype(DTYPES[spec.type], copy=False))
    strings: Sequence[str] = part.take(row_ids)
    words = list(dict.fromkeys(strings))
    places = {word: code for code, word in enumerate(words)}
    codes = np.fromiter((places[string] for string in strings), np.int32, len(strings))
    return ColumnView(spec.type, valid, codes, words)
