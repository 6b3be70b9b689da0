"""A filter's answer in the form that searches use: one bit for each row.

A search takes ``bool[n]`` too; who asks with the same filter again packs it once, and of the state
that was searched last the mask keeps what searches work out of both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np

from .arrays import U8, Bool
from .bitmap import count, pack
from .errors import BadInput

if TYPE_CHECKING:
    from .state import IndexState


class Narrowed:
    """What a mask leaves of one state: ``bits`` = alive AND mask, ``matches`` of them set.

    ``routes``: the short ways that express.py has learned for it. It keeps no state alive.
    """

    __slots__ = ("bits", "matches", "routes", "state")

    def __init__(self, state: IndexState, mask: U8) -> None:
        self.state = ref(state)
        self.bits: U8 = mask & state.alive_bits[: len(mask)]
        self.matches = count(self.bits, state.n_rows)
        self.routes: dict[Any, Any] = {}


@dataclass(frozen=True, slots=True, eq=False)
class PackedMask:
    """Which of the row ids [0, n_rows) match: bit ``i & 7`` of byte ``i >> 3``, zeros past them."""

    bits: U8
    n_rows: int
    _last: Narrowed | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, flags: Bool) -> PackedMask:
        """Pack bool[n]."""
        return cls(pack(flags), len(flags))

    def known(self, state: IndexState) -> Narrowed | None:
        """Return what is known of this state; only the last one is remembered."""
        last = self._last
        return last if last is not None and last.state() is state else None

    def narrowed(self, state: IndexState) -> Narrowed:
        """Return what the mask leaves of the state; raise BadInput if it is of other rows."""
        if self.n_rows != state.n_rows:
            raise BadInput(f"the mask is of {self.n_rows} rows, the state has {state.n_rows}")
        known = self.known(state)
        if known is None:
            known = Narrowed(state, self.bits)
            object.__setattr__(self, "_last", known)
        return known


def narrowed(mask: Bool | PackedMask, state: IndexState) -> Narrowed:
    """Return what a mask leaves of the state; raise BadInput if it is none of its rows."""
    if isinstance(mask, PackedMask):
        return mask.narrowed(state)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (state.n_rows,):
        got = f"{mask.dtype}{list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask)
        raise BadInput(f"mask must be bool[{state.n_rows}], not {got}")
    return Narrowed(state, pack(mask))
