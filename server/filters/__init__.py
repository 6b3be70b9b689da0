"""Filters: a SQL WHERE expression over mirrored columns, with Postgres' semantics.

Text -> tokens -> syntax tree -> typed tree -> folded tree -> boolean mask. One language for every
port; docs/filters.md describes it for users.
"""

from .checker import Typed
from .errors import FilterError
from .filter import Expression, Filter, check_condition, check_value, parse

__all__ = [
    "Expression",
    "Filter",
    "FilterError",
    "Typed",
    "check_condition",
    "check_value",
    "parse",
]
