"""The same values through the port and a real Postgres 18 must read equal, byte for byte."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from server.demo.postgres import EmbeddedPostgres
from tests.fix_postgres import fresh_database
from tests.fix_sql_wire import WireServer, sql_settings

SEED = random.randrange(2**32)

LITERALS = {
    "bool": ["t", "FALSE", " yes ", "0", "of"],
    "int2": ["-32768", " 32767", "0x7f", "1_000", "+5"],
    "int4": ["-2147483648", "2147483647", "0b101", "0o17"],
    "int8": ["-9223372036854775808", "9223372036854775807", "-0"],
    "oid": ["0", "4294967295", "-1"],
    "text": ["", "NULL", "a b", "日本語 ñ", "'quoted' \\ \"", "\t\n"],
    "varchar": ["x y"],
    "name": ["pg_class"],
    "uuid": ["{8D9B8E8C0C3E4C1B9A503F8F2F4F7A11}", "00000000-0000-0000-0000-000000000000"],
    "date": ["2026-11-22", "0044-03-15 BC", "infinity", "-infinity", "5874897-12-31", "epoch"],
    "timestamp": [
        "2026-11-22 17:05:00.5",
        "4713-01-01 00:00:00 BC",
        "infinity",
        "1999-12-31T24:00",
    ],
    "timestamptz": ["2026-11-22 17:05:00+02", "294276-12-31 23:59:59.999999Z", "-infinity"],
    "pg_lsn": ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"],
    "numeric": [
        "0",
        "-0.00",
        "123456789012345678901234567890.0001",
        "1e-20",
        "10000",
        "0.00010000",
    ],
    "float4": [
        "0.1",
        "-0",
        "NaN",
        "Infinity",
        "3.4028235e38",
        "1e-45",
        "16777217",
        "1e6",
        "123456",
    ],
    "float8": [
        "0.1",
        "-0",
        "NaN",
        "-inf",
        "1e15",
        "123456789012345",
        "5e-324",
        "1.7976931348623157e308",
    ],
    "vector": [
        "[1,2,3]",
        " [ 1.5 , -0 , 1e-5 ] ",
        "[1e6,123456,3.4028235e38,1e-45,0.0001,0.00009]",
    ],
    "halfvec": ["[1,2.5,-3]", "[65504,6.1e-5,0.1,-0]"],
    "bool[]": ["{t,f,NULL}"],
    "int2[]": ["{}", "{1,-2}"],
    "int4[]": ["{1,NULL,3}", "{ 1 , 2 }"],
    "int8[]": ["{-9223372036854775808,9223372036854775807}"],
    "float4[]": ["{0.1,NaN,-Infinity}"],
    "float8[]": ["{0.1,1e300}"],
    "text[]": ['{"a b",NULL,"NULL","",q\\"x,日本}', '{"a,b","{c}","\\\\"}'],
    "uuid[]": ["{8d9b8e8c-0c3e-4c1b-9a50-3f8f2f4f7a11}"],
    "date[]": ["{2026-11-22,infinity}"],
    "timestamptz[]": ['{"2026-11-22 17:05:00+02",NULL}'],
}


Pair = tuple[psycopg.Connection, psycopg.Connection]


@pytest.fixture(scope="module")
def pair(postgres18: EmbeddedPostgres) -> Iterator[Pair]:
    """Return a connection to the port and one to Postgres, both with our settings."""
    server = WireServer(sql_settings())
    with fresh_database(postgres18) as database:
        with psycopg.connect(server.dsn(), autocommit=True) as ours, database.connect() as theirs:
            theirs.execute("SET TimeZone = 'UTC'")
            yield ours, theirs
        server.stop()


def _raw(conn: psycopg.Connection, kind: str, literal: str, *, binary: bool) -> bytes | None:
    """Return the bytes that a value of ``kind`` comes back as; ``literal`` goes as a parameter."""
    text = b"SELECT $1::" + kind.encode()
    result = conn.pgconn.exec_params(text, [literal.encode()], result_format=int(binary))
    assert result.status == psycopg.pq.ExecStatus.TUPLES_OK, (kind, result.error_message)
    return result.get_value(0, 0)


@pytest.mark.parametrize("kind", LITERALS)
def test_what_is_sent_as_text_comes_back_as_from_postgres(pair: Pair, kind: str) -> None:
    ours, theirs = pair
    for literal in LITERALS[kind]:
        for binary in (False, True):
            raw = _raw(ours, kind, literal, binary=binary)
            expected = _raw(theirs, kind, literal, binary=binary)
            assert raw == expected, (literal, binary)


@pytest.mark.parametrize("kind", LITERALS)
def test_what_is_sent_as_binary_comes_back_as_from_postgres(pair: Pair, kind: str) -> None:
    ours, theirs = pair
    text = b"SELECT $1::" + kind.encode()
    for literal in LITERALS[kind]:
        raw = _raw(theirs, kind, literal, binary=True)
        for result_format in (0, 1):
            answers = [
                conn.pgconn.exec_params(
                    text, [raw], param_formats=[1], result_format=result_format
                ).get_value(0, 0)
                for conn in (ours, theirs)
            ]
            assert answers[0] == answers[1], (literal, result_format)


def test_random_floats_are_written_as_postgres_writes_them(
    pair: Pair,
) -> None:
    ours, theirs = pair
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    for kind, size, code in (("float8", 8, "d"), ("float4", 4, "f")):
        values = [struct.unpack("!" + code, rng.randbytes(size))[0] for _ in range(300)]
        values += [rng.uniform(-1, 1) * 10 ** rng.randint(-8, 18) for _ in range(300)]
        values += [float(round(value)) for value in values[300:] if abs(value) < 1e18]
        values += [float(2**n * rng.randint(1, 2**9) * 5**9) for n in range(10, 45)]
        values += [float(2**n) for n in range(20, 100)]
        finite = [value for value in values if math.isfinite(value) and abs(value) < 1e38]
        packed = [struct.pack("!" + code, value) for value in finite]
        text = sql.SQL("SELECT {}").format(sql.SQL(f"$1::{kind}")).as_bytes(theirs)
        for raw in packed:
            shown = [
                conn.pgconn.exec_params(text, [raw], param_formats=[1]).get_value(0, 0)
                for conn in (ours, theirs)
            ]
            assert shown[0] == shown[1]


def test_random_vectors_are_written_as_pgvector_writes_them(
    pair: Pair,
) -> None:
    ours, theirs = pair
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    for _ in range(30):
        numbers = [rng.gauss(0, 1) * 10 ** rng.randint(-7, 7) for _ in range(384)]
        literal = "[" + ",".join(map(repr, numbers)) + "]"
        for binary in (False, True):
            raw = _raw(ours, "vector", literal, binary=binary)
            assert raw == _raw(theirs, "vector", literal, binary=binary)


WRONG = {
    "bool": ["maybe", ""],
    "int2": ["32768", "1.5", "", "x"],
    "int4": ["2147483648", " ", "1e3"],
    "int8": ["9223372036854775808", "--1"],
    "float4": ["1e39", "abc", "1e-60"],
    "float8": ["1e400", "1,5"],
    "numeric": ["1.2.3", ""],
    "uuid": ["8d9b8e8c", "zzzzzzzz-0000-0000-0000-000000000000"],
    "date": ["2026-02-30", "yesterday's", "2026-13-01"],
    "timestamptz": ["2026-11-22 25:00", ""],
    "pg_lsn": ["1", "G/0", " 0/1"],
    "vector": ["[1,2", "[]", "[a]", "[1e39]", "1,2"],
    "int4[]": ["{1", "{x}", "1,2"],
    "text[]": ['{"a}', "{a}}"],
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_value_is_refused_with_the_code_of_postgres(pair: Pair, kind: str) -> None:
    for literal in WRONG[kind]:
        codes = [
            conn.pgconn.exec_params(b"SELECT $1::" + kind.encode(), [literal.encode()]).error_field(
                psycopg.pq.DiagnosticField.SQLSTATE
            )
            for conn in pair
        ]
        assert codes[0] == codes[1], literal
        assert codes[0] is not None
