"""Cursors, transactions and savepoints do what those of a real Postgres do: rows, tags, errors.

SQL_SESSION_SEED replays a run.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import pq

from pgsync.changes import Op
from server.sql.errors import SqlError
from tests.change_batches import Change
from tests.fix_postgres import Database
from tests.fix_sql_session import Desk, Talk, desk

N_ROWS = 23
SEED = int(os.environ.get("SQL_SESSION_SEED", str(random.SystemRandom().randrange(2**32))))
#: Scripts of one run, and statements of each.
SCRIPTS, LENGTH = 150, 14

#: What a statement did: tag and rows, or the SQLSTATE of its error; then the status.
Outcome = tuple[object, str]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("cursors"), N_ROWS) as made:
        yield made


@pytest.fixture
def table(database18: Database) -> Iterator[psycopg.Connection]:
    with database18.connect() as connection:
        connection.execute("CREATE TABLE items (id bigint PRIMARY KEY)")
        connection.execute(f"INSERT INTO items SELECT generate_series(0, {N_ROWS - 1})".encode())
        yield connection


def ours(talk: Talk, text: str) -> Outcome:
    """Run a statement here."""
    try:
        said = talk(text)
    except SqlError as error:
        return error.sqlstate, talk.status
    rows = None if said.rows is None else [row[0] for row in said.rows]
    return (said.tag if rows is None else f"{said.tag} {len(rows)}", rows), talk.status


_STATUS = {
    pq.TransactionStatus.IDLE: "I",
    pq.TransactionStatus.INTRANS: "T",
    pq.TransactionStatus.INERROR: "E",
}


def theirs(connection: psycopg.Connection, text: str) -> Outcome:
    """Run a statement in Postgres, by the simple protocol."""
    result = connection.pgconn.exec_(text.encode())
    status = _STATUS[pq.TransactionStatus(connection.pgconn.transaction_status)]
    if result.status == pq.ExecStatus.FATAL_ERROR:
        sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
        assert sqlstate is not None
        return sqlstate.decode(), status
    tag = (result.command_status or b"").decode()
    if result.status != pq.ExecStatus.TUPLES_OK:
        return (tag, None), status
    rows = [int(result.get_value(row, 0) or b"-1") for row in range(result.ntuples)]
    return (tag, rows), status


class Scripts:
    """Random statements about cursors and transactions."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.pick = chance, chance.choice

    def statement(self, status: str) -> str:
        """Return one statement; in a failed block often one that ends it."""
        if status == "E" and self.chance.random() < 0.6:
            return self.pick([self._rollback_to(), "ROLLBACK AND CHAIN", "ROLLBACK"])
        makers: list[Callable[[], str]] = [
            *([self._fetch] * 8),
            *([self._move] * 3),
            self.declare,
            self.declare,
            self._close,
            self._savepoint,
            self._savepoint,
            self._rollback_to,
            self._release,
            lambda: self.pick(["BEGIN", "COMMIT", "ROLLBACK", "END", "ABORT", "BEGIN"]),
            lambda: self.pick(["SELECT id FROM items WHERE id = 3", "SELECT nonsense FROM items"]),
            lambda: self.pick(["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"]),
        ]
        return self.pick(makers)()

    def _cursor(self) -> str:
        return self.pick(["c1", "c1", "c1", "c2"])

    def declare(self) -> str:
        scroll = self.pick(["", "SCROLL ", "SCROLL ", "NO SCROLL "])
        hold = self.pick(["", "", "", " WITH HOLD"])
        end = self.pick(["", " LIMIT 5", " OFFSET 20", " LIMIT 0"])
        return (
            f"DECLARE {self._cursor()} {scroll}CURSOR{hold} FOR "
            f"SELECT id FROM items ORDER BY id{end}"
        )

    def _direction(self) -> str:
        count = self.pick(["0", "1", "2", "5", "30", "ALL"])
        number = self.pick(["0", "1", "3", "23", "24", "40", "-1", "-2", "-23", "-24"])
        return self.pick(
            [
                "",
                "NEXT",
                "PRIOR",
                "FIRST",
                "LAST",
                count,
                f"FORWARD {count}",
                f"BACKWARD {count}",
                f"ABSOLUTE {number}",
                f"RELATIVE {number}",
                "FORWARD",
                "BACKWARD",
                "FORWARD -2",
                "BACKWARD -2",
            ]
        )

    def _fetch(self) -> str:
        return f"FETCH {self._direction()} {self.pick(['FROM', 'IN'])} {self._cursor()}"

    def _move(self) -> str:
        return f"MOVE {self._direction()} {self.pick(['FROM', 'IN'])} {self._cursor()}"

    def _close(self) -> str:
        return self.pick([f"CLOSE {self._cursor()}", "CLOSE ALL"])

    def _savepoint(self) -> str:
        return f"SAVEPOINT {self.pick(['s1', 's2'])}"

    def _rollback_to(self) -> str:
        return f"ROLLBACK TO {self.pick(['', 'SAVEPOINT '])}{self.pick(['s1', 's2'])}"

    def _release(self) -> str:
        return f"RELEASE {self.pick(['', 'SAVEPOINT '])}{self.pick(['s1', 's2'])}"


