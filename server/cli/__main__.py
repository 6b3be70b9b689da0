"""``python -m server.cli``: the same as ``vecmirror``."""

from __future__ import annotations

from . import main

main()
