"""Which CUDA errors leave the context whole, and which break it for good.

After a sticky error every later call fails with the same number, and what kernels wrote may be
anything (CUDA Runtime API, "Data types": "the process must be terminated and relaunched"). The
table lists errors that are known to be harmless; every other one counts as sticky, because a wrong
answer is worse than a restart. Runtime and driver number these errors alike.
"""

from __future__ import annotations

from gpu.errors import BackendError, DeviceLost, IndexFull

#: cudaErrorMemoryAllocation.
OUT_OF_MEMORY = 2

#: Errors that are about one call only.
HARMLESS = frozenset(
    {
        1,  # invalid value
        3,  # not initialized
        9,  # invalid configuration: grid or block
        35,  # insufficient driver
        98,  # invalid device function
        100,  # no device
        101,  # invalid device
        200,  # invalid kernel image
        209,  # no kernel image for the device
        218,  # invalid PTX
        222,  # PTX of a newer version than the driver's
        500,  # symbol not found
        701,  # launch out of resources
        801,  # not supported
        900,  # the stream is being captured, and the like
        901,
        902,
        903,
        904,
        905,
        906,
        907,
        908,
    }
)


def translated(doing: str, status: int, text: str) -> BackendError | IndexFull:
    """Return what to raise for CUDA error ``status``, met while ``doing`` something."""
    if status == OUT_OF_MEMORY:
        return IndexFull(f"the card has no memory left for {doing}")
    if status in HARMLESS:
        return BackendError(f"{doing} failed on the card: {text}")
    return DeviceLost(
        f"the card's context is lost ({text}, met while {doing}); the process must start anew"
    )
