"""What spans several messages goes as in a real Postgres 18: both are asked the same, byte by byte.

Several statements in one query, settings that clients are told of, names that PREPARE and Parse
share, text that is no statement.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg import pq

from pgsync.changes import Op
from tests.change_batches import Change
from tests.fix_postgres import Database
from tests.fix_sql_session import Desk, desk
from tests.fix_sql_wire import WireServer, sql_settings

N_ROWS = 12
REPORTED = (
    "application_name",
    "client_encoding",
    "DateStyle",
    "IntervalStyle",
    "search_path",
    "standard_conforming_strings",
    "TimeZone",
)
#: Tag and rows of each statement, or an error's SQLSTATE and position.
Result = tuple[object, object]
#: Results, status of the transaction, number of notices, settings that changed.
Outcome = tuple[list[Result], int, int, dict[str, str]]


class Peer:
    """One connection, spoken to by the functions of libpq."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, application_name="first")
        self._pq = self._connection.pgconn
        self._notices = 0
        self._first = self._settings()
        self._connection.add_notice_handler(self._noticed)

    def _noticed(self, _: object) -> None:
        self._notices += 1

    def _settings(self) -> dict[str, str]:
        found = {name: self._pq.parameter_status(name.encode()) for name in REPORTED}
        return {name: value.decode() for name, value in found.items() if value is not None}

    def ask(self, request: str) -> Outcome:
        """Do a request: ``parse NAME: TEXT``, ``bind NAME: VALUE``, else a simple query."""
        self._notices = 0
        kind, _, rest = request.partition(" ")
        name, _, text = rest.partition(": ")
        if kind == "parse":
            results = [self._pq.prepare(name.encode(), text.encode())]
        elif kind == "bind":
            values = [text.encode()] if text else []
            results = [self._pq.exec_prepared(name.encode(), values)]
        else:
            self._pq.send_query(request.encode())
            results = list(self._results())
        now = self._settings()
        changed = {name: value for name, value in now.items() if value != self._first.get(name)}
        return [_said(one) for one in results], self._pq.transaction_status, self._notices, changed

    def _results(self) -> Iterator[pq.abc.PGresult]:
        # get_result keeps the interpreter's lock while it waits, and the port is in this process.
        self._pq.flush()
        while True:
            while self._pq.is_busy():
                select.select([self._pq.socket], [], [], 10)
                self._pq.consume_input()
            result = self._pq.get_result()
            if result is None:
                return
            yield result

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def _said(result: pq.abc.PGresult) -> Result:
    if result.status == pq.ExecStatus.FATAL_ERROR:
        position = result.error_field(pq.DiagnosticField.STATEMENT_POSITION)
        return result.error_field(pq.DiagnosticField.SQLSTATE), position
    if result.status == pq.ExecStatus.EMPTY_QUERY:
        return "empty", None
    rows = [result.get_value(row, 0) for row in range(result.ntuples)]
    return result.command_status, rows


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("beside"), N_ROWS) as made:
        yield made


@pytest.fixture(scope="module")
def port(items: Desk) -> Iterator[WireServer]:
    server = WireServer(sql_settings(), open_session=items.sessions.open)
    yield server
    server.stop()


@pytest.fixture
def ours(port: WireServer) -> Iterator[Peer]:
    with closing(Peer(port.dsn())) as peer:
        yield peer


@pytest.fixture
def theirs(database18: Database) -> Iterator[Peer]:
    database18.execute("CREATE TABLE items (id bigint PRIMARY KEY)")
    database18.execute(f"INSERT INTO items SELECT generate_series(0, {N_ROWS - 1})")
    with closing(Peer(database18.dsn)) as peer:
        yield peer


