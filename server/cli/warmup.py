"""``vecmirror warmup``: compile what searches need, before the first start does."""

from __future__ import annotations

from gpu import warm_up
from server.device import open_device
from server.logs import configure_logs
from server.settings import load_settings

from .options import JsonOption
from .output import console, print_json


def warmup(as_json: JsonOption = False) -> None:
    """Compile the search kernels for this machine into the cache of this user."""
    configure_logs("warning", "console")  # to standard error
    device = open_device(load_settings().settings.server)
    seconds, backend = round(warm_up(device), 3), device.name
    if as_json:
        print_json({"backend": backend, "seconds": seconds})
        return
    console().print(f"ready: backend {backend}, {seconds:.1f} s", markup=False)
