"""When a filter keeps few rows: whether comparing those is cheaper than scanning lists.

What a search costs is mostly what it reads from memory. With b bytes of a raw row, c of a code,
s the share of the rows in the probed lists:

    compare all matches        matches b
    those in probed lists      matches (s b + 8)
    scan the lists             rows s c + rerank b
"""

from __future__ import annotations

from enum import Enum

#: Comparing no more than this is done in some ten microseconds, and exact.
CHEAP_BYTES = 256 << 10
#: Per match: its number in the bitmap's list, and the number of its list.
MATCH_BYTES = 8


class Way(Enum):
    """Which rows are looked at."""

    ALL_MATCHES = "every row that the filter keeps"
    NEAR_MATCHES = "those of them in the nearest lists"
    LISTS = "codes of every row in the nearest lists"


def cheapest(
    matches: int, rows: int, probed: float, row_bytes: int, code_bytes: int, rerank: int
) -> Way:
    """Return the way that reads least; ``probed``: share of the rows in the probed lists."""
    every = matches * row_bytes
    near = matches * (probed * row_bytes + MATCH_BYTES)
    if every <= max(near, CHEAP_BYTES):
        return Way.ALL_MATCHES
    scan = rows * probed * code_bytes + rerank * row_bytes
    return Way.NEAR_MATCHES if near <= scan else Way.LISTS