ROW = "SELECT id FROM items WHERE id = 3"
SEVERAL = [
    [f"{ROW}; {ROW}", ROW],
    ["SET intervalstyle = iso_8601; SELECT nonsense FROM items", "SHOW intervalstyle"],
    ["SET intervalstyle = iso_8601; SET nonsense = 1; SHOW intervalstyle", "SHOW intervalstyle"],
    ["SET intervalstyle = iso_8601; SHOW intervalstyle", "SHOW intervalstyle"],
    ["SET LOCAL intervalstyle = iso_8601; SHOW intervalstyle", "SHOW intervalstyle"],
    ["SET intervalstyle = iso_8601; COMMIT; SELECT nonsense FROM items", "SHOW intervalstyle"],
    ["SET intervalstyle = iso_8601; ROLLBACK; SHOW intervalstyle", "SHOW intervalstyle"],
    ["SET intervalstyle = iso_8601; BEGIN; SHOW intervalstyle", "ROLLBACK", "SHOW intervalstyle"],
    ["SET intervalstyle = iso_8601; BEGIN; SELECT nonsense", ROW, "ROLLBACK", "SHOW intervalstyle"],
    ["BEGIN; SET intervalstyle = iso_8601; COMMIT; SELECT nonsense", "SHOW intervalstyle"],
    [f"BEGIN; {ROW}", f"{ROW}; COMMIT; {ROW}", ROW],
    [f"{ROW}; SAVEPOINT s", f"{ROW}; RELEASE s", f"{ROW}; ROLLBACK TO s", ROW],
    [f"{ROW}; COMMIT AND CHAIN", f"{ROW}; DISCARD ALL", ROW],
    [f"DECLARE c CURSOR FOR {ROW}; FETCH 1 FROM c", "FETCH 1 FROM c"],
    [f"DECLARE c CURSOR WITH HOLD FOR {ROW}; SELECT nonsense", "FETCH 1 FROM c"],
    [f"DECLARE c CURSOR WITH HOLD FOR {ROW}; {ROW}", "FETCH 1 FROM c", "CLOSE c"],
    [f"DECLARE c CURSOR FOR {ROW}"],
    [f"{ROW}; SELEC 1", "SET intervalstyle = iso_8601; (((", "SHOW intervalstyle"],
    ["BEGIN", "SELECT nonsense FROM items", f"ROLLBACK; {ROW}", ROW],
    [
        "BEGIN",
        "SAVEPOINT s",
        "SELECT nonsense",
        "ROLLBACK TO SAVEPOINT s; RELEASE SAVEPOINT s",
        ROW,
    ],
    [";;", f"; {ROW};", "-- nothing", "/* a; /* b */ */;"],
]
TOLD = [
    ["SET application_name = 'second'", "SHOW application_name", "RESET application_name"],
    ["SET application_name = 'second'", "DISCARD ALL", "SHOW application_name"],
    [
        "BEGIN; SET application_name = 'a'",
        "SAVEPOINT s",
        "SET application_name = 'b'",
        "ROLLBACK TO s",
    ],
    ["BEGIN", "SET application_name = 'a'", "ROLLBACK"],
    ["BEGIN", "SET LOCAL application_name = 'a'", "COMMIT"],
    ["SET TimeZone = 'gmt'", "SHOW timezone", "SET TIME ZONE 'Zulu'"],
    ["SET datestyle = ISO", "SET datestyle = 'ISO, DMY'", "SET datestyle = 'iso, ymd'"],
    ["SET intervalstyle = postgres_verbose", "SET intervalstyle = nonsense"],
    ["SET client_encoding = 'utf-8'", "SET NAMES 'utf8'", "SHOW client_encoding"],
    ["SET search_path = pg_catalog", "SET standard_conforming_strings = true"],
    ["SET standard_conforming_strings = maybe", "SET extra_float_digits = 3"],
]
NAMES = [
    ["parse s: SELECT $1::bigint", "EXECUTE s (7)", "bind s: 8", "DEALLOCATE s", "bind s: 8"],
    ["PREPARE s (bigint) AS SELECT id FROM items WHERE id = $1", "bind s: 5", "EXECUTE s (6)"],
    ["PREPARE s AS SELECT 1", "parse s: SELECT 2", "EXECUTE s"],
    ["parse s: SELECT 2", "PREPARE s AS SELECT 1", "EXECUTE s"],
    ["parse s: SELECT 2", "DEALLOCATE ALL", "EXECUTE s", "bind s", "PREPARE s AS SELECT 1"],
    ["PREPARE s AS SELECT 1", "DISCARD ALL", "bind s", "parse s: SELECT 2", "bind s"],
    ["parse Ab c: SELECT 2", 'EXECUTE "Ab c"', "EXECUTE ab", 'DEALLOCATE "Ab c"', "bind Ab c"],
    ["BEGIN", "parse s: SELECT 2", "ROLLBACK", "EXECUTE s"],
    ["BEGIN", "SELECT nonsense", "DEALLOCATE s", "EXECUTE s", "ROLLBACK"],
    ["parse e: ", "bind e", "parse e: SELECT 1", "DEALLOCATE ALL", "parse e: SELECT 1"],
    ["parse e: -- nothing", "bind e", "parse f: /* nothing */", "bind f"],
]
NO_END = [
    ["/* abc", "SELECT 1 /* abc", "SELECT 1; /* abc", "/* a /* b */", f"{ROW}; {ROW} /*; {ROW}"],
    ["SELECT 'abc", "SELECT 1; SELECT 'abc; SELECT 2", "'", 'SELECT "abc', '"; SELECT 1'],
    ["SELECT E'abc\\'", "SELECT 1; SELECT E'abc\\';", "SELECT $a$ abc", "SELECT 1; SELECT $$ ;"],
    ["parse s: /* abc", "parse s: SELECT 'abc", "parse s: SELECT 1 /*", "bind s"],
    ["BEGIN; SELECT 'abc", ROW, "BEGIN", "/* abc", ROW, "ROLLBACK"],
    ["SELECT 1 -- 'abc", "SELECT 1 /* 'abc */", "SELECT 1 -- abc\r; SELECT 2", "SELECT '/*', 1"],
]


