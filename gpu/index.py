"""Index: the writer's handle. One thread adds, kills, publishes, encodes and adopts.

Invariants:

- adds and kills become visible at ``publish``, all at once, and at no other moment;
- ``encode_pending`` and ``adopt`` change how rows are found, never which rows there are;
- a state once published answers the same for ever.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from .arrays import I64, AnyArray
from .backend import Backend
from .bitmap import AliveBits, unpack
from .errors import BadInput
from .files import opened
from .opening import open_backend
from .params import IndexParams
from .rows import Rows
from .snapshots import read_trained
from .state import IndexState, checked_row_ids
from .trained import Trained
from .warmup import rehearse


class Index:
    """An index of vectors under row ids 0, 1, 2, ...; ``state`` is what searches use."""

    def __init__(self, params: IndexParams, backend: Backend | None = None) -> None:
        backend = backend or open_backend()
        rows = Rows(params, backend.raw_memory)
        self._alive = AliveBits()
        self._state = IndexState(
            params=params,
            backend=backend,
            rows=rows,
            n_rows=0,
            live_rows=0,
            alive_bits=self._alive.publish(0),
        )

    @property
    def params(self) -> IndexParams:
        """What the index was made with."""
        return self._state.params

    @property
    def state(self) -> IndexState:
        """The last published state."""
        return self._state

    def add(self, vectors: AnyArray) -> I64:
        """Append f32 or f16 [n, d]; return their row ids i64[n]. Not visible before ``publish``.

        Raise BadInput (another shape, not finite, beyond raw_dtype's range) or IndexFull; then
        nothing was added.
        """
        rows = self._state.rows
        array = np.asarray(vectors)
        if array.dtype not in (np.float32, np.float16):
            array = array.astype(np.float32)
        if array.ndim != 2 or array.shape[1] != rows.dim:
            raise BadInput(f"vectors must be [n, {rows.dim}], not {list(array.shape)}")
        first = rows.n_rows
        rows.append(array)
        return np.arange(first, rows.n_rows)

    def kill(self, row_ids: I64) -> None:
        """Mark row ids i64[n] as no longer current. Not visible before ``publish``.

        Killing a dead row does nothing; an id that was never given raises BadInput.
        """
        n_rows = self._state.rows.n_rows
        ids = checked_row_ids(row_ids, n_rows)
        if len(ids):
            self._alive.kill(ids, n_rows)

    def publish(self) -> IndexState:
        """Make all adds and kills since the last publish visible, at once; return the new state."""
        n_rows = self._state.rows.n_rows
        self._state = replace(
            self._state,
            n_rows=n_rows,
            live_rows=n_rows - self._alive.dead_rows,
            alive_bits=self._alive.publish(n_rows),
        )
        return self._state

    def encode_pending(self, limit_rows: int) -> int:
        """Move up to ``limit_rows`` published rows of the tail into lists; return how many.

        0 means that nothing is left to do, or that there is no codec yet.
        """
        state, trained = self._state, self._state.trained_part
        if trained is None:
            return 0
        stop = min(state.n_rows, trained.encoded_rows + max(0, limit_rows))
        moved = stop - trained.encoded_rows
        if moved > 0:
            trained = trained.encoded(state.backend, state.rows, state.alive_bits, stop)
            self._state = replace(state, trained_part=trained)
        return moved

    def adopt(self, trained: Trained) -> None:
        """Search with ``trained``, made by ``train`` from a state of this index, from now on.

        Rows that came after that state are tail until ``encode_pending`` has moved them.
        """
        if trained.encoded_rows > self._state.n_rows:
            raise BadInput("this was not trained on a state of this index")
        self._state = replace(self._state, trained_part=trained)

    @classmethod
    def load(cls, path: Path, backend: Backend | None = None) -> Index:
        """Read an index file; raise FileCorrupt if a single byte is not as written."""
        with opened(path) as reader:
            index = cls(IndexParams.from_json(reader.header["params"]), backend)
            for piece in reader.pieces("vectors"):
                index.add(piece)
            alive = unpack(reader.array("alive"), 0, reader.header["n_rows"])
            index.kill(np.flatnonzero(~alive))
            index.publish()
            if "centroids" in reader:
                index.adopt(read_trained(reader, index.state.backend))
        rehearse(index.state)
        return index
