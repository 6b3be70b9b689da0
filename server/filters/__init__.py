"""Filters: a SQL WHERE expression over mirrored columns, with Postgres' semantics.

Text -> tokens -> syntax tree -> typed tree -> folded tree -> boolean mask. One language for every
port; docs/filters.md describes it for users.
"""

from .errors import FilterError
from .filter import Filter, parse

__all__ = ["Filter", "FilterError", "parse"]