def test_random_scripts_do_what_they_do_in_postgres(items: Desk, table: psycopg.Connection) -> None:
    print(f"SQL_SESSION_SEED={SEED}")
    scripts = Scripts(random.Random(SEED))
    answered = 0
    for _ in range(SCRIPTS):
        talk, done = items.talk(batch=3), list[str]()
        begun = ["BEGIN", scripts.declare(), scripts.declare(), "SAVEPOINT s1"]
        for place in range(LENGTH):
            text = begun[place] if place < len(begun) else scripts.statement(talk.status)
            done.append(text)
            mine, expected = ours(talk, text), theirs(table, text)
            assert mine == expected, "\n".join(done)
            answered += not isinstance(mine[0], str)
        theirs(table, "ROLLBACK")
        theirs(table, "CLOSE ALL")
        talk.session.close()
    # Scripts in which everything fails would compare nothing.
    assert answered > SCRIPTS * LENGTH // 4


@pytest.mark.parametrize(
    "script",
    [
        ["BEGIN", "BEGIN", "COMMIT", "COMMIT"],
        ["SAVEPOINT s1", "RELEASE s1", "ROLLBACK TO s1"],
        ["BEGIN", "SAVEPOINT s1", "SAVEPOINT s1", "RELEASE s1", "RELEASE s1", "RELEASE s1"],
        ["BEGIN", "SELECT x FROM items", "SELECT 1", "SAVEPOINT s1", "COMMIT", "SELECT 1"],
        ["BEGIN", "SAVEPOINT s1", "SELECT x FROM items", "ROLLBACK TO s1", "SELECT 1", "END"],
        ["DECLARE c1 CURSOR FOR SELECT id FROM items"],
        ["BEGIN", "DECLARE c1 CURSOR FOR SELECT id FROM items", "COMMIT", "FETCH 1 FROM c1"],
        [
            "BEGIN",
            "DECLARE c1 CURSOR WITH HOLD FOR SELECT id FROM items ORDER BY id",
            "FETCH 2 FROM c1",
            "COMMIT",
            "FETCH 2 FROM c1",
            "CLOSE c1",
        ],
        [
            "BEGIN",
            "SAVEPOINT s1",
            "DECLARE c1 CURSOR FOR SELECT id FROM items ORDER BY id",
            "ROLLBACK TO s1",
            "FETCH 1 FROM c1",
        ],
        [
            "BEGIN",
            "DECLARE c1 CURSOR FOR SELECT id FROM items ORDER BY id",
            "SAVEPOINT s1",
            "FETCH 2 FROM c1",
            "ROLLBACK TO s1",
            "FETCH 2 FROM c1",
        ],
        ["COMMIT AND CHAIN"],
        ["BEGIN", "COMMIT AND CHAIN", "SELECT x FROM items", "ROLLBACK AND CHAIN", "SELECT 1"],
        ["BEGIN", "SET LOCAL statement_timeout = '7s'", "COMMIT", "SAVEPOINT x"],
        ["PREPARE q AS SELECT 1", "EXECUTE q", "DEALLOCATE q", "EXECUTE q", "DEALLOCATE ALL"],
        ["PREPARE q(bigint) AS SELECT id FROM items WHERE id = $1", "EXECUTE q(7)", "EXECUTE q"],
        ["DISCARD ALL", "BEGIN", "DISCARD ALL"],
        ["CLOSE c1", "CLOSE ALL", "RESET ALL", "UNLISTEN *"],
        ['DECLARE "Odd name" CURSOR WITH HOLD FOR SELECT id FROM items', 'CLOSE "Odd name"'],
    ],
)
def test_these_scripts_do_what_they_do_in_postgres(
    items: Desk, table: psycopg.Connection, script: list[str]
) -> None:
    talk = items.talk()
    for text in script:
        assert ours(talk, text) == theirs(table, text), text


