"""``python -m benchmarks.search``: quantized indexes side by side at the same recall.

Engines take turns in one process. Each is tuned on half of the queries to reach the recall, and
measured on the other half; single queries and batches of 1,000; medians of thread CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.report import host
from benchmarks.vector_sets import METRICS

from .built import default_folder, engine_of
from .comparing import ROUNDS, Comparison
from .engines import Engine, Missing, SearchSet, Variant, load_search_set
from .ours import Vecmirror, vecmirror
from .rival_faiss import faiss_variants
from .rival_hnswlib import hnswlib_variants
from .rival_scann import scann_variants
from .tables import print_tables

RIVALS: dict[str, Callable[[SearchSet], list[Variant]]] = {
    "faiss": faiss_variants,
    "scann": scann_variants,
    "hnswlib": hnswlib_variants,
}
TARGETS = (0.90, 0.95, 0.99)
#: Settings of BLAS that some machines carry; they would slow one side down.
UNWANTED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def run(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything; return the JSON object. Raise Missing for a rival not installed."""
    vectors = load_search_set(options.data, options.name)
    wanted = {name: RIVALS[name](vectors) for name in options.rivals}
    cache: Path = options.cache
    ours = engine_of(vecmirror(), vectors, cache, say)
    assert isinstance(ours, Vecmirror)
    rivals: dict[str, list[Engine]] = {
        name: [engine_of(variant, vectors, cache, say) for variant in variants]
        for name, variants in wanted.items()
    }
    comparison = Comparison(vectors, ours, rivals, options.threads, say)
    return {
        "set": vectors.name,
        "rows": len(vectors.rows),
        "dim": vectors.rows.shape[1],
        "rounds": ROUNDS,
        "ratios": [entry for target in options.targets for entry in comparison.ratios(target)],
        "planned": [comparison.planned(target) for target in options.targets],
        "engines": [_described(one) for one in [ours, *chain(*rivals.values())]],
        "first_search": _first(ours),
        "machine": host(),
    }


def _described(engine: Engine) -> dict[str, Any]:
    return {
        "engine": engine.name,
        "index": engine.label,
        "reranks_from": engine.reranks_from,
        "build_cpu_s": round(engine.cost.cpu_s, 1),
        "build_wall_s": round(engine.cost.wall_s, 1),
        "index_bytes_per_vector": round(engine.index_bytes, 1),
        "raw_bytes_per_vector": round(engine.raw_bytes, 1),
    }


def _first(ours: Vecmirror) -> dict[str, float]:
    """Ask a fresh process for its first search."""
    path = ours.folder / "index"
    command = [sys.executable, "-m", "benchmarks.search.first", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _without_settings() -> None:
    """Start again without settings of BLAS: it reads them before Python code can run."""
    if any(name in os.environ for name in UNWANTED):
        for name in UNWANTED:
            os.environ.pop(name, None)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.search", *sys.argv[1:]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the vector sets")
    parser.add_argument("--set", choices=sorted(METRICS), default="sift", dest="name")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument(
        "--rivals", type=_names, default=list(RIVALS), help=f"some of {','.join(RIVALS)}"
    )
    parser.add_argument("--targets", type=_numbers, default=list(TARGETS), help="0.90,0.95,0.99")
    parser.add_argument("--cache", type=Path, default=default_folder(), help="for built indexes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    err = Console(stderr=True)
    try:
        result = run(options, lambda text: err.print(text, highlight=False))
    except Missing as missing:
        parser.error(str(missing))
    if options.json:
        print(json.dumps(result))
    else:
        print_tables(Console(), result)


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no rival {unknown[0]!r}: {', '.join(RIVALS)}")
    return names


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


if __name__ == "__main__":
    _without_settings()
    main()
