"""The figures as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

#: column of a table -> key of an entry
RATIOS = {
    "recall": "recall",
    "mode": "mode",
    "rival": "rival",
    "QPS": "ours_qps",
    "rival's": "rival_qps",
    "ratio": "ratio",
    "our recall": "ours_recall",
    "its recall": "rival_recall",
    "our setting": "ours_setting",
    "its setting": "rival_setting",
    "its index": "rival_index",
}
PLANNED = {
    "recall_target": "target",
    "nprobe": "nprobe",
    "rerank": "rerank",
    "recall": "recall",
    "single QPS": "single_qps",
    "batch QPS": "batch_qps",
}
ENGINES = {
    "engine": "engine",
    "index": "index",
    "re-ranks from": "reranks_from",
    "build, CPU s": "build_cpu_s",
    "wall s": "build_wall_s",
    "index B/vector": "index_bytes_per_vector",
    "raw B/vector": "raw_bytes_per_vector",
}


def print_tables(console: Console, result: dict[str, Any]) -> None:
    """Print ratios, what the plan gives, and the engines."""
    title = f"{result['set']}: {result['rows']:,} x {result['dim']}"
    console.print(_table(title, RATIOS, result["ratios"]))
    console.print(_table("recall_target alone", PLANNED, result["planned"]))
    console.print(_table("Indexes", ENGINES, result["engines"]))
    first = result["first_search"]
    console.print(
        f"first search {first['first_us']} µs, median {first['median_us']} µs; "
        f"ready in {first['ready_s']} s"
    )
    console.print(", ".join(f"{key} {value}" for key, value in result["machine"].items()))


def _table(title: str, columns: dict[str, str], entries: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    for heading in columns:
        table.add_column(heading, justify="right")
    for entry in entries:
        table.add_row(*(_cell(entry[key]) for key in columns.values()))
    return table


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
