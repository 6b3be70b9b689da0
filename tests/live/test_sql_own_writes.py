"""Read-your-writes: concurrent writers and readers, with a checker that knows what was committed.

Each writer owns some keys. After every commit it asks in SQL for exactly its row, by a vector that
nothing else has, and whatever the answer lacks or still holds is a stale read.
"""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import psycopg
import pytest

from tests.fix_sql import SqlService, install

DIM, WRITERS, READERS = 8, 3, 3
#: Operations (a write or a read) in the usual run, and in the one of `make test-all`.
OPERATIONS, ALL_OPERATIONS = 4_000, 10_000
MOST_STALE_MS = 10_000.0

SESSION = (
    "SELECT id, version FROM vecmirror.written WHERE query = %s::vector"
    " AND min_lsn = (SELECT pg_current_wal_flush_lsn()) ORDER BY distance LIMIT 1"
)
STRONG = (
    "SELECT id, version FROM vecmirror.written_light WHERE query = %s::vector"
    " AND k = 1 AND consistency = 'strong'"
)
EVENTUAL = "SELECT id, version FROM vecmirror.written_light WHERE query = %s::vector AND k = 1"


@dataclass
class Ledger:
    """What is committed: key -> version, at least so old; versions only rise."""

    versions: dict[int, int] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    operations: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def committed(self, key: int, version: int) -> None:
        """Note a commit, once it is acknowledged."""
        with self.lock:
            self.versions[key] = version
            self.operations += 1

    def expected(self, key: int) -> int | None:
        """Return the version that a read begun now must not miss."""
        with self.lock:
            return self.versions.get(key)

    def read(self, key: int, least: int | None, found: list[tuple[int, int]], how: str) -> None:
        """Judge a read: a row of this key, of at least that version."""
        with self.lock:
            self.operations += 1
            if least is not None and (not found or found[0][0] != key or found[0][1] < least):
                self.stale.append(f"{how}: key {key} wanted version {least}, got {found}")


def place_of(key: int) -> str:
    """Return the vector of a key: a corner of a large cube that no other key has."""
    digits = [(key >> (4 * place)) & 15 for place in range(DIM)]
    return str([digit * 10.0 for digit in digits])


@pytest.fixture(scope="module")
def written(sql_service: SqlService) -> str:
    """Return the DSN of a database with the mirrored table ``written``."""
    with psycopg.connect(sql_service.dsn, autocommit=True) as admin:
        admin.execute(
            f"CREATE TABLE written (id bigint PRIMARY KEY, version int, embedding vector({DIM}))"
        )
    sql_service.attach("public", "written", ["version"], "written")
    install(sql_service.dsn, sql_service, "written")
    return sql_service.dsn


def write(connection: psycopg.Connection, key: int, version: int) -> None:
    """Commit a new version of a row: an insert, an update of columns only, or of all."""
    if version == 1:
        connection.execute("INSERT INTO written VALUES (%s, 1, %s::vector)", [key, place_of(key)])
    elif version % 2:
        connection.execute("UPDATE written SET version = %s WHERE id = %s", [version, key])
    else:
        connection.execute(
            "UPDATE written SET version = %s, embedding = %s::vector WHERE id = %s",
            [version, place_of(key), key],
        )


def run_writer(dsn: str, ledger: Ledger, number: int, wanted: int, first_key: int) -> None:
    """Write and read back in turn, by both ways of asking; sometimes in one transaction of many."""
    rng = np.random.default_rng(number)
    with psycopg.connect(dsn, autocommit=True) as connection:
        versions: dict[int, int] = {}
        while ledger.operations < wanted:
            keys = sorted({first_key + int(key) for key in rng.integers(0, 40, rng.integers(1, 4))})
            with connection.transaction():
                for key in keys:
                    versions[key] = versions.get(key, 0) + 1
                    write(connection, key, versions[key])
            for key in keys:
                ledger.committed(key, versions[key])
            query, how = (SESSION, "session") if rng.random() < 0.5 else (STRONG, "strong")
            rows = connection.execute(query.encode(), [place_of(keys[0])]).fetchall()
            ledger.read(keys[0], versions[keys[0]], rows, how)


def run_reader(dsn: str, ledger: Ledger, number: int, wanted: int) -> None:
    """Read what others have committed: what was acknowledged before the read must be there."""
    rng = np.random.default_rng(1_000 + number)
    with psycopg.connect(dsn, autocommit=True) as connection:
        while ledger.operations < wanted:
            known = list(ledger.versions)
            if not known:
                time.sleep(0.01)
                continue
            key = known[int(rng.integers(len(known)))]
            query, how = (SESSION, "session") if rng.random() < 0.5 else (STRONG, "strong")
            least = ledger.expected(key)
            rows = connection.execute(query.encode(), [place_of(key)]).fetchall()
            ledger.read(key, least, rows, f"{how}, another's")


