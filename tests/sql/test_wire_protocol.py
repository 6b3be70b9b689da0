"""The protocol message by message: what is answered, in which order."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import pytest

from tests.fix_sql_wire import StartWire, WireServer
from tests.sql.raw_client import (
    FLUSH,
    GSSENC_REQUEST,
    PROTOCOL_3_0,
    PROTOCOL_3_2,
    SSL_REQUEST,
    SYNC,
    TERMINATE,
    RawClient,
    bind,
    cancel,
    close,
    describe,
    error_of,
    execute,
    key_of,
    kinds,
    message,
    parse,
    query,
    rows_of,
    startup,
)


@pytest.fixture
def server(wire_server: StartWire) -> WireServer:
    return wire_server()


@pytest.fixture
def client(server: WireServer) -> Iterator[RawClient]:
    """Return a client that has logged in."""
    with RawClient(server.port) as client:
        client.log_in()
        yield client


def _parameters(messages: list[tuple[str, bytes]]) -> dict[str, str]:
    found = {}
    for kind, body in messages:
        if kind == "S":
            name, value, _ = body.split(b"\0")
            found[name.decode()] = value.decode()
    return found


# Start


def test_a_client_learns_the_settings_of_its_session(server: WireServer) -> None:
    with RawClient(server.port) as client:
        told = client.log_in(application_name="mine")
    parameters = _parameters(told)
    assert parameters["server_version"].startswith("18.0 (Vecmirror ")
    assert parameters["server_encoding"] == parameters["client_encoding"] == "UTF8"
    assert parameters["DateStyle"] == "ISO, MDY"
    assert parameters["TimeZone"] == "UTC"
    assert parameters["integer_datetimes"] == parameters["standard_conforming_strings"] == "on"
    assert parameters["application_name"] == "mine"
    assert (kinds(told)[0], kinds(told)[-2:]) == ("R", "KZ")
    assert told[-1] == ("Z", b"I")
    login = server.sessions[0].login
    assert (login.user, login.database) == ("me", "me")
    assert login.parameters == {"application_name": "mine"}


@pytest.mark.parametrize(("version", "size"), [(PROTOCOL_3_0, 4), (PROTOCOL_3_2, 32)])
def test_the_cancel_key_is_as_long_as_the_version_allows(
    server: WireServer, version: int, size: int
) -> None:
    with RawClient(server.port) as one, RawClient(server.port) as other:
        keys = [key_of(client.log_in(version)) for client in (one, other)]
    assert [len(key) for _, key in keys] == [size, size]
    assert keys[0] != keys[1]


def test_a_newer_version_and_unknown_options_are_negotiated(server: WireServer) -> None:
    with RawClient(server.port) as client:
        told = client.log_in(3 << 16 | 9999, _pq_grease="x")
    assert told[0] == ("v", struct.pack("!II", PROTOCOL_3_2, 1) + b"_pq_.grease\0")
    assert told[-1] == ("Z", b"I")
    with RawClient(server.port) as client:
        assert client.log_in(PROTOCOL_3_2)[0][0] == "R"


@pytest.mark.parametrize("version", [2 << 16, 4 << 16, 0])
def test_another_major_version_is_refused(server: WireServer, version: int) -> None:
    with RawClient(server.port) as client:
        told = client.log_in(version)
    assert kinds(told) == "E"
    assert error_of(told)["S"] == error_of(told)["V"] == "FATAL"
    assert "server supports 3.0 to 3.2" in error_of(told)["M"]


def test_encryption_that_is_not_offered_is_refused_and_the_client_may_go_on(
    server: WireServer,
) -> None:
    with RawClient(server.port) as client:
        client.send(SSL_REQUEST)
        assert client.read_byte() == b"N"
        client.send(GSSENC_REQUEST)
        assert client.read_byte() == b"N"
        assert client.log_in()[-1] == ("Z", b"I")


def test_encryption_cannot_be_asked_for_twice(server: WireServer) -> None:
    with RawClient(server.port) as client:
        client.send(SSL_REQUEST)
        assert client.read_byte() == b"N"
        assert error_of(client.ask(SSL_REQUEST))["C"] == "08P01"


@pytest.mark.parametrize(
    ("parameters", "code"), [({"user": ""}, "28000"), ({"replication": "database"}, "0A000")]
)
def test_a_startup_that_asks_for_what_there_is_not_is_refused(
    server: WireServer, parameters: dict[str, str], code: str
) -> None:
    with RawClient(server.port) as client:
        assert error_of(client.ask(startup(PROTOCOL_3_0, **parameters)))["C"] == code


# Simple query


def test_a_simple_query_is_described_and_answered(client: RawClient) -> None:
    told = client.ask(query("SELECT numbers(2)"))
    assert kinds(told) == "TDDCZ"
    assert told[0][1] == struct.pack("!H", 1) + b"n\0" + struct.pack("!IhIhih", 0, 0, 20, 8, -1, 0)
    assert rows_of(told) == [[b"0"], [b"1"]]
    assert told[-2] == ("C", b"SELECT 2\0")


def test_several_statements_are_answered_one_after_the_other(client: RawClient) -> None:
    told = client.ask(query("BEGIN; SELECT numbers(1); COMMIT"))
    assert kinds(told) == "CTDCCZ"
    assert told[-1] == ("Z", b"I")


def test_an_error_ends_the_statements_of_its_query(client: RawClient, server: WireServer) -> None:
    told = client.ask(query("SELECT numbers(1);  FAIL; SELECT numbers(5)"))
    assert kinds(told) == "TDCEZ"
    assert server.log == ["SELECT numbers(1)", "FAIL"]
    error = error_of(told)
    assert (error["C"], error["S"], error["H"]) == ("22012", "ERROR", "do not")
    # The position is one of the whole query, as clients show it: 20 characters come before.
    assert error["P"] == str(20 + 6)


@pytest.mark.parametrize("text", ["", "  ", ";", " ; "])
def test_an_empty_query_has_an_answer_of_its_own(client: RawClient, text: str) -> None:
    assert kinds(client.ask(query(text))) == "IZ"
    assert kinds(client.ask(parse(text), bind(), describe("P"), execute(), SYNC)) == "12nIZ"


def test_the_state_of_the_transaction_is_told(client: RawClient) -> None:
    for text, status in [("BEGIN", b"T"), ("FAIL", b"E"), ("SELECT numbers(1)", b"E")]:
        assert client.ask(query(text))[-1] == ("Z", status)
    told = client.ask(query("COMMIT"))
    assert told == [("C", b"ROLLBACK\0"), ("Z", b"I")]


def test_notices_come_before_the_end_of_their_statement(client: RawClient) -> None:
    told = client.ask(query("NOTE"))
    assert kinds(told) == "NCZ"
    assert b"SNOTICE\0VNOTICE\0C00000\0Mlook here\0" in told[0][1]


def test_parameters_have_no_place_in_a_simple_query(client: RawClient) -> None:
    assert error_of(client.ask(query("SELECT $1::int4")))["C"] == "42P02"


def test_a_mistake_of_ours_is_told_without_its_text(client: RawClient) -> None:
    told = client.ask(query("BREAK"))
    assert error_of(told)["C"] == "XX000"
    assert "hunter2" not in repr(told)
    assert kinds(client.ask(query("SELECT numbers(1)"))) == "TDCZ"


# Extended query


def test_an_extended_query_is_answered_step_by_step(client: RawClient) -> None:
    told = client.ask(
        parse("SELECT $1::int4, $2::text", "s"),
        describe("S", "s"),
        bind(b"7", None, name="s", portal="p"),
        describe("P", "p"),
        execute("p"),
        SYNC,
    )
    assert kinds(told) == "1tT2TDCZ"
    assert told[1][1] == struct.pack("!HII", 2, 23, 25)
    assert rows_of(told) == [[b"7", None]]


def test_results_are_binary_where_asked_for(client: RawClient) -> None:
    told = client.ask(parse("SELECT $1::int4"), bind(b"7", binary=True), execute(), SYNC)
    assert rows_of(told) == [[b"\0\0\0\7"]]


def test_a_portal_gives_its_rows_in_portions(client: RawClient) -> None:
    client.ask(query("BEGIN"))
    told = client.ask(parse("SELECT numbers(5)"), bind(portal="p"), execute("p", 2), SYNC)
    assert (kinds(told), rows_of(told)) == ("12DDsZ", [[b"0"], [b"1"]])
    told = client.ask(execute("p", 3), SYNC)
    assert (kinds(told), rows_of(told)) == ("DDDsZ", [[b"2"], [b"3"], [b"4"]])
    assert client.ask(execute("p", 2), SYNC) == [("C", b"SELECT 0\0"), ("Z", b"T")]


def test_rows_are_made_only_as_they_are_asked_for(client: RawClient, server: WireServer) -> None:
    client.ask(query("BEGIN"))
    client.ask(parse("SELECT numbers(1000000000)"), bind(portal="p"), execute("p", 3), SYNC)
    assert server.sessions[0].rows[0].fetched == 3


def test_portals_end_with_the_transaction(client: RawClient) -> None:
    client.ask(parse("SELECT numbers(5)"), bind(portal="p"), execute("p", 2), SYNC)
    assert error_of(client.ask(execute("p", 2), SYNC))["C"] == "34000"


def test_after_an_error_everything_up_to_sync_is_skipped(
    client: RawClient, server: WireServer
) -> None:
    told = client.ask(
        parse("SELECT numbers(1)"),
        bind(),
        execute(),
        parse("NONSENSE"),
        bind(),
        execute(),
        parse("SELECT numbers(2)"),
        SYNC,
    )
    assert kinds(told) == "12DCEZ"
    assert server.log == ["SELECT numbers(1)"]
    assert kinds(client.ask(parse("SELECT numbers(1)"), SYNC)) == "1Z"


def test_each_sync_of_a_pipeline_is_answered(client: RawClient) -> None:
    good = parse("SELECT numbers(1)") + bind() + execute() + SYNC
    client.send(good, parse("FAIL") + bind() + execute() + SYNC, good)
    assert [kinds(client.until_ready()) for _ in range(3)] == ["12DCZ", "12EZ", "12DCZ"]


def test_flush_sends_what_is_ready(client: RawClient) -> None:
    client.send(parse("SELECT numbers(1)"), FLUSH)
    assert client.read() == ("1", b"")
    client.send(bind(), execute(), FLUSH)
    assert [client.read()[0] for _ in range(3)] == ["2", "D", "C"]
    assert client.ask(SYNC) == [("Z", b"I")]


def test_names_are_held_until_they_are_closed(client: RawClient) -> None:
    assert kinds(client.ask(parse("SELECT numbers(1)", "s"), SYNC)) == "1Z"
    assert error_of(client.ask(parse("SELECT numbers(1)", "s"), SYNC))["C"] == "42P05"
    assert kinds(client.ask(bind(name="s"), execute(), SYNC)) == "2DCZ"
    assert kinds(client.ask(close("S", "s"), close("S", "never"), SYNC)) == "33Z"
    assert error_of(client.ask(bind(name="s"), SYNC))["C"] == "26000"
    assert error_of(client.ask(describe("S", "s"), SYNC))["C"] == "26000"
    assert error_of(client.ask(describe("P", "p"), SYNC))["C"] == "34000"
    told = client.ask(parse("SELECT numbers(1)"), bind(portal="p"), bind(portal="p"), SYNC)
    assert error_of(told)["C"] == "42P03"


@pytest.mark.parametrize("text", ["DEALLOCATE s", 'deallocate prepare "s"', "DEALLOCATE ALL"])
def test_deallocate_lets_go_of_what_parse_made(client: RawClient, text: str) -> None:
    client.ask(parse("SELECT numbers(1)", "s"), SYNC)
    assert kinds(client.ask(query(text))) == "CZ"
    assert error_of(client.ask(bind(name="s"), SYNC))["C"] == "26000"


def test_a_portal_outlives_its_statement(client: RawClient) -> None:
    client.ask(query("BEGIN"))
    client.ask(parse("SELECT numbers(1)", "s"), bind(name="s", portal="p"), close("S", "s"), SYNC)
    assert kinds(client.ask(execute("p"), SYNC)) == "DCZ"


def test_a_statement_without_rows_runs_once(client: RawClient) -> None:
    client.ask(query("BEGIN"))
    told = client.ask(parse("SET x"), bind(), execute(), execute(), SYNC)
    assert (kinds(told), error_of(told)["C"]) == ("12CEZ", "55000")


def test_a_failed_block_gives_no_more_rows_of_a_portal(client: RawClient) -> None:
    client.ask(query("BEGIN"))
    client.ask(parse("SELECT numbers(9)"), bind(portal="p"), execute("p", 2), SYNC)
    client.ask(query("FAIL"))
    assert error_of(client.ask(execute("p", 2), SYNC))["C"] == "25P02"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (parse("SELECT numbers(1); SELECT numbers(1)"), "42601"),
        (parse("SELECT $1::int4") + bind(), "08P01"),
        (parse("SELECT $1::int4") + bind(b"x"), "22P02"),
        (parse("SELECT $1::int4") + bind(b"\xff"), "22021"),
        (parse("SELECT $1::text") + bind(b"a\0b"), "22021"),
        (message(b"P", b"name"), "08P01"),
        (message(b"B", b"\0\0\0\1\0\2\0\0\0\0"), "22023"),
        (message(b"D", b"X\0"), "08P01"),
        (message(b"E", b"\0"), "08P01"),
        (message(b"C", b""), "08P01"),
    ],
    ids=range(10),
)
def test_an_error_of_the_client_ends_nothing(client: RawClient, data: bytes, code: str) -> None:
    told = client.ask(data, SYNC)
    assert (error_of(told)["C"], error_of(told)["S"]) == (code, "ERROR")
    assert kinds(client.ask(query("SELECT numbers(1)"))) == "TDCZ"


def test_function_calls_are_refused_and_copy_is_passed_over(client: RawClient) -> None:
    told = client.ask(message(b"F", b"\0" * 10))
    assert (kinds(told), error_of(told)["C"]) == ("EZ", "0A000")
    client.send(message(b"d", b"1\t2\n"), message(b"c"), message(b"f", b"why\0"))
    assert kinds(client.ask(query("SELECT numbers(1)"))) == "TDCZ"


def test_a_password_that_nobody_asked_for_ends_the_connection(client: RawClient) -> None:
    assert error_of(client.ask(message(b"p", b"hunter2\0")))["S"] == "FATAL"


def test_messages_may_be_split_anywhere(server: WireServer) -> None:
    with RawClient(server.port) as client:
        data = startup() + parse("SELECT $1::text") + bind(b"word") + execute() + SYNC
        for at in range(len(data)):
            client.send(data[at : at + 1])
            if at % 16 == 0:
                time.sleep(0.0005)
        client.until_ready()
        assert rows_of(client.until_ready()) == [[b"word"]]


def test_terminate_closes_session_and_connection(server: WireServer) -> None:
    with RawClient(server.port) as client:
        client.log_in()
        assert client.ask(TERMINATE) == [("", b"")]
    assert server.sessions[0].closed
    assert server.sql.n_connections == 0


def test_a_client_that_goes_away_ends_what_it_asked_for(server: WireServer) -> None:
    with RawClient(server.port) as client:
        client.log_in()
        client.send(query("SLEEP 60"))
        _wait(lambda: server.log == ["SLEEP 60"])
    _wait(lambda: server.sessions[0].closed)
    assert server.sql.n_connections == 0


# Cancelling


@pytest.mark.parametrize("version", [PROTOCOL_3_0, PROTOCOL_3_2])
def test_a_cancel_request_ends_the_statement_and_nothing_else(
    server: WireServer, version: int
) -> None:
    with RawClient(server.port) as client:
        key = key_of(client.log_in(version))
        client.send(query("SLEEP 60"))
        _wait(lambda: server.log == ["SLEEP 60"])
        _cancel(server, *key)
        told = client.until_ready()
        assert (kinds(told), error_of(told)["C"]) == ("EZ", "57014")
        assert kinds(client.ask(query("SELECT numbers(1)"))) == "TDCZ"


def test_a_cancel_request_that_comes_too_late_changes_nothing(server: WireServer) -> None:
    with RawClient(server.port) as client:
        key = key_of(client.log_in())
        _cancel(server, *key)
        assert kinds(client.ask(query("SELECT numbers(1)"))) == "TDCZ"
        assert kinds(client.ask(query("SLEEP 0.05"))) == "CZ"
    _cancel(server, *key)


def test_only_the_right_key_cancels(server: WireServer) -> None:
    with RawClient(server.port) as client:
        process_id, key = key_of(client.log_in())
        client.send(query("SLEEP 0.3"))
        _wait(lambda: server.log == ["SLEEP 0.3"])
        wrong = bytes([key[0] ^ 1]) + key[1:]
        for pair in [(process_id, wrong), (process_id + 1, key), (process_id, key + b"\0")]:
            _cancel(server, *pair)
        assert kinds(client.until_ready()) == "CZ"


def test_a_cancelled_statement_fails_its_transaction(server: WireServer) -> None:
    with RawClient(server.port) as client:
        key = key_of(client.log_in())
        client.ask(query("BEGIN"))
        client.send(query("SLEEP 60"))
        _wait(lambda: "SLEEP 60" in server.log)
        _cancel(server, *key)
        assert client.until_ready()[-1] == ("Z", b"E")


def _cancel(server: WireServer, process_id: int, key: bytes) -> None:
    with RawClient(server.port) as other:
        other.send(cancel(process_id, key))
        assert other.read() == ("", b"")


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)
