"""Clients that mean harm, or are careless: nobody else notices, and nothing grows without end."""

from __future__ import annotations

import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.fix_sql_wire import StartWire, WireServer
from tests.sql.raw_client import (
    FLUSH,
    SYNC,
    RawClient,
    bind,
    cancel,
    error_of,
    execute,
    key_of,
    kinds,
    message,
    parse,
    query,
    startup,
)

SEED = random.randrange(2**32)
MIB = 1 << 20


def _wait(done: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


def _works(server: WireServer, **words: object) -> None:
    with psycopg.connect(server.dsn(**words), connect_timeout=10) as conn:
        assert conn.execute("SELECT numbers(2)").fetchall() == [(0,), (1,)]


@pytest.fixture
def others(wire_server: StartWire) -> Iterator[Callable[..., WireServer]]:
    """Return a function that starts a port whose other clients must not notice anything."""
    started: list[WireServer] = []

    def start(**sections: Any) -> WireServer:
        started.append(wire_server(**sections))
        return started[-1]

    yield start
    for server in started:
        _works(server)
        _wait(lambda server=server: server.sql.n_connections == 0)  # type: ignore[misc]
        assert all(session.closed for session in server.sessions)


def test_noise_of_any_kind_ends_only_its_own_connection(
    others: Callable[..., WireServer],
) -> None:
    server, rng = others(), random.Random(SEED)
    print(f"seed {SEED}")
    good = parse("SELECT $1::int4") + bind(b"1") + execute() + SYNC + query("BEGIN; FAIL; COMMIT")
    for _ in range(150):
        with RawClient(server.port) as client:
            if rng.random() < 0.2:
                client.send(rng.randbytes(rng.randint(0, 50)))
            else:
                client.log_in()
                broken = bytearray(good * 2)
                for _ in range(rng.randint(1, 6)):
                    broken[rng.randrange(len(broken))] = rng.randrange(256)
                client.send(bytes(broken[: rng.randint(1, len(broken))]))
            client.socket.shutdown(socket.SHUT_WR)
            while client.read()[0]:
                pass


def test_a_huge_message_is_refused_before_it_is_read(others: Callable[..., WireServer]) -> None:
    server = others(sql={"max_message_bytes": MIB})
    with RawClient(server.port) as client:
        client.log_in()
        told = client.ask(b"Q" + struct.pack("!i", MIB + 100))
        assert error_of(told)["C"] == "54000"
        assert "sql.max_message_bytes" in error_of(told)["H"]
        assert error_of(told)["S"] == "FATAL"
    with RawClient(server.port) as client:
        client.log_in()
        assert kinds(client.ask(query("SELECT '" + "x" * (MIB - 100) + "'::text"))) == "TDCZ"


def test_somebody_who_does_not_log_in_is_cut(others: Callable[..., WireServer]) -> None:
    server = others(sql={"startup_timeout_s": 1})
    with RawClient(server.port) as silent, RawClient(server.port) as slow:
        slow.send(startup()[:10])
        for client in (silent, slow):
            assert error_of([client.read()])["C"] == "57014"
            assert client.read() == ("", b"")


def test_a_slow_reader_makes_no_memory_grow(others: Callable[..., WireServer]) -> None:
    server = others(sql={"write_timeout_s": 60})
    with RawClient(server.port) as client:
        client.log_in()
        client.send(query("SELECT words(100000, 100000)"))  # 10 GB
        _wait(lambda: bool(server.sessions[0].rows))
        seen = -1
        while server.sessions[0].rows[0].fetched != seen:  # until it stands still
            seen = server.sessions[0].rows[0].fetched
            time.sleep(0.1)
        assert seen < 1_000
        _works(server)


def test_a_reader_that_never_reads_is_cut(others: Callable[..., WireServer]) -> None:
    server = others(sql={"write_timeout_s": 1})
    with RawClient(server.port) as client:
        client.log_in()
        client.send(query("SELECT words(100000, 100000)"))
        _wait(lambda: server.sql.n_connections == 0)


def test_a_statement_that_takes_too_long_is_ended(others: Callable[..., WireServer]) -> None:
    server = others(sql={"statement_timeout_ms": 100})
    with RawClient(server.port) as client:
        client.log_in()
        told = client.ask(query("SLEEP 60"))
        assert error_of(told)["C"] == "57014"
        assert "statement timeout" in error_of(told)["M"]
        told = client.ask(parse("SLEEP 60"), bind(), execute(), SYNC)
        assert error_of(told)["C"] == "57014"
        assert kinds(client.ask(query("SLEEP 0.01"))) == "CZ"
    assert server.count("vecmirror_sql_statements_total", outcome="57014") == 2


def test_an_idle_transaction_and_an_idle_session_are_ended(
    others: Callable[..., WireServer],
) -> None:
    server = others(sql={"idle_in_transaction_timeout_s": 1})
    with RawClient(server.port) as client, RawClient(server.port) as idle:
        idle.log_in()
        client.log_in()
        client.ask(query("BEGIN"))
        assert error_of([client.read()])["C"] == "25P03"
        assert client.read() == ("", b"")
        assert kinds(idle.ask(query("SELECT numbers(1)"))) == "TDCZ"
    server = others(sql={"idle_timeout_s": 1})
    with RawClient(server.port) as client:
        client.log_in()
        assert error_of([client.read()])["C"] == "57P05"


def test_connections_are_counted_and_bounded(others: Callable[..., WireServer]) -> None:
    server = others(sql={"max_connections": 5})
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(RawClient(server.port)).log_in()
        assert server.count("vecmirror_sql_connections") == 5
        with RawClient(server.port) as client:
            told = client.log_in()
            assert (error_of(told)["C"], error_of(told)["S"]) == ("53300", "FATAL")
    _wait(lambda: server.sql.n_connections == 0)


def test_strangers_that_wait_keep_nobody_out(others: Callable[..., WireServer]) -> None:
    server = others(sql={"max_connections": 20})
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(RawClient(server.port))
        _works(server)


def test_a_thousand_idle_connections_are_cheap(others: Callable[..., WireServer]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2_300 if hard == resource.RLIM_INFINITY else min(hard, 2_300)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    count = 1_000 if wanted >= 2_300 else wanted // 3
    server = others(sql={"max_connections": 1_100})
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.port)) for _ in range(count)]
        for client in clients:
            client.send(startup())
        for client in clients:
            assert client.until_ready()[-1] == ("Z", b"I")
        assert server.sql.n_connections == count
        _works(server)
        assert kinds(clients[-1].ask(query("SELECT numbers(1)"))) == "TDCZ"


