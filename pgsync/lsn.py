"""Log sequence numbers: byte positions in Postgres' write-ahead log.

Inside the code an LSN is an ``int``; people and JSON see Postgres' own text form ``16/B374D848``
(https://www.postgresql.org/docs/current/datatype-pg-lsn.html).
"""

from __future__ import annotations

import re

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> int:
    """Return the position that ``text`` (``16/B374D848``) names; raise ValueError otherwise."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise ValueError("an LSN is two hexadecimal numbers with a slash, like 16/B374D848")
    return int(match[1], 16) << 32 | int(match[2], 16)


def format_lsn(lsn: int) -> str:
    """Return Postgres' text form of a position."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
