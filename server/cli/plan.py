"""``vecmirror plan``: what an index will take on a card and on the host."""

from __future__ import annotations

from typing import Annotated, Any, cast, get_args

import typer

from gpu import BackendError, BadInput, IndexParams, open_backend
from gpu.cuda.context import measured_context_bytes
from gpu.cuda.cupy_device import CupyDevice
from gpu.cuda.options import RawLocation
from gpu.cuda.planning import CARDS, CONTEXT_BYTES, GIB, MemoryPlan, plan_memory
from gpu.cuda_backend import CudaBackend

from .options import JsonOption
from .output import CommandFailed, Exit, console, print_json, table

_LABELS = {
    "raw_vectors": "raw vectors",
    "lists": "lists: codes, biases, gains, row ids",
    "lists_spare": "lists: room to grow",
    "list_tables": "lists: where their pages are",
    "codec": "centroids, rotation, codebooks",
    "bitmaps": "bitmaps of rows",
    "searches": "searches under way",
    "context": "CUDA context and kernels (assumed unless told)",
}


def plan(
    rows: Annotated[int, typer.Option(min=1, help="Rows of the table, dead versions included.")],
    dims: Annotated[int, typer.Option(min=1, help="Dimensions of the vectors.")],
    metric: Annotated[str, typer.Option(help="l2, cosine or ip.")] = "cosine",
    raw_dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    raw: Annotated[str, typer.Option(help="Raw vectors: device, pinned or none.")] = "device",
    code_bits: Annotated[int, typer.Option(help="4 or 8.")] = 4,
    m: Annotated[int | None, typer.Option(help="Sub-quantizers; else the default.")] = None,
    nlist: Annotated[int | None, typer.Option(help="Lists; else the default.")] = None,
    context_mib: Annotated[
        int | None, typer.Option(min=0, help="MiB of CUDA's context and kernels; else assumed.")
    ] = None,
    measure_context: Annotated[
        bool, typer.Option("--measure-context", help="Measure them on this machine's card.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the bytes an index takes on a card and on the host, and which cards hold it."""
    if raw not in get_args(RawLocation):
        raise CommandFailed(f"--raw is device, pinned or none, not {raw!r}", Exit.USAGE)
    given: Any = {"metric": metric, "raw_dtype": raw_dtype, "code_bits": code_bits}
    try:
        params = IndexParams(dim=dims, m=m, nlist=nlist, **given)
    except BadInput as error:
        raise CommandFailed(str(error), Exit.USAGE) from error
    context_bytes = _context_bytes(context_mib, measure_context)
    made = plan_memory(params, rows, cast(RawLocation, raw), context_bytes=context_bytes)
    if as_json:
        print_json(_object(made))
    else:
        _show(made)


def _context_bytes(given_mib: int | None, measure: bool) -> int:
    if given_mib is not None and measure:
        raise CommandFailed("give --context-mib or --measure-context, not both", Exit.USAGE)
    if given_mib is not None:
        return given_mib << 20
    if not measure:
        return CONTEXT_BYTES
    try:
        return measured_context_bytes(_warm_card)
    except BackendError as error:
        raise CommandFailed(f"--measure-context needs a card: {error}") from error


def _warm_card() -> CupyDevice:
    """Open the first card and load every kernel, as a server does at its start."""
    backend = open_backend("cuda")
    backend.warm_up()
    assert isinstance(backend, CudaBackend)
    assert isinstance(backend.device, CupyDevice)
    return backend.device


def _object(made: MemoryPlan) -> dict[str, Any]:
    return {
        "rows": made.rows,
        "params": made.params.to_json() | {"nlist": made.nlist, "m": made.m},
        "device_bytes": made.device,
        "device_total_bytes": made.device_bytes,
        "device_peak_bytes": made.peak_bytes,
        "host_bytes": made.host,
        "host_total_bytes": made.host_bytes,
        "cards": made.fitting_cards(),
    }


def _show(made: MemoryPlan) -> None:
    out = console()
    device = [(_LABELS[name], _gib(nbytes)) for name, nbytes in made.device.items()]
    device.append(("together", _gib(made.device_bytes)))
    device.append(("while lists are made anew", _gib(made.peak_bytes)))
    out.print(table(("on the card", "GiB"), device))
    host = [(_LABELS[name], _gib(nbytes)) for name, nbytes in made.host.items()]
    out.print(table(("on the host (keys and filter columns come on top)", "GiB"), host))
    cards = made.fitting_cards()
    if cards:
        names = [f"{name} ({CARDS[name]} GB)" for name in cards]
        out.print("fits: " + ", ".join(names), markup=False)
    else:
        out.print("fits no single card: try --raw pinned, --raw none or --raw-dtype float16")


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.3f}"
