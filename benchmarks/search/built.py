"""Built indexes in a folder, each under a name that changes with whatever it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .engines import Cost, Engine, SearchSet, Variant


def default_folder() -> Path:
    """Return the place for caches of this user."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "vecmirror" / "benchmarks"


def engine_of(
    variant: Variant, vectors: SearchSet, cache: Path, say: Callable[[str], None]
) -> Engine:
    """Load an index, after building it where that has not been done."""
    folder = cache / _name(variant, vectors)
    if not (folder / "cost.json").exists():
        say(f"{vectors.name}: building {variant.name} {variant.label}")
        _build(variant, vectors, folder)
    cost = Cost(**json.loads((folder / "cost.json").read_text()))
    return variant.load(vectors, folder, cost)


def _name(variant: Variant, vectors: SearchSet) -> str:
    digest = hashlib.sha256(f"{variant.label} {variant.version} {vectors.rows.shape}".encode())
    digest.update(vectors.rows.data)
    return f"{vectors.name}-{variant.name}-{digest.hexdigest()[:16]}"


def _build(variant: Variant, vectors: SearchSet, folder: Path) -> None:
    """Build beside the folder and rename, so that what is there is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        variant.build(vectors, made)
        cost = Cost(time.perf_counter() - wall, time.process_time() - cpu)
        (made / "cost.json").write_text(json.dumps(cost._asdict()))
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
