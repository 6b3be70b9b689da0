"""What of a state goes into an index file, and back.

Sections: ``alive`` u8[ceil(n / 8)], ``vectors`` raw_dtype[n, d].
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arrays import AnyArray
from .bitmap import pack
from .files import PIECE_BYTES, Writer, write_atomically

if TYPE_CHECKING:
    from .state import IndexState


def write_state(state: IndexState, path: Path) -> None:
    """Save ``state`` to ``path``; readers see the old file or the whole new one."""

    def fill(writer: Writer) -> dict[str, Any]:
        writer.array("alive", pack(state.alive()))
        shape = (state.n_rows, state.params.dim)
        writer.section("vectors", f"<{state.rows.dtype.str[1:]}", shape, _vectors(state))
        return {"params": state.params.to_json(), "n_rows": state.n_rows}

    write_atomically(path, fill)


def _vectors(state: IndexState) -> Iterator[AnyArray]:
    size = max(1, PIECE_BYTES // state.rows.row_bytes)
    return (block.vectors for block in state.rows.blocks(0, state.n_rows, size))
