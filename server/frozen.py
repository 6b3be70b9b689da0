"""Frozen: contents at one moment, immutable: what snapshots and compactions are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu.state import IndexState

from .columns import ColumnView
from .contents import Contents
from .keys import KeyView


@dataclass(frozen=True, slots=True)
class Frozen:
    """Rows of the index by row id, and of the attic by slot.

    ``attic`` are the slots in use, i64[a]; ``attic_reasons`` u8[a] goes with them.
    """

    index: IndexState
    keys: KeyView
    columns: Mapping[str, ColumnView]
    attic: NDArray[np.int64]
    attic_keys: KeyView
    attic_columns: Mapping[str, ColumnView]
    attic_reasons: NDArray[np.uint8]


def freeze(contents: Contents) -> Frozen:
    """Return the published contents as they are now; the caller holds the writer lock."""
    attic = contents.attic
    slots = attic.living()
    return Frozen(
        contents.index.state,
        contents.key_rows.view(),
        contents.columns.views(),
        slots,
        attic.key_rows.view(),
        attic.columns.views(),
        attic.reasons()[slots],
    )