def test_a_storm_of_cancels_ends_no_statement(others: Callable[..., WireServer]) -> None:
    server, rng = others(), random.Random(SEED)
    print(f"seed {SEED}")
    with RawClient(server.port) as client:
        process_id, _ = key_of(client.log_in())
        client.send(query("SLEEP 0.5"))
        for _ in range(300):
            with socket.create_connection(("127.0.0.1", server.port)) as other:
                other.sendall(cancel(process_id, rng.randbytes(rng.choice((4, 32)))))
        assert kinds(client.until_ready()) == "CZ"


def test_cancels_in_the_middle_of_everything_leave_a_usable_connection(
    others: Callable[..., WireServer],
) -> None:
    server, stop = others(), threading.Event()
    with RawClient(server.port) as client:
        key = key_of(client.log_in())

        def storm() -> None:
            while not stop.is_set():
                with socket.create_connection(("127.0.0.1", server.port)) as other:
                    other.sendall(cancel(*key))

        thread = threading.Thread(target=storm)
        thread.start()
        try:
            for _ in range(300):
                told = client.ask(query("SLEEP 0.001; SELECT numbers(20000)"))
                assert told[-1] == ("Z", b"I")
                assert kinds(told).replace("D", "") in ("CTCZ", "EZ", "CEZ", "CTEZ")
        finally:
            stop.set()
            thread.join()
    _wait(lambda: server.sql.n_connections == 0)


def test_a_flood_of_wrong_passwords_keeps_no_right_one_out(wire_server: StartWire) -> None:
    server = wire_server(auth={"admin_keys": "boss"}, sql={"max_connections": 50})
    first = b"n,,n=,r=abc"
    hello = message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
    with ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(RawClient(server.port))
            client.send(startup(), hello)
            client.read()
            nonce = client.read()[1][4:].split(b",")[0]
            client.send(message(b"p", b"c=biws," + nonce + b",p=" + b"A" * 43 + b"="))
        _works(server, password="boss")
    assert server.count("vecmirror_sql_logins_total", outcome="ok") == 1


def test_a_pipeline_without_end_is_answered_and_others_get_their_turn(
    others: Callable[..., WireServer],
) -> None:
    server = others()
    one = parse("SELECT numbers(1)") + bind() + execute()
    with RawClient(server.port, timeout_s=60) as client:
        client.log_in()
        sender = threading.Thread(target=lambda: client.send(one * 20_000, FLUSH, SYNC))
        sender.start()
        try:
            for _ in range(5):
                _works(server)
        finally:
            told = kinds(client.until_ready())
            sender.join()
    assert told == "12DC" * 20_000 + "Z"


