"""Three-valued logic on two masks, is TRUE (``data``) and is NULL (``null``); FALSE is the rest."""

from __future__ import annotations

import numpy as np

from .values import Mask, Values, either, is_null

#: NULL as a boolean.
UNKNOWN = Values("bool", np.zeros(1, np.bool_), np.ones(1, np.bool_))


def is_false(a: Values) -> Mask:
    """Return the FALSE rows."""
    return ~a.data if a.null is None else ~(a.data | a.null)


def not_(a: Values) -> Values:
    """Return NOT a."""
    return Values("bool", is_false(a), a.null)


def and_(a: Values, b: Values) -> Values:
    """Return a AND b: NULL where neither is FALSE and one is NULL."""
    data = a.data & b.data
    if a.null is None and b.null is None:
        return Values("bool", data)
    return Values("bool", data, (a.data | is_null(a)) & (b.data | is_null(b)) & ~data)


def or_(a: Values, b: Values) -> Values:
    """Return a OR b: NULL where neither is TRUE and one is NULL."""
    data = a.data | b.data
    null = either(a.null, b.null)
    return Values("bool", data, None if null is None else null & ~data)
