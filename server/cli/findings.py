"""How findings about a source are shown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from pgsync.doctor import Finding

_SIGNS = {"error": "[bold red]✗[/]", "warning": "[yellow]![/]", "info": "[green]·[/]"}


def blocking(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that prevent mirroring."""
    return [finding for finding in findings if finding.level == "error"]


def print_findings(out: Console, findings: Sequence[Finding]) -> None:
    """Print each finding, and below it the SQL that mends it, ready to be copied."""
    for finding in findings:
        out.print(f"{_SIGNS[finding.level]} {escape(finding.message)}", soft_wrap=True)
        if finding.sql and finding.level != "info":
            out.print(f"    {finding.sql.rstrip(';')};", soft_wrap=True, markup=False, style="cyan")
