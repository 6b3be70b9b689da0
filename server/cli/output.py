"""What commands print and how they end.

With ``--json`` a command prints exactly one JSON object on standard output, also when it fails
(an unknown option or command aside: there standard error has the usage).
Without it, text for people; errors go to standard error. Exit codes are the same in both forms.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: Lines wider than this are hard to read; narrower would cut tables where there is no terminal.
WIDTH_WITHOUT_TERMINAL = 110


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FOUND = 1  # the command worked and found something wrong: differing rows, blocking findings
    USAGE = 2  # a wrong argument or setting
    SOURCE = 3  # Postgres cannot be reached, or refuses
    SERVER = 4  # the index server cannot be reached, or refuses
    INTERRUPTED = 130


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 something is wrong with what was examined; 2 wrong argument or setting; "
    "3 Postgres cannot be reached or refuses; 4 the index server cannot be reached or refuses."
)


class CommandFailed(Exception):
    """Ends a command: ``message`` says what is wrong and what to do, ``details`` go into JSON."""

    def __init__(
        self, message: str, code: Exit = Exit.FOUND, details: Mapping[str, Any] | None = None
    ) -> None:
        self.code, self.details = code, dict(details or {})
        super().__init__(message)


def console(*, stderr: bool = False) -> Console:
    """Return a console for now's standard output; colours only where a terminal shows them."""
    plain = Console(stderr=stderr, highlight=False)
    if plain.is_terminal:
        return plain
    return Console(stderr=stderr, highlight=False, width=WIDTH_WITHOUT_TERMINAL)


def print_json(value: Mapping[str, Any]) -> None:
    """Print the one JSON object of a command."""
    sys.stdout.write(json.dumps(value, default=str, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_error(error: BaseException, code: Exit, *, as_json: bool) -> None:
    """Print a failure as one sentence, and as an object where JSON was asked for."""
    details = error.details if isinstance(error, CommandFailed) else {}
    if as_json:
        print_json({"error": str(error), "exit_code": int(code), **details})
    else:
        console(stderr=True).print(
            f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False
        )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> Table:
    """Return a plain table; columns whose cells are all numbers are aligned to the right."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for position, name in enumerate(columns):
        numeric = all(isinstance(row[position], int | float) for row in rows)
        made.add_column(name, justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(_cell(value)) for value in row))
    return made


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