def test_a_pipeline_whose_answers_nobody_reads_stops_being_read(
    others: Callable[..., WireServer],
) -> None:
    server = others(sql={"write_timeout_s": 2})
    one = parse("SELECT words(1, 10000)") + bind() + execute()
    with RawClient(server.port) as client:
        client.log_in()
        client.socket.setblocking(False)
        sent, still_s = 0, 0.0
        while still_s < 0.5:
            try:
                sent += client.socket.send(one * 1_000)
                still_s = 0.0
            except BlockingIOError:
                time.sleep(0.05)
                still_s += 0.05
        assert sent < 30 * MIB
        assert len(server.log) < 5_000
    _wait(lambda: server.sql.n_connections == 0)


def test_what_a_connection_prepares_is_bounded(others: Callable[..., WireServer]) -> None:
    server = others(sql={"max_message_bytes": MIB})
    with RawClient(server.port, timeout_s=60) as client:
        client.log_in()
        many = b"".join(parse("SELECT numbers(1)", f"s{n}") for n in range(5_001))
        assert error_of(client.ask(many, SYNC))["C"] == "54000"
    with RawClient(server.port) as client:
        client.log_in()
        client.ask(query("BEGIN"))
        big = parse("SELECT $1::text", "s") + b"".join(
            bind(b"x" * 900_000, name="s", portal=f"p{n}") for n in range(3)
        )
        assert error_of(client.ask(big, SYNC))["C"] == "54000"
        client.ask(query("ROLLBACK"))
        assert kinds(client.ask(bind(b"x" * 900_000, name="s"), execute(), SYNC)) == "2DCZ"


def test_a_portal_without_end_gives_what_is_asked_for_and_no_more(
    others: Callable[..., WireServer],
) -> None:
    server = others()
    with RawClient(server.port) as client:
        client.log_in()
        client.ask(query("BEGIN"))
        client.ask(parse("SELECT numbers(1000000000000)"), bind(portal="p"), SYNC)
        for _ in range(50):
            assert kinds(client.ask(execute("p", 10), SYNC)) == "D" * 10 + "sZ"
        assert server.sessions[0].rows[0].fetched == 500
        client.send(execute("p"), SYNC)  # the rest; it goes away instead of reading
        client.read()
    _wait(lambda: server.sql.n_connections == 0)


def test_others_are_served_while_heavy_parameters_are_read(
    others: Callable[..., WireServer],
) -> None:
    """The loop, which HTTP shares, turns while a text of many megabytes becomes an array."""
    server = others()
    words = "{" + ",".join(f'"word {n}"' for n in range(200_000)) + "}"
    with RawClient(server.port, timeout_s=60) as client:
        client.log_in()
        client.send(parse("SELECT $1::text[]"), bind(words.encode()), execute(), SYNC)
        _works(server)
        assert kinds(client.until_ready()) == "12DCZ"
    asked = [text for text in server.log if text.startswith("SELECT")]
    assert asked == ["SELECT numbers(2)", "SELECT $1::text[]"]


def test_at_the_stop_clients_are_told_and_running_statements_may_end(
    wire_server: StartWire,
) -> None:
    server = wire_server()
    with ExitStack() as stack:
        idle, short, long, stranger = [
            stack.enter_context(RawClient(server.port)) for _ in range(4)
        ]
        for client in (idle, short, long):
            client.log_in()
        short.send(query("SLEEP 0.2"))
        long.send(query("SLEEP 60"))
        _wait(lambda: len(server.log) == 2)
        server.stop(grace_s=1.0)
        assert error_of([idle.read()])["C"] == "57P01"
        told = [short.read(), short.read(), short.read()]
        assert (kinds(told), error_of(told)["C"]) == ("CZE", "57P01")
        assert error_of([long.read()])["C"] == "57P01"
        assert error_of([stranger.read()])["C"] == "57P01"
        for client in (idle, short, long, stranger):
            assert client.read() == ("", b"")
    assert all(session.closed for session in server.sessions)
    with pytest.raises(OSError):  # noqa: PT011 - refused, or reset
        socket.create_connection(("127.0.0.1", server.port), 1)


def test_psycopg_sees_the_stop_as_such(wire_server: StartWire) -> None:
    server = wire_server()
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        server.stop()
        with pytest.raises((errors.AdminShutdown, psycopg.OperationalError), match="terminating"):
            conn.execute("SELECT numbers(1)")