@pytest.mark.parametrize("requests", SEVERAL, ids=lambda requests: requests[0])
def test_several_statements_are_one_transaction(
    ours: Peer, theirs: Peer, requests: list[str]
) -> None:
    compare(ours, theirs, requests)


@pytest.mark.parametrize("requests", TOLD, ids=lambda requests: requests[0])
def test_clients_are_told_of_settings_that_change(
    ours: Peer, theirs: Peer, requests: list[str]
) -> None:
    compare(ours, theirs, requests)


@pytest.mark.parametrize("requests", NAMES, ids=lambda requests: requests[0])
def test_prepare_and_parse_share_their_names(ours: Peer, theirs: Peer, requests: list[str]) -> None:
    compare(ours, theirs, requests)


@pytest.mark.parametrize("requests", NO_END, ids=lambda requests: requests[0])
def test_text_without_an_end_is_a_syntax_error(
    ours: Peer, theirs: Peer, requests: list[str]
) -> None:
    compare(ours, theirs, requests)


def compare(ours: Peer, theirs: Peer, requests: list[str]) -> None:
    found = [(request, _without_places(ours.ask(request))) for request in requests]
    expected = [(request, _without_places(theirs.ask(request))) for request in requests]
    assert found == expected


def _without_places(outcome: Outcome) -> Outcome:
    results, *rest = outcome
    return [(a, None if isinstance(b, bytes) else b) for a, b in results], *rest  # type: ignore[return-value]


def test_the_place_of_what_has_no_end_is_where_it_begins(ours: Peer, theirs: Peer) -> None:
    for request in ("SELECT 1; /* abc", "  /* abc", "SELECT 1; SELECT 'é", "SELECT 'abc"):
        assert ours.ask(request) == theirs.ask(request)


def test_several_statements_see_one_version_of_the_index(items: Desk) -> None:
    count, talk = "SELECT count(*) FROM items", items.talk()
    vector = tuple(items.vectors[0].tolist())
    talk.session.begin_implicit()
    (before,) = talk.rows(count)
    items.change(200, [Change(Op.UPSERT, 900, vector=vector, columns=dict(items.rows[0]))])
    talk.session.begin_implicit()
    assert talk.rows(count) == [before]
    talk.session.end_implicit()
    assert talk.rows(count) == [before + 1]
