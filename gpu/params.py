"""What an index is made with, and the sizes that follow from it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from .errors import BadInput

Metric = Literal["l2", "cosine", "ip"]
RawDtype = Literal["float32", "float16"]

#: pgvector's own limit for the vector type, and the largest size the tests run.
MAX_DIM = 16_000
#: A list needs this many training rows for its centre to be more than noise.
ROWS_PER_LIST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexParams:
    """Parameters of one index; they never change in its life.

    ``m`` sub-quantizers of ``code_bits`` bits each make a row's code; None takes ``default_m``.
    ``nlist`` None takes ``default_nlist`` at training time. ``raw_dtype`` float16 halves the raw
    vectors; values beyond 65,504 are refused then. ``train_from_rows`` is the number of live rows
    from which training pays; below it exact search over everything is fast enough.
    """

    dim: int
    metric: Metric
    raw_dtype: RawDtype = "float32"
    code_bits: Literal[4, 8] = 4
    m: int | None = None
    nlist: int | None = None
    train_from_rows: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise BadInput for a parameter out of range."""
        _require(1 <= self.dim <= MAX_DIM, f"dim must be 1 to {MAX_DIM}, not {self.dim}")
        _require(self.metric in get_args(Metric), f"unknown metric {self.metric!r}")
        _require(self.raw_dtype in get_args(RawDtype), f"unknown raw_dtype {self.raw_dtype!r}")
        _require(self.code_bits in {4, 8}, f"code_bits must be 4 or 8, not {self.code_bits}")
        _require(self.m is None or 1 <= self.m <= self.dim, "m must be 1 to dim")
        _require(self.nlist is None or 1 <= self.nlist <= 1 << 20, "nlist must be 1 to 2^20")
        _require(self.train_from_rows >= 1, "train_from_rows must be at least 1")
        _require(self.seed >= 0, "seed must not be negative")

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that lies in the file header."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> IndexParams:
        """Rebuild from ``to_json``; raise TypeError or BadInput for another shape."""
        return cls(**data)


def default_m(dim: int, code_bits: int) -> int:
    """Return the number of sub-quantizers: a bit or half a bit a dimension, in multiples of 16.

    Searches wait for memory: with gain and rotation short codes and some more re-ranked rows beat
    twice as long ones (128 dims: 32 took 66 us where 64 took 108; 384 dims: 64 took 52, 96 took
    59). 8-bit codes take half as many, that is the same bytes.
    """
    m = max(dim / 8, min(dim / 4, 64), min(dim / 2, 32))
    rounded = min(16 * math.ceil(m / 16), 1024)
    return max(1, min(rounded * 4 // code_bits, dim))


def default_nlist(live_rows: int) -> int:
    """Return the power of two nearest to 2.5 sqrt(n).

    Fewer lists mean more rows to scan for the same recall, more lists cost more to choose among.
    """
    return 1 << max(0, round(math.log2(2.5 * math.sqrt(max(live_rows, 1)))))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BadInput(message)
