"""What of a state goes into an index file, and back.

Sections (n rows, d dims, D placed dims, L lists, N rows in lists, m sub-quantizers):

    alive u8[ceil(n / 8)], vectors raw_dtype[n, d]; once trained also
    centre f32[d], rotation f32[d, D] (if any), centroids f32[L, D], sigma, bias_mean, bias_unit
    f32[L], codebooks f32[m, 2^bits, s], aside i64[a], and the rows in lists sorted by list and id:
    lengths i64[L], row_ids i64[N], codes u8[N, bytes], bias f16[N], gain f16[N]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import AnyArray
from .backend import Backend
from .bitmap import pack
from .codec import Codec
from .drift import Drift
from .encoding import ListContents
from .files import PIECE_BYTES, Reader, Writer, write_atomically
from .plan import Plan
from .trained import Trained

if TYPE_CHECKING:
    from .state import IndexState

_CODEC_ARRAYS = ("centre", "centroids", "sigma", "bias_mean", "bias_unit", "codebooks")
_CODEC_VALUES = ("metric", "bits", "scale", "query_norm", "use_gain", "lut")


def write_state(state: IndexState, path: Path) -> None:
    """Save ``state`` to ``path``; readers see the old file or the whole new one."""

    def fill(writer: Writer) -> dict[str, Any]:
        writer.array("alive", pack(state.alive()))
        shape = (state.n_rows, state.params.dim)
        writer.section("vectors", f"<{state.rows.dtype.str[1:]}", shape, _vectors(state))
        header = {"params": state.params.to_json(), "n_rows": state.n_rows}
        if state.trained_part is not None:
            header["trained"] = _write_trained(writer, state.trained_part)
        return header

    write_atomically(path, fill)


def _vectors(state: IndexState) -> Iterator[AnyArray]:
    size = max(1, PIECE_BYTES // state.rows.row_bytes)
    return (block.vectors for block in state.rows.blocks(0, state.n_rows, size))


def _write_trained(writer: Writer, trained: Trained) -> dict[str, Any]:
    codec, contents = trained.codec, trained.lists.contents()
    for name in _CODEC_ARRAYS:
        writer.array(name, getattr(codec, name))
    if codec.rotation is not None:
        writer.array("rotation", codec.rotation)
    writer.array("aside", trained.aside)
    writer.array("lengths", np.bincount(contents.list_ids, minlength=codec.nlist))
    writer.array("row_ids", contents.row_ids)
    writer.array("codes", contents.codes)
    writer.array("bias", contents.bias)
    writer.array("gain", contents.gain)
    return {
        "codec": {name: getattr(codec, name) for name in _CODEC_VALUES},
        "plan": trained.plan.to_json(),
        "encoded_rows": trained.encoded_rows,
        "live_rows": trained.live_rows,
        "kept_rows": trained.kept_rows,
        "drift": trained.drift.to_json(),
    }


def read_trained(reader: Reader, backend: Backend) -> Trained:
    """Read the codec and lists of a file; raise FileCorrupt for a wrong checksum."""
    header = reader.header["trained"]
    arrays: dict[str, Any] = {name: reader.array(name) for name in _CODEC_ARRAYS}
    rotation = reader.array("rotation") if "rotation" in reader else None
    codec = Codec(**header["codec"], **arrays, rotation=rotation)
    list_ids = np.repeat(np.arange(codec.nlist, dtype=np.int32), reader.array("lengths"))
    names = ("row_ids", "codes", "bias", "gain")
    contents = ListContents(list_ids, *(reader.array(name) for name in names))
    return Trained(
        codec=codec,
        lists=backend.open_lists(codec).append(contents),
        plan=Plan.from_json(header["plan"]),
        aside=reader.array("aside"),
        encoded_rows=header["encoded_rows"],
        live_rows=header["live_rows"],
        kept_rows=header.get("kept_rows", header["encoded_rows"]),
        drift=Drift.from_json(header["drift"]) if "drift" in header else Drift(),
    )
