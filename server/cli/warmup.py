"""``vecmirror warmup``: compile what searches need, before the first start does."""

from __future__ import annotations

from gpu import open_backend, warm_up

from .options import JsonOption
from .output import console, print_json


def warmup(as_json: JsonOption = False) -> None:
    """Compile the search kernels for this machine into the cache of this user."""
    seconds = round(warm_up(), 3)
    backend = open_backend().name
    if as_json:
        print_json({"backend": backend, "seconds": seconds})
        return
    console().print(f"ready: backend {backend}, {seconds:.1f} s", markup=False)
