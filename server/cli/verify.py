"""``vecmirror verify``: every row of an index against every row of its table, at one LSN.

The index is held (changes wait, searches go on), a temporary slot exports a snapshot together with
its LSN, and the index is fixed there. Then both sides are read and hashed while writes go on.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import typer
from rich.markup import escape

from pgsync.connections import connect, source_identity
from pgsync.copy import CopyRequest, TableCopy
from pgsync.lsn import format_lsn
from pgsync.publication import publication_state
from pgsync.slots import CreatedSlot, create_slot
from server.client import Client, ServerRefused, ServerUnreachable
from server.spec import IndexSpec

from .comparing import Differences, compare, table_hashes
from .options import (
    DsnOption,
    JsonOption,
    NameArgument,
    ServerOption,
    open_client,
    settings_with,
    source_dsn,
)
from .output import CommandFailed, Exit, console, print_json


@dataclass(frozen=True, slots=True)
class Verified:
    """A comparison and the LSN it was made at."""

    lsn: int
    differences: Differences


def verify(
    name: NameArgument,
    dsn: DsnOption = None,
    server: ServerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every row of an index with its table, at one LSN."""
    settings = settings_with(server)
    source = source_dsn(settings, dsn)
    with open_client(settings) as client:
        done = verify_index(client, source, name)
    found = done.differences
    if as_json:
        print_json({"index": name, "lsn": format_lsn(done.lsn), **asdict(found)})
    else:
        _report(name, done)
    if found.total:
        raise typer.Exit(Exit.FOUND)


def verify_index(client: Client, dsn: str, name: str) -> Verified:
    """Compare an index with its table row by row; raise SourceError or the client's errors."""
    description = client.describe(name)
    spec = IndexSpec.from_json(description["spec"])
    if description["phase"] != "live":
        raise CommandFailed(
            f"index {name} is in phase {description['phase']}; verify it once it is live"
        )
    with _held(client, name) as pin:
        # Nothing but a new slot gives a snapshot together with the LSN it stands for.
        slot = f"vecmirror_verify_{secrets.token_hex(4)}"
        with create_slot(dsn, slot, temporary=True) as created:
            client.fix_pin(name, pin, created.consistent_point)
            copy = TableCopy(_copy_request(dsn, spec, created))
        with copy:
            batches = (batch.rows for batch in copy.batches())
            of_table, left_out = table_hashes(batches, spec)
        of_index = client.read_pin(name, pin)
    return Verified(created.consistent_point, compare(of_table, of_index, left_out))


@contextmanager
def _held(client: Client, name: str) -> Iterator[str]:
    """Hold an index, and let it go whatever happens."""
    pin = str(client.open_pin(name)["id"])
    try:
        yield pin
    finally:
        # A pin that cannot be let go ends by itself, and must not hide what went wrong before.
        with suppress(ServerRefused, ServerUnreachable):
            client.release_pin(name, pin)


def _copy_request(dsn: str, spec: IndexSpec, slot: CreatedSlot) -> CopyRequest:
    """Return what to read: the rows the publication carries, as the snapshot shows them."""
    row_filter = None
    if spec.publication is not None:
        with connect(dsn) as connection:
            state = publication_state(connection, spec.publication, spec.table.relation_id)
        row_filter = state.row_filter if state else None
    return CopyRequest(
        dsn=dsn,
        table=spec.table,
        snapshot=slot.snapshot,
        consistent_point=slot.consistent_point,
        system_id=source_identity(dsn).system_id,
        epoch=0,
        row_filter=row_filter,
    )


def _report(name: str, done: Verified) -> None:
    found, out = done.differences, console()
    out.print(f"index {name} and its table at {format_lsn(done.lsn)}", markup=False)
    out.print(f"  {found.rows:,} rows compared, {found.total:,} differing")
    if found.not_indexable:
        out.print(f"  {found.not_indexable:,} rows of the table have no valid vector")
    kinds = (
        ("in the table only", found.missing, found.missing_keys),
        ("in the index only", found.extra, found.extra_keys),
        ("with other content", found.differing, found.differing_keys),
    )
    for kind, count, keys in kinds:
        if count:
            named = ", ".join(str(key) for key in keys) + (", …" if count > len(keys) else "")
            out.print(f"  [red]{count:,} {kind}[/]: {escape(named)}", soft_wrap=True)
