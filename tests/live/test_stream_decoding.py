"""Real pgoutput of two majors through ChangeAssembler, beside real COPY through RowDecoder."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgsync.changes import Op, VectorState
from pgsync.errors import DecodeError, ResyncNeeded
from pgsync.pgoutput import decode
from pgsync.stream import ChangeAssembler
from pgsync.table import ColumnSpec, TableSpec
from pgsync.values import RowDecoder
from tests.fix_postgres import Database

DIM = 600  # 2.4 kB: beyond what stays in the row, so that updates leave the vector out
COLUMNS = {
    "flag": "bool",
    "small": "int2",
    "n": "int4",
    "big": "int8",
    "price": "float4",
    "exact": "float8",
    "title": "text",
    "at": "timestamptz",
    "local": "timestamp",
    "day": "date",
    "ref": "uuid",
    "smalls": "int2[]",
    "nums": "int4[]",
    "bigs": "int8[]",
    "tags": "text[]",
}
COLUMN_SQL = ", ".join(
    f"{name} {type_name.replace('text', 'varchar') if name == 'tags' else type_name}"
    for name, type_name in COLUMNS.items()
)
LITERALS = {
    "flag": ["true", "false"],
    "small": ["-32768", "7"],
    "n": ["-5", "2147483647"],
    "big": ["-9223372036854775808", "12"],
    "price": ["'NaN'", "1.5", "'-Infinity'"],
    "exact": ["1e300", "0.1"],
    "title": ["''", "'größe 😀'", "repeat('long ', 1000)", "gen_random_uuid()::text"],
    "at": ["now()", "'infinity'", "'1960-01-01 00:00+02'"],
    "local": ["'-infinity'", "'2026-02-03 04:05:06.789'"],
    "day": ["current_date", "'infinity'", "'1066-10-14'"],
    "ref": ["gen_random_uuid()"],
    "smalls": ["'{}'", "'{1,NULL,-3}'"],
    "nums": ["'{{1,2},{3,4}}'", "'{NULL}'", "'[5:6]={1,2}'"],
    "bigs": ["'{1,2,3}'", "'{}'"],
    "tags": ["'{a,NULL,\"ö,x\"}'", "'{}'"],
}
VECTORS = [
    "NULL",
    f"(SELECT array_agg(random()::real) FROM generate_series(1, {DIM}))::vector",
    f"array_fill(2.5::real, ARRAY[{DIM}])::vector",
    "'[1,2]'::vector",
]

Mirror = dict[int, dict[str, Any]]


def _spec(database: Database) -> TableSpec:
    ((oid,),) = database.execute("SELECT 'items'::regclass::oid::int8")
    assert isinstance(oid, int)
    return TableSpec(
        schema="public",
        table="items",
        relation_id=oid,
        vector_column="v",
        vector_type="vector",
        dim=DIM,
        key=(ColumnSpec("id", "int8"),),
        columns=tuple(ColumnSpec(name, type_name) for name, type_name in COLUMNS.items()),
    )


def _prepare(database: Database, identity: str) -> None:
    database.execute(
        f"CREATE TABLE items (other text, id int8 PRIMARY KEY, {COLUMN_SQL}, v vector)"
    )
    database.execute("ALTER TABLE items ALTER COLUMN title SET STORAGE EXTERNAL")
    database.execute(f"ALTER TABLE items REPLICA IDENTITY {identity}")
    database.execute("CREATE TABLE elsewhere (id int8 PRIMARY KEY)")
    database.execute("CREATE PUBLICATION p FOR TABLE items, elsewhere")
    for slot in ("whole", "streamed"):
        name = f"{slot}_{database.name}"
        database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])


def _statement(rng: random.Random, keys: range) -> str:
    key = rng.choice(keys)
    other = rng.choice(keys)
    column = rng.choice(list(COLUMNS))
    value = rng.choice(["NULL", *LITERALS[column]])
    everything = ", ".join(rng.choice(LITERALS[name]) for name in COLUMNS)
    vector = rng.choice(VECTORS)
    return rng.choice(
        [
            f"INSERT INTO items VALUES ('x', {key}, {everything}, {vector}) ON CONFLICT DO NOTHING",
            f"INSERT INTO items VALUES ('x', {key}, {everything}, {vector}) ON CONFLICT (id)"
            f" DO UPDATE SET v = excluded.v, {column} = excluded.{column}",
            f"UPDATE items SET {column} = {value} WHERE id BETWEEN {key} AND {key + 3}"
            f" AND id < {keys.stop}",
            f"UPDATE items SET other = 'y' WHERE id = {key}",
            f"UPDATE items SET v = {vector} WHERE id = {key}",
            f"UPDATE items SET id = {other} WHERE id = {key}"
            f" AND NOT EXISTS (SELECT FROM items WHERE id = {other})",
            f"DELETE FROM items WHERE id = {key}",
            f"INSERT INTO elsewhere VALUES ({key}) ON CONFLICT DO NOTHING",
            "SAVEPOINT s",
            "ROLLBACK TO s",
            "COMMIT",
            "COMMIT",
            "ROLLBACK",
        ]
    )


def _run_workload(database: Database, seed: int, steps: int) -> None:
    """Run transactions of three connections, interleaved, each with keys of its own."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        sessions = [
            (stack.enter_context(psycopg.connect(database.dsn)), range(100 * i, 100 * i + 12))
            for i in range(3)
        ]
        for _ in range(steps):
            connection, keys = rng.choice(sessions)
            _run_statement(connection, _statement(rng, keys))
        for connection, _ in sessions:
            connection.commit()


