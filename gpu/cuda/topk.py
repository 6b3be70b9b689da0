"""Host side of topk.cuh: the room that the best r of many keys need."""

from __future__ import annotations

#: Threads of a block that selects, and keys that one of its steps may add (topk.cuh).
TOP_THREADS = 256
TOP_WARPS = TOP_THREADS // 32
TOP_STEP = 2 * TOP_THREADS
#: Most results of a selecting kernel: 2,048 keys take 16 KiB of shared memory, which leaves room
#: for tables on every card.
MOST_RESULTS = 1024
KEY_BYTES = 8


def capacity(results: int) -> int:
    """Return the keys a block keeps: a power of two with room for one step behind ``results``."""
    if not 1 <= results <= MOST_RESULTS:
        raise ValueError(f"{results} results; selecting kernels return 1 to {MOST_RESULTS}")
    return 1 << (results + TOP_STEP - 1).bit_length()
