"""``vecmirror doctor``: what stands in the way of mirroring, and the SQL that mends it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pgsync.doctor import examine
from pgsync.errors import SourceUnavailable

from .findings import blocking, print_findings
from .options import DSN_HELP, JsonOption, dsn_and_target, settings_with
from .output import Exit, console, print_json
from .sources import shown_dsn


def doctor(
    first: Annotated[str | None, typer.Argument(metavar="[DSN]", help=DSN_HELP)] = None,
    second: Annotated[
        str | None, typer.Argument(metavar="[SCHEMA.TABLE.COLUMN]", help="A column to check too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Examine a source; each finding comes with the SQL that mends it. Changes nothing."""
    dsn, target = dsn_and_target(settings_with(), first, second)
    findings = examine(dsn, target)
    for finding in findings:
        if finding.code == "unreachable":
            raise SourceUnavailable(finding.message)
    problems = blocking(findings)
    if as_json:
        print_json({"ready": not problems, "findings": [asdict(each) for each in findings]})
    else:
        out = console()
        out.print(f"source {shown_dsn(dsn)}", markup=False)
        print_findings(out, findings)
        verdict = (
            f"{len(problems)} to mend before mirroring" if problems else "ready to be mirrored"
        )
        out.print(f"[bold]{verdict}[/]")
    if problems:
        raise typer.Exit(Exit.FOUND)
