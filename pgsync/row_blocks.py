"""Row messages on their way: RowRun collects them, RowBlock waits to be decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .fields import Positions
from .layout import RelationLayout
from .row_messages import RowMessages
from .spill import SpilledBytes


@dataclass(frozen=True, slots=True)
class RowBlock:
    """n row messages whose commit LSN is known.

    ``watermark_lsn`` is how far the stream is once these have been sent.
    """

    layout: RelationLayout
    data: bytes | bytearray | SpilledBytes
    starts: Positions
    ends: Positions
    commit_lsn: npt.NDArray[np.uint64]
    ordinal: npt.NDArray[np.uint32]
    watermark_lsn: int

    @property
    def n_rows(self) -> int:
        """Return the number of messages."""
        return len(self.starts)

    @property
    def n_bytes(self) -> int:
        """Return the bytes that the messages take on the wire."""
        return int((self.ends - self.starts).sum())

    def load(self) -> RowMessages:
        """Return the messages, from disk if they are there; raise OSError."""
        data = self.data.read() if isinstance(self.data, SpilledBytes) else self.data
        return RowMessages(self.layout, data, self.starts, self.ends, self.commit_lsn, self.ordinal)


class RowRun:
    """Messages of transactions that are not streamed, which share one layout, as they come in.

    ``data`` holds them end to end and ``ends`` where each ends. A span says from which row on which
    commit LSN holds, and the ordinal of that row; the first row always starts one. The first
    ``complete_rows`` belong to transactions whose commit has arrived.
    """

    __slots__ = ("complete_rows", "data", "ends", "layout", "spans")

    def __init__(self, layout: RelationLayout) -> None:
        self.layout = layout
        self.data = bytearray()
        self.ends: list[int] = []
        self.spans: list[tuple[int, int, int]] = []
        self.complete_rows = 0

    def block(self, watermark_lsn: int) -> RowBlock:
        """Return all rows of the run as a block."""
        bounds = np.array([0, *self.ends], np.int64)
        first, lsns, ordinals = (
            np.array(part, np.uint64) for part in zip(*self.spans, strict=True)
        )
        lengths = np.diff(np.append(first, np.uint64(len(self.ends)))).astype(np.int64)
        rows = np.arange(len(self.ends), dtype=np.uint64)
        ordinal = rows - np.repeat(first, lengths) + np.repeat(ordinals, lengths)
        return RowBlock(
            layout=self.layout,
            data=self.data,
            starts=bounds[:-1],
            ends=bounds[1:],
            commit_lsn=np.repeat(lsns, lengths),
            ordinal=ordinal.astype(np.uint32),
            watermark_lsn=watermark_lsn,
        )

    def split(self) -> tuple[RowRun, RowRun]:
        """Return the rows of complete transactions, and those of the one that is still open."""
        done, rest = RowRun(self.layout), RowRun(self.layout)
        rows = self.complete_rows
        cut = self.ends[rows - 1]
        done.data, rest.data = self.data[:cut], self.data[cut:]
        done.ends = self.ends[:rows]
        rest.ends = [end - cut for end in self.ends[rows:]]
        done.spans = [span for span in self.spans if span[0] < rows]
        rest.spans = [(row - rows, lsn, n) for row, lsn, n in self.spans if row >= rows]
        return done, rest
