"""``vecmirror demo``: the whole path on this machine, with nothing to prepare."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from server.demo.binaries import PostgresUnavailable
from server.demo.processes import DemoFailed
from server.demo.show import run_demo

from .options import JsonOption
from .output import CommandFailed, console, print_json


def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the tour.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show everything: an embedded Postgres, 10,000 real rows, a trained index, a tour."""
    out = console(stderr=as_json)
    try:
        figures = run_demo(out, once=once or as_json)
    except (DemoFailed, PostgresUnavailable) as error:
        raise CommandFailed(f"the demonstration failed: {error}") from error
    if as_json:
        print_json(
            {
                "rows": figures.rows,
                "recall@10": figures.recall_at_10,
                "commit_to_searchable_ms": figures.commit_to_searchable_ms,
            }
        )
    elif once:
        out.print()
        out.print(escape(figures.line()), soft_wrap=True)
