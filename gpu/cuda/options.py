"""What a CUDA backend may use of the card and of the host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RawLocation = Literal["device", "pinned", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaOptions:
    """``number`` is the card's, as CUDA counts those it may see.

    ``memory_limit_bytes`` bounds everything that is allocated on the card; None leaves all of it.
    ``raw_location`` says where kernels find raw vectors: a copy on the card, the host's own ones in
    page-locked memory (read over the bus), or nowhere: the CPU re-ranks. ``cache_dir`` keeps
    compiled kernels; None takes CuPy's own place (``~/.cupy/kernel_cache``).
    """

    number: int = 0
    memory_limit_bytes: int | None = None
    raw_location: RawLocation = "device"
    cache_dir: Path | None = None
