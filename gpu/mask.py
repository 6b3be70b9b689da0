"""A filter's answer in the form that searches use: one bit for each row.

A search takes ``bool[n]`` too; who asks with the same filter again packs it once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import U8, Bool
from .bitmap import pack
from .errors import BadInput


@dataclass(frozen=True, slots=True, eq=False)
class PackedMask:
    """Which of the row ids [0, n_rows) match: bit ``i & 7`` of byte ``i >> 3``, zeros past them."""

    bits: U8
    n_rows: int

    @classmethod
    def of(cls, flags: Bool) -> PackedMask:
        """Pack bool[n]."""
        return cls(pack(flags), len(flags))


def packed(mask: Bool | PackedMask, n_rows: int) -> U8:
    """Return the bits u8[ceil(n / 8)] of a mask over ``n_rows`` rows; raise BadInput otherwise."""
    if isinstance(mask, PackedMask):
        if mask.n_rows != n_rows:
            raise BadInput(f"the mask is of {mask.n_rows} rows, the state has {n_rows}")
        return mask.bits
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (n_rows,):
        got = f"{mask.dtype}{list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask)
        raise BadInput(f"mask must be bool[{n_rows}], not {got}")
    return pack(mask)
