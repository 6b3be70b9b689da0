"""Launches of tables.cu: one lookup table for each placed query."""

from __future__ import annotations

import numpy as np

from .device import Kernel
from .layout import CodecView
from .scratch import Queue, Scratch

#: Entries of a block, and queries that share it (tables.cu).
THREADS = 256
TABLE_QUERIES = 4


def make_tables(queue: Queue, codec: CodecView, queries: int, scratch: Scratch) -> None:
    """Write ``scratch.tables`` and ``largest`` of the placed queries; ``largest`` is 0 before."""
    layout = codec.layout
    entries = layout.padded_m * layout.codewords
    queue.device.launch(
        Kernel("tables", "make_tables"),
        (-(-entries // THREADS), -(-queries // TABLE_QUERIES), 1),
        THREADS,
        (
            np.uint64(scratch.placed),
            np.int32(codec.stride),
            np.uint64(codec.codebooks),
            np.int32(codec.m),
            np.int32(codec.width),
            np.int32(codec.bits),
            np.int32(layout.padded_m),
            np.int32(queries),
            np.uint64(scratch.tables),
            np.uint64(scratch.largest),
        ),
        queue.stream,
    )
