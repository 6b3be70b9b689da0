"""Finds the row id that a primary key has in one published state.

The writer's own map from key to row id is newer than any state, so a reader looks in the state
itself: a scan over the key columns, which are plain arrays.
"""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .keys import Key, KeyPart
from .state import MirrorState


def find_row(state: MirrorState, key: Key) -> int | None:
    """Return the row id of the live row with ``key``; None when there is none.

    A uuid may be given as text. A key of the wrong shape or type is a key no row has.
    """
    wanted = key if isinstance(key, tuple) else (key,)
    if len(wanted) != len(state.key_view.specs):
        return None
    matching = state.index.alive().copy()
    for spec, part, values in zip(state.key_view.specs, wanted, state.key_view.parts, strict=True):
        raw = _raw(spec.type, part)
        if raw is None:
            return None
        matching &= _equal(values, raw, len(matching))
    rows = np.flatnonzero(matching)
    return int(rows[-1]) if len(rows) else None


def _raw(column_type: str, part: KeyPart) -> int | str | bytes | None:
    """Return ``part`` in the form the state holds, or None when no row can have it."""
    if column_type == "text":
        return part if isinstance(part, str) else None
    if column_type == "uuid":
        return _uuid_bytes(part)
    return part if isinstance(part, int) and -(2**63) <= part < 2**63 else None


def _uuid_bytes(part: KeyPart) -> bytes | None:
    if isinstance(part, uuid.UUID):
        return part.bytes
    try:
        return uuid.UUID(part).bytes if isinstance(part, str) else None
    except ValueError:
        return None


def _equal(values: Any, wanted: int | str | bytes, n_rows: int) -> NDArray[np.bool_]:
    """Return bool[n_rows]: whether each row's key part is ``wanted``."""
    if isinstance(wanted, str):
        row_ids = np.arange(n_rows)
        return np.fromiter((text == wanted for text in values.take(row_ids)), np.bool_, n_rows)
    if isinstance(wanted, bytes):
        return np.asarray(values[:n_rows] == np.void(wanted))
    return np.asarray(values[:n_rows] == wanted)