def check(dsn: str, wanted: int, first_key: int) -> Ledger:
    """Run writers and readers until there were ``wanted`` operations; raise what went wrong."""
    ledger, errors = Ledger(), list[BaseException]()

    def guarded(work: object, *arguments: object) -> None:
        try:
            assert callable(work)
            work(dsn, ledger, *arguments)
        except BaseException as error:
            errors.append(error)
            ledger.operations = wanted

    threads = [
        threading.Thread(target=guarded, args=(run_writer, n, wanted, first_key + 1_000 * n))
        for n in range(WRITERS)
    ]
    threads += [
        threading.Thread(target=guarded, args=(run_reader, n, wanted)) for n in range(READERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return ledger


class TestStaleReads:
    """Session (min_lsn) and strong reads are never stale; eventual ones are, for how long."""

    def test_there_are_none(self, written: str) -> None:
        ledger = check(written, OPERATIONS, 10_000)
        assert ledger.operations >= OPERATIONS
        assert ledger.stale == []

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_there_are_none_in_ten_thousand_operations(self, written: str) -> None:
        ledger = check(written, ALL_OPERATIONS, 100_000)
        assert ledger.operations >= ALL_OPERATIONS
        assert ledger.stale == []

    def test_the_checker_would_see_one(self) -> None:
        ledger = Ledger()
        ledger.committed(1, 2)
        ledger.read(1, ledger.expected(1), [(1, 1)], "planted")
        ledger.read(1, ledger.expected(1), [], "planted")
        ledger.read(1, ledger.expected(1), [(1, 2)], "fresh")
        assert len(ledger.stale) == 2

    def test_eventual_reads_catch_up_and_how_stale_they_were_is_printed(
        self, written: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        took_ms: list[float] = []
        with psycopg.connect(written, autocommit=True) as connection:
            for key in range(500, 540):
                write(connection, key, 1)
                committed = time.perf_counter()
                rows = connection.execute(EVENTUAL, [place_of(key)]).fetchall()
                while not rows or rows[0][0] != key:
                    assert (time.perf_counter() - committed) * 1e3 < MOST_STALE_MS
                    rows = connection.execute(EVENTUAL, [place_of(key)]).fetchall()
                took_ms.append((time.perf_counter() - committed) * 1e3)
        with capsys.disabled():
            worst, median = max(took_ms), statistics.median(took_ms)
            print(f"\neventual reads: stale for {median:.1f} ms (median), {worst:.1f} ms (most)")


class TestWaiting:
    """Waits end: by the commit, by a time limit that says how far behind, or by a cancel."""

    AHEAD = (
        "SELECT id FROM vecmirror.written WHERE query = '[0,0,0,0,0,0,0,0]'"
        " AND min_lsn = (SELECT pg_current_wal_flush_lsn() + 1000000000) LIMIT 1"
    )

    def test_a_statement_timeout_here_is_a_cancel_there(self, written: str) -> None:
        with psycopg.connect(written, autocommit=True) as connection:
            connection.execute("SELECT id FROM vecmirror.written LIMIT 1")
            connection.execute("SET statement_timeout = '300ms'")
            asked = time.perf_counter()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(self.AHEAD.encode())
            assert time.perf_counter() - asked < 5, "the cancel did not reach the index"
            connection.execute("RESET statement_timeout")
            assert connection.execute("SELECT id FROM vecmirror.written LIMIT 1").fetchall()

    def test_a_wait_that_ends_in_vain_says_how_far_behind_the_index_is(self, written: str) -> None:
        asked = self.AHEAD.replace(" LIMIT 1", "").replace("vecmirror.written", "written")
        with psycopg.connect(written, autocommit=True) as connection:
            connection.execute(
                "SELECT dblink_connect('waiting', 'vecmirror'),"
                " dblink_exec('waiting', 'SET statement_timeout = 200')"
            )
            row = connection.execute("SELECT (pg_current_wal_flush_lsn() + 1000000000)::text")
            lsn = (row.fetchone() or ("",))[0]
            there = asked.replace("(SELECT pg_current_wal_flush_lsn() + 1000000000)", f"'{lsn}'")
            with pytest.raises(psycopg.Error, match=r"behind|timeout") as refused:
                connection.execute("SELECT * FROM dblink('waiting', %s) AS t(id bigint)", [there])
            assert (refused.value.sqlstate or "")[:2] in ("57", "55", "25", "40", "53")

    def test_one_transaction_reads_one_version(self, written: str) -> None:
        query = "SELECT version FROM vecmirror.written_light WHERE query = %s::vector AND k = 1"
        with (
            psycopg.connect(written, autocommit=True) as writer,
            psycopg.connect(written) as reader,
        ):
            write(writer, 900, 1)
            before = writer.execute(SESSION.encode(), [place_of(900)]).fetchall()
            assert before == [(900, 1)]
            assert reader.execute(query, [place_of(900)]).fetchall() == [(1,)]
            write(writer, 900, 2)
            assert writer.execute(SESSION.encode(), [place_of(900)]).fetchall() == [(900, 2)]
            assert reader.execute(query, [place_of(900)]).fetchall() == [(1,)]
            with pytest.raises(psycopg.errors.SerializationFailure):
                reader.execute(SESSION.encode(), [place_of(900)])
            reader.rollback()
            assert reader.execute(query, [place_of(900)]).fetchall() == [(2,)]