SETTINGS = [
    ["SET statement_timeout = 5000", "BEGIN", "SET statement_timeout = 6000", "ROLLBACK"],
    ["SET statement_timeout = 5000", "BEGIN", "SET statement_timeout = 6000", "COMMIT"],
    ["SET statement_timeout = 5000", "BEGIN", "SET LOCAL statement_timeout = 6000", "COMMIT"],
    ["BEGIN", "SET LOCAL statement_timeout = 6000", "SET statement_timeout = 7000", "COMMIT"],
    ["BEGIN", "SET LOCAL statement_timeout = 6000", "RESET statement_timeout", "COMMIT"],
    ["BEGIN", "SAVEPOINT a", "SET statement_timeout = 6000", "ROLLBACK TO a", "COMMIT"],
    ["SET LOCAL statement_timeout = 6000"],
    ["SET statement_timeout TO DEFAULT"],
    ["BEGIN", "SELECT set_config('statement_timeout', '8000', true)", "COMMIT"],
    ["SELECT set_config('statement_timeout', '8000', false)"],
]


@pytest.mark.parametrize("script", SETTINGS)
def test_settings_follow_transactions(
    items: Desk, table: psycopg.Connection, script: list[str]
) -> None:
    talk, milliseconds = items.talk(), "SELECT setting FROM pg_settings WHERE name = %s"
    for text in script:
        talk(text)
        table.execute(text.encode())
        shown = table.execute(milliseconds, ["statement_timeout"]).fetchone()
        assert shown is not None
        assert talk.rows("SHOW statement_timeout") == [shown[0]], text


def test_transactions_see_one_version_of_an_index(items: Desk) -> None:
    talk, applied = items.talk(), items.mirror.state.applied_lsn
    talk("BEGIN")
    before = talk.rows("SELECT count(*) FROM items")
    items.change(applied + 10, [Change(Op.DELETE, 0)])
    assert talk.rows("SELECT count(*) FROM items") == before
    asked = f"SELECT count(*) FROM items WHERE min_lsn = '0/{applied + 10:X}'"
    assert talk.error(asked).sqlstate == "40001"
    talk("ROLLBACK")
    assert talk.rows(asked) == [before[0] - 1]


def test_strong_scans_of_one_transaction_agree(items: Desk) -> None:
    talk, applied = items.talk(), items.mirror.state.applied_lsn
    asked = "SELECT count(*) FROM items WHERE consistency = 'strong'"
    items.world.flushed_lsn = applied
    talk("BEGIN")
    before = talk.rows(asked)
    items.world.flushed_lsn = applied + 11
    items.change(applied + 10, [Change(Op.DELETE, 1)])
    assert talk.rows(asked) == before
    talk("COMMIT")
    assert talk.rows(asked) == [before[0] - 1]
    talk("BEGIN")
    talk.rows("SELECT count(*) FROM items")
    items.change(applied + 20, [Change(Op.DELETE, 2)])
    items.world.flushed_lsn = applied + 21
    # What was read without it may be older than what strong asks for.
    assert talk.error(asked).sqlstate == "40001"


def test_a_fetch_that_is_given_up_leaves_the_session_usable(items: Desk) -> None:
    talk = items.talk()
    talk("BEGIN")
    talk("DECLARE c1 CURSOR FOR SELECT id FROM items ORDER BY id")
    talk("SAVEPOINT s1")

    async def give_up() -> None:
        prepared = await talk.session.prepare("FETCH 5 FROM c1", ())
        answer = await talk.session.run(prepared, ())
        assert answer.rows is not None
        task = asyncio.ensure_future(answer.rows.fetch(5))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    items.runner.run(give_up())
    assert talk.status == "E"
    talk("ROLLBACK TO s1")
    expected = talk.rows("SELECT id FROM items ORDER BY id")
    assert [row for (row,) in talk("FETCH ALL FROM c1").rows or ()] == expected
