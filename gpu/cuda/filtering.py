"""Launch of filter.cu: a program over the columns of many rows, in one round trip."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu.arrays import U8
from gpu.filter_program import FilterProgram

from .block import Block, Output
from .columns import ColumnAt
from .device import Buffer, Kernel
from .scratch import Queue
from .workspace import Workspace

THREADS = 256
#: Rows of one word of matches: a warp's.
WARP_ROWS = 32
#: Blocks for each SM: as many as fit one, so that each copies the steps once.
BLOCKS_A_MULTIPROCESSOR = 8


class ProgramAt(NamedTuple):
    """A program on the device: its number of steps, where they and its data are, its depth."""

    steps: int
    code: int
    data: int
    depth: int


class Results(NamedTuple):
    """Addresses of u32 words of matches, and of a u32 for each block: whether a row failed."""

    matches: int
    failed: int


def blocks_of(queue: Queue, span: range) -> int:
    """Return the number of blocks that test the rows of ``span``."""
    most = BLOCKS_A_MULTIPROCESSOR * queue.device.multiprocessors
    return max(1, min(-(-len(span) // THREADS), most))


def filter_rows(
    queue: Queue, program: ProgramAt, columns: int, alive: int, span: range, results: Results
) -> None:
    """Test the rows of ``span``, which starts at a multiple of 32; ``alive``: the bitmap of all.

    ``columns``: the address of ``ColumnAt``s as u64[c, 5].
    """
    queue.device.launch(
        Kernel("filter", "filter_rows"),
        (blocks_of(queue, span), 1, 1),
        THREADS,
        (
            np.int32(program.steps),
            np.uint64(program.code),
            np.uint64(program.data),
            np.uint64(columns),
            np.uint64(alive),
            np.int64(span.start),
            np.int64(span.stop),
            np.uint64(results.matches),
            np.uint64(results.failed),
        ),
        queue.stream,
        shared_bytes=16 * program.steps + 8 * THREADS * program.depth,
    )


def filter_block(
    space: Workspace,
    program: FilterProgram,
    places: tuple[ColumnAt, ...],
    alive: Buffer,
    span: range,
) -> U8 | None:
    """Return the bits of the matches in ``span``, u8[...]; None if an alive row has an error."""
    table = np.array(places, np.uint64).reshape(-1, 5)
    words = -(-len(span) // WARP_ROWS)
    blocks = blocks_of(Queue(space.device, space.stream), span)
    outputs = (Output((words,), np.uint32), Output((blocks,), np.uint32))
    block = Block(space, (program.code, program.data, table), outputs, 0)
    block.send()
    at = ProgramAt(len(program.steps), block.input(0), block.input(1), program.depth)
    results = Results(block.output(0), block.output(1))
    filter_rows(block.queue, at, block.input(2), alive.address, span, results)
    block.receive()
    matches, failed = block.wait()
    if failed.any():
        return None
    bits: U8 = matches.view(np.uint8)[: -(-len(span) // 8)]
    return bits
