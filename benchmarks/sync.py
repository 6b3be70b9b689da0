"""How fast rows get from Postgres into the searchable index: ``python -m benchmarks.sync``.

Starts an embedded Postgres, the server and the sidecar as real processes, and measures from
outside: the initial copy, bulk transactions, a backlog, and the time from a commit until a
search sees it. benchmarks/README.md says what each figure is.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence

from rich.console import Console

from .latency import measure_latency
from .memory import touch_memory
from .report import machine, print_tables, summary
from .stack import Stack
from .throughput import Throughput, measure_backlog, measure_copy, measure_stream

#: Copies of a vector that lie in memory at once: table, log, journal, index, buffers on the way.
MEMORY_PER_VECTOR_BYTE = 10

#: More rows than an index can have.
NEVER = 2**31

MEASURES = {"copy": measure_copy, "stream": measure_stream, "backlog": measure_backlog}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print tables or, with --json, one object."""
    options = _parser().parse_args(arguments)
    progress = Console(stderr=True, quiet=options.json, style="dim")
    touch_memory(MEMORY_PER_VECTOR_BYTE * options.rows * max(options.dims) * 4)
    train_from_rows = None if options.training else NEVER
    with Stack(dict(options.set), train_from_rows) as stack, stack.connect() as conn:
        measured: dict[str, dict[int, Throughput]] = {}
        for kind, dim in itertools.product(MEASURES, options.dims):
            progress.print(f"{kind}: {options.rows:,} rows of {dim} dimensions")
            measured.setdefault(kind, {})[dim] = MEASURES[kind](stack, dim, options.rows)
        progress.print(f"latency: {options.rate:,.0f} commits/s for {options.seconds:.0f} s")
        latency = measure_latency(stack, options.dims[0], options.rate, options.seconds)
        where = machine(conn) | {"training": options.training}
    if options.json:
        print(json.dumps(summary(measured, latency, where)))
    else:
        print_tables(Console(), measured, latency, where)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each table")
    parser.add_argument("--dims", type=_dims, default=(128, 768), help="default: 128,768")
    parser.add_argument("--rate", type=float, default=1_000.0, help="single-row commits a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the latency part")
    parser.add_argument(
        "--set",
        type=_assignment,
        action="append",
        default=[],
        metavar="VECMIRROR_SECTION__KEY=VALUE",
        help="a setting for server and sidecar",
    )
    parser.add_argument(
        "--training",
        action="store_true",
        help="let the server train in the background meanwhile, as it does by default",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _dims(text: str) -> tuple[int, ...]:
    dims = tuple(int(part) for part in text.split(","))
    if not all(0 < dim <= 16_000 for dim in dims):
        raise argparse.ArgumentTypeError("dimensions are between 1 and 16000")
    return dims


def _assignment(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name.startswith("VECMIRROR_") and separator):
        raise argparse.ArgumentTypeError("write VECMIRROR_SECTION__KEY=VALUE")
    return name, value


if __name__ == "__main__":
    main()
