"""Lists without dead rows: same codec, same codes, less to scan.

Made from one immutable state in any thread, in slices; the writer takes the result over with
``Index.adopt``. Rows encoded meanwhile are tail again until ``encode_pending`` moves them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .arrays import I64
from .bitmap import bits_at
from .errors import BadInput
from .trained import Trained

if TYPE_CHECKING:
    from .backend import Lists
    from .encoding import ListContents
    from .state import IndexState

#: Rows copied between two looks at whoever waits.
SLICE_ROWS = 1 << 18


def rewritten(state: IndexState, pause: Callable[[], None] = lambda: None) -> Trained:
    """Return the codec of ``state`` with lists that hold its live rows only.

    ``pause`` is called between slices and may raise to stop. Raise BadInput without a codec.
    """
    trained = state.trained_part
    if trained is None:
        raise BadInput("there are no lists to rewrite")
    lists = copied_lists(state, trained, pause, lambda row_ids: row_ids)
    aside = trained.aside[bits_at(state.alive_bits, trained.aside)]
    return replace(trained, lists=lists, aside=aside, kept_rows=state.live_encoded_rows)


def copied_lists(
    state: IndexState,
    trained: Trained,
    pause: Callable[[], None],
    renumber: Callable[[I64], I64],
) -> Lists:
    """Return new lists with the live rows of ``trained.lists`` under the ids ``renumber`` gives.

    ``renumber`` maps ids i64[n] of live rows and keeps their order.
    """
    lists, contents = state.backend.open_lists(trained.codec), trained.lists.contents()
    for first in range(0, len(contents), SLICE_ROWS):
        pause()
        part = contents.take(slice(first, first + SLICE_ROWS))
        live = part.take(bits_at(state.alive_bits, part.row_ids))
        lists = lists.append(_renumbered(live, renumber))
    return lists


def _renumbered(contents: ListContents, renumber: Callable[[I64], I64]) -> ListContents:
    row_ids = np.asarray(renumber(contents.row_ids))
    return replace(contents, row_ids=row_ids)
