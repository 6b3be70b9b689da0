"""Names of the objects that an installation makes, and the comment that marks them as ours."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: NAMEDATALEN - 1: what Postgres keeps of a name. Index names are ASCII.
NAME_LIMIT_BYTES = 63

#: Schema and foreign server where nothing else is asked for; the schema at the port, always.
DEFAULT_NAME = "vecmirror"

_TAG = re.compile(r"made by vecmirror sql-install (?:for index (\S+)|for all indexes), (\w+)")


@dataclass(frozen=True, slots=True)
class IndexNames:
    """What the objects of one index are called."""

    table: str
    light: str
    search: str
    row: str
    view: str

    @classmethod
    def of(cls, index: str) -> IndexNames:
        """Return the names; a long index name is cut so that the suffix stays."""
        suffixed = [
            index[: NAME_LIMIT_BYTES - len(suffix)] + suffix
            for suffix in ("_light", "_search", "_row", "_rows")
        ]
        return cls(index, *suffixed)


def light_name(name: str, taken: frozenset[str]) -> str:
    """Return what a column of the light form is called beside columns with the names ``taken``."""
    return f"vm_{name}" if name in taken else name


def tag(index: str | None, digest: str) -> str:
    """Return the comment on an object: the index it belongs to (None: all) and its contents."""
    whose = "for all indexes" if index is None else f"for index {index}"
    return f"made by vecmirror sql-install {whose}, {digest}"


def read_tag(comment: str) -> tuple[str | None, str] | None:
    """Return index and digest of a comment of ours; None for any other comment."""
    found = _TAG.fullmatch(comment)
    return (found[1], found[2]) if found else None
