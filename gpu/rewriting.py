"""Lists without dead rows: same codec, same codes, less to scan.

Made from one immutable state in any thread, in slices; the writer takes the result over with
``Index.adopt``. Rows encoded meanwhile are tail again until ``encode_pending`` moves them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .arrays import U8
from .bitmap import bits_at, unpack
from .errors import BadInput

if TYPE_CHECKING:
    from .backend import Backend, Lists
    from .state import IndexState
    from .trained import Trained

#: Rows copied between two looks at whoever waits.
SLICE_ROWS = 1 << 18


def rewritten(state: IndexState, pause: Callable[[], None] = lambda: None) -> Trained:
    """Return the codec of ``state`` with lists that hold its live rows only.

    ``pause`` is called between slices and may raise to stop. Raise BadInput without a codec.
    """
    trained = state.trained_part
    if trained is None:
        raise BadInput("there are no lists to rewrite")
    lists = state.backend.rewrite_lists(
        trained.lists, state.alive_bits, renumber=False, pause=pause
    )
    aside = trained.aside[bits_at(state.alive_bits, trained.aside)]
    return replace(trained, lists=lists, aside=aside, kept_rows=state.live_encoded_rows)


def copied_lists(
    backend: Backend, lists: Lists, kept: U8, *, renumber: bool, pause: Callable[[], None]
) -> Lists:
    """Return new lists with the rows of ``lists`` that ``kept`` has set, by way of their contents.

    What ``Backend.rewrite_lists`` is defined to return.
    """
    made, contents = backend.open_lists(lists.codec), lists.contents()
    places = np.flatnonzero(unpack(kept, 0, 8 * len(kept))) if renumber else None
    for first in range(0, len(contents), SLICE_ROWS):
        pause()
        part = contents.take(slice(first, first + SLICE_ROWS))
        live = part.take(bits_at(kept, part.row_ids))
        if places is not None:
            live = replace(live, row_ids=np.searchsorted(places, live.row_ids))
        made = made.append(live)
    return made
