"""Row messages on their way: RowRun collects them, RowBlock waits to be decoded."""

from __future__ import annotations

from array import array
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

    ``data`` holds them end to end; message i is ``data[bounds[i]:bounds[i + 1]]``. The first
    ``complete_rows`` belong to transactions whose commit has arrived.
    """

    __slots__ = ("bounds", "commit_lsns", "complete_rows", "data", "layout", "ordinals")

    def __init__(self, layout: RelationLayout) -> None:
        self.layout = layout
        self.data = bytearray()
        self.bounds = array("q", (0,))
        self.commit_lsns = array("Q")
        self.ordinals = array("I")
        self.complete_rows = 0

    @property
    def n_rows(self) -> int:
        """Return the number of messages."""
        return len(self.ordinals)

    def append(self, payload: bytes | memoryview, commit_lsn: int, ordinal: int) -> None:
        """Take a copy of one message."""
        self.data += payload
        self.bounds.append(len(self.data))
        self.commit_lsns.append(commit_lsn)
        self.ordinals.append(ordinal)

    def block(self, watermark_lsn: int) -> RowBlock:
        """Return all rows of the run as a block; nothing may be appended afterwards."""
        bounds = np.frombuffer(self.bounds, np.int64)
        return RowBlock(
            layout=self.layout,
            data=self.data,
            starts=bounds[:-1],
            ends=bounds[1:],
            commit_lsn=np.frombuffer(self.commit_lsns, np.uint64),
            ordinal=np.frombuffer(self.ordinals, np.uint32),
            watermark_lsn=watermark_lsn,
        )

    def split(self) -> tuple[RowRun, RowRun]:
        """Return the rows of complete transactions, and those of the one that is still open."""
        done, rest = RowRun(self.layout), RowRun(self.layout)
        rows = self.complete_rows
        cut = self.bounds[rows]
        done.data, rest.data = self.data[:cut], self.data[cut:]
        done.bounds = self.bounds[: rows + 1]
        rest.bounds = array("q", [end - cut for end in self.bounds[rows:]])
        done.commit_lsns, rest.commit_lsns = self.commit_lsns[:rows], self.commit_lsns[rows:]
        done.ordinals, rest.ordinals = self.ordinals[:rows], self.ordinals[rows:]
        return done, rest
