"""Trained: what training hands to the writer, and what a state searches with from then on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from .arrays import I64
from .backend import Backend, Lists
from .bitmap import unpack
from .codec import Codec
from .drift import Drift, Seen
from .encoding import encode_rows
from .plan import Plan
from .pq import code_bytes

if TYPE_CHECKING:
    from .arrays import U8
    from .rows import Rows

#: Components encoded between two looks at whoever waits.
BLOCK_COMPONENTS = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trained:
    """A codec with rows [0, encoded_rows) in its lists; ``aside`` i64[a] are searched exactly.

    ``kept_rows`` of them were alive when they were encoded, or when the lists were last rewritten.
    ``live_rows`` is the number of live rows at training time. Never changes; ``encoded`` returns
    another one.
    """

    codec: Codec
    lists: Lists
    plan: Plan
    aside: I64
    encoded_rows: int
    live_rows: int
    kept_rows: int = 0
    drift: Drift = field(default_factory=Drift)

    @classmethod
    def empty(cls, codec: Codec, backend: Backend, live_rows: int) -> Trained:
        """Return a codec with nothing encoded yet."""
        return cls(
            codec=codec,
            lists=backend.open_lists(codec),
            plan=Plan(codec.nlist),
            aside=np.empty(0, np.int64),
            encoded_rows=0,
            live_rows=live_rows,
        )

    def encoded(self, backend: Backend, rows: Rows, alive: U8, stop: int) -> Trained:
        """Return this with rows [encoded_rows, stop) in the lists; dead ones are left out for good.

        ``alive`` is the packed bitmap of a published state.
        """
        lists, aside, kept, drift = self.lists, [self.aside], self.kept_rows, self.drift
        step = max(1, BLOCK_COMPONENTS // rows.dim)
        for block in rows.blocks(self.encoded_rows, stop, step):
            places = np.flatnonzero(unpack(alive, block.start, block.start + len(block.norms)))
            vectors = block.vectors
            if len(places) < len(vectors):
                vectors = vectors[places]
            batch = encode_rows(self.codec, backend, vectors, block.start + places)
            lists = lists.append(batch.contents)
            aside.append(batch.aside)
            kept += len(places)
            drift = drift.plus(Seen(len(batch.contents), batch.squares, len(batch.aside)))
        return replace(
            self,
            lists=lists,
            aside=np.concatenate(aside),
            encoded_rows=stop,
            kept_rows=kept,
            drift=drift,
        )

    @property
    def drifted(self) -> bool:
        """Whether the rows have moved away from those that the codec was trained on."""
        return self.drift.due(self.lists.lengths)

    def stats(self) -> dict[str, object]:
        """Return figures for people and monitoring; sizes are in bytes."""
        codec, lengths = self.codec, self.lists.lengths
        rows = int(lengths.sum())
        row_bytes = code_bytes(codec.m, codec.bits) + 4 + 8
        return {
            "nlist": codec.nlist,
            "m": codec.m,
            "code_bits": codec.bits,
            "rotation": codec.rotation is not None,
            "gain": codec.use_gain,
            "tables": codec.lut,
            "rows_in_lists": rows,
            "longest_list": int(lengths.max()),
            "rows_aside": len(self.aside),
            "list_bytes": rows * row_bytes,
            "trained_on_live_rows": self.live_rows,
            "drift": self.drift.stats(lengths),
            "plan": [asdict(step) for step in self.plan.steps],
        }