def _run_statement(connection: psycopg.Connection, statement: str) -> None:
    if statement == "ROLLBACK TO s":
        with contextlib.suppress(psycopg.errors.InvalidSavepointSpecification):
            connection.execute(b"ROLLBACK TO s")
            return
        connection.rollback()
        return
    try:
        connection.execute(statement.encode())
    except psycopg.errors.UniqueViolation:
        connection.rollback()


def _messages(database: Database, slot: str, streaming: str) -> list[tuple[int, bytes]]:
    with database.connect() as connection:
        connection.execute("SET logical_decoding_work_mem = '64kB'")
        connection.execute(f"SET debug_logical_replication_streaming = {streaming}".encode())
        rows = connection.execute(
            "SELECT lsn - '0/0', data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL,"
            " 'proto_version', '4', 'publication_names', 'p', 'binary', 'true', 'messages', 'true',"
            " 'streaming', %s)",
            [f"{slot}_{database.name}", "off" if slot == "whole" else "parallel"],
        ).fetchall()
    return [(int(lsn), bytes(data)) for lsn, data in rows]


def _changes(spec: TableSpec, messages: list[tuple[int, bytes]]) -> list[dict[str, Any]]:
    assembler = ChangeAssembler(
        spec, epoch=1, system_id="1", start_lsn=1, batch_rows=40, stream_memory_bytes=20_000
    )
    rows: list[dict[str, Any]] = []
    for lsn, payload in messages:
        assembler.feed(lsn, payload)
        rows += _take(assembler, flush=False)
    rows += _take(assembler, flush=True)
    return rows


def _take(assembler: ChangeAssembler, flush: bool) -> Iterator[dict[str, Any]]:
    while batches := assembler.take(flush=flush):
        for batch in batches:
            batch.rows.validate(full=True)
            yield from batch.rows.to_pylist()


def _apply(mirror: Mirror, change: dict[str, Any]) -> None:
    key, old_key = change["key:id"], change["old:id"]
    if change["op"] == Op.TRUNCATE:
        mirror.clear()
    elif change["op"] == Op.DELETE:
        del mirror[key]
    else:
        before = mirror.pop(key if old_key is None else old_key, {})
        mirror[key] = _merged(before, change)


def _merged(before: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    row = _content(change)
    for i, name in enumerate(COLUMNS):
        if change["unchanged"] >> i & 1:
            row[name] = before[name]
    if change["vector_state"] == VectorState.UNCHANGED:
        row["vector"], row["state"] = before["vector"], before["state"]
    return row


def _content(change: dict[str, Any]) -> dict[str, Any]:
    row = {name: repr(change[f"col:{name}"]) for name in COLUMNS}  # repr: NaN is NaN
    return row | {"vector": change["vector"], "state": change["vector_state"]}


def _copied(database: Database, spec: TableSpec) -> Mirror:
    decoder = RowDecoder(spec)
    statement = (
        f"COPY (SELECT {', '.join(decoder.copy_columns)} FROM items) TO STDOUT (FORMAT binary)"
    )
    with database.connect() as connection, connection.cursor().copy(statement.encode()) as copy:
        content = b"".join(bytes(part) for part in copy)
    rows = decoder.decode_copy_rows(content[19:-2], commit_lsn=1).to_pylist()
    return {row["key:id"]: _content(row) for row in rows}


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_the_stream_leads_to_the_same_rows_as_a_copy(database: Database, identity: str) -> None:
    _prepare(database, identity)
    spec = _spec(database)
    _run_workload(database, seed=5, steps=200)
    database.execute("TRUNCATE items, elsewhere")
    database.execute("SELECT pg_logical_emit_message(true, 'prefix', 'content')")
    _run_workload(database, seed=6, steps=600)
    whole = _messages(database, "whole", "buffered")
    streamed = _messages(database, "streamed", "immediate")
    changes = _changes(spec, whole)
    assert [*map(repr, changes)] == [*map(repr, _changes(spec, streamed))]  # repr: NaN is NaN
    mirror: Mirror = {}
    for change in changes:
        _apply(mirror, change)
    assert mirror == _copied(database, spec)
    assert len(changes) > 100
    assert len(mirror) > 10
    assert any(change["old:id"] is not None for change in changes)
    kinds = {payload[:1] for _, payload in whole + streamed}
    assert kinds >= {b"B", b"C", b"R", b"Y", b"I", b"U", b"D", b"T", b"M", b"S", b"E", b"c", b"A"}
    states = {change["vector_state"] for change in changes}
    assert states >= {VectorState.PRESENT, VectorState.NULL, VectorState.WRONG_DIMENSION}
    assert (VectorState.UNCHANGED in states) == (identity == "DEFAULT")
    _fuzz(spec, random.Random(identity).sample(whole, 150))


def _fuzz(spec: TableSpec, messages: list[tuple[int, bytes]]) -> None:
    """Cut and change real messages: nothing but DecodeError and ResyncNeeded may come of it."""
    rng = random.Random(1)
    description = [p for _, p in messages if p[:1] in b"RY"]
    for _, payload in messages:
        broken = bytearray(payload[: rng.randint(0, len(payload))])
        for _ in range(rng.randint(0, 3) if broken else 0):
            broken[rng.randrange(min(len(broken), 200))] = rng.randrange(256)
        with contextlib.suppress(DecodeError):
            decode(bytes(broken), in_stream=False)
        with contextlib.suppress(DecodeError, ResyncNeeded):
            _feed_one(spec, [*description, bytes(broken)])


def _feed_one(spec: TableSpec, payloads: list[bytes]) -> None:
    assembler = ChangeAssembler(spec, epoch=1, system_id="1", start_lsn=1)
    assembler.feed(1, b"B" + (5000).to_bytes(8) + bytes(12))
    for payload in payloads:
        assembler.feed(1, payload)
    assembler.feed(1, b"C\0" + (5000).to_bytes(8) + (5008).to_bytes(8) + bytes(8))
    assembler.take()
