"""A SQL port over a session of a few fixed statements, to test the wire by itself.

ScriptedSession knows, one statement at a time:

    SELECT $1::TYPE, 'text'::TYPE, ...     values of any type of the table
    SELECT numbers(N) | words(N, BYTES)    rows, made as they are fetched
    SLEEP SECONDS | FAIL | BREAK | NOTE    wait; raise SqlError; make a mistake; give a notice
    BEGIN | COMMIT | ROLLBACK | SET ... | DEALLOCATE NAME | DEALLOCATE ALL

wire_server    a function that starts a port with settings and returns it; ended with the test
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import pytest
import uvloop
from prometheus_client import CollectorRegistry

from server.settings import Settings
from server.sql.answers import Answer, Column, Prepared, TransactionStatus
from server.sql.errors import SqlError
from server.sql.login import Login, OpenSession
from server.sql.port import SqlPort
from server.sql.types import INT8, TEXT, SqlType, from_text, type_named
from server.sql.variables import Variables

_ITEM = re.compile(
    r"\s*(?:\$(?P<number>\d+)|'(?P<literal>(?:[^']|'')*)'|NULL)(?:::(?P<type>[a-z0-9_\" \[\]]+))?"
    r"\s*(?:,|$)"
)


class GeneratedRows:
    """``count`` rows; the one of index i is ``make(i)``."""

    def __init__(self, count: int, make: Callable[[int], tuple[object, ...]]) -> None:
        self._count, self._make, self.fetched = count, make, 0

    async def fetch(self, limit: int) -> list[tuple[object, ...]]:
        """Make the next rows."""
        end = min(self._count, self.fetched + limit)
        rows = [self._make(i) for i in range(self.fetched, end)]
        self.fetched = end
        return rows


class ScriptedSession:
    """A session of the statements above. ``log`` has the texts run by all sessions of a port."""

    def __init__(self, login: Login, log: list[str]) -> None:
        self.login, self.log, self.closed = login, log, False
        self._status: TransactionStatus = "I"
        self.rows: list[GeneratedRows] = []
        self.named: MutableMapping[str, Prepared] = {}

    @property
    def status(self) -> TransactionStatus:
        """Whether a transaction block is open."""
        return self._status

    @property
    def reported(self) -> Mapping[str, str]:
        """What a session reports that sets nothing."""
        return Variables(self.login.parameters).reported()

    def begin_implicit(self) -> None:
        """Do nothing: no statement does anything that could be undone."""

    def begin_pipelined(self) -> None:
        """Do nothing."""

    def end_implicit(self) -> None:
        """Do nothing."""

    def statements(self, text: str) -> list[str]:
        """Split at semicolons."""
        return [part.strip() for part in text.split(";") if part.strip()]

    async def prepare(self, text: str, oids: Sequence[int]) -> Prepared:
        """Find out parameters and columns."""
        if self._status == "E" and text.upper() not in ("ROLLBACK", "COMMIT"):
            raise SqlError("25P02", "current transaction is aborted")
        word, _, rest = text.strip().partition(" ")
        if word.upper() == "SELECT":
            return self._select(text, rest.strip(), oids)
        known = ("SLEEP", "FAIL", "BREAK", "NOTE", "BEGIN", "COMMIT", "ROLLBACK", "SET")
        if word.upper() not in (*known, "DEALLOCATE"):
            raise SqlError("42601", f'syntax error at or near "{word}"', position=1)
        return Prepared(text, (), None, (word.upper(), rest))

    def _select(self, text: str, rest: str, oids: Sequence[int]) -> Prepared:
        if rest.startswith("numbers("):
            return Prepared(text, (), (Column("n", INT8),), ("NUMBERS", rest[8:-1]))
        if rest.startswith("words("):
            return Prepared(text, (), (Column("word", TEXT),), ("WORDS", rest[6:-1]))
        columns: list[Column] = []
        values: list[tuple[str, Any]] = []
        parameters = dict(enumerate(oids))
        for match in _ITEM.finditer(rest):
            if match.group() == "":
                break
            oid = _type(match["type"]).oid if match["type"] else TEXT
            columns.append(Column("?column?", oid))
            if match["number"]:
                number = int(match["number"]) - 1
                if not parameters.get(number):
                    parameters[number] = oid
                values.append(("parameter", number))
            else:
                literal = match["literal"]
                value = None if literal is None else from_text(oid, literal.replace("''", "'"))
                values.append(("value", value))
        fixed = tuple(parameters[number] for number in range(len(parameters)))
        return Prepared(text, fixed, tuple(columns), ("VALUES", values))

    async def run(self, prepared: Prepared, parameters: Sequence[object]) -> Answer:
        """Run a statement."""
        self.log.append(prepared.text)
        assert isinstance(prepared.plan, tuple)
        word, rest = prepared.plan
        if self._status == "E" and word not in ("ROLLBACK", "COMMIT"):
            raise SqlError("25P02", "current transaction is aborted")
        if prepared.columns is not None:
            return Answer("SELECT", self._rows(word, rest, parameters), counted=True)
        if word == "SLEEP":
            await asyncio.sleep(float(rest))
        elif word == "FAIL":
            raise SqlError("22012", "division by zero", hint="do not", position=6)
        elif word == "BREAK":
            raise RuntimeError("a mistake with secret hunter2")
        elif word in ("BEGIN", "COMMIT", "ROLLBACK"):
            word = "ROLLBACK" if self._status == "E" else word
            self._status = "T" if word == "BEGIN" else "I"
        elif word == "DEALLOCATE":
            return self._deallocate(rest)
        return Answer(word, notices=("look here",) if word == "NOTE" else ())

    def _deallocate(self, rest: str) -> Answer:
        name = rest.rsplit(maxsplit=1)[-1].strip('"')
        if name.upper() == "ALL":
            self.named.clear()
            return Answer("DEALLOCATE ALL")
        if self.named.pop(name, None) is None:
            raise SqlError("26000", f'prepared statement "{name}" does not exist')
        return Answer("DEALLOCATE")

    def _rows(self, word: str, rest: Any, parameters: Sequence[object]) -> GeneratedRows:
        if word == "NUMBERS":
            rows = GeneratedRows(int(rest), lambda i: (i,))
        elif word == "WORDS":
            count, size = (int(part) for part in rest.split(","))
            rows = GeneratedRows(count, lambda i: (chr(97 + i % 26) * size,))
        else:
            values = tuple(parameters[v] if kind == "parameter" else v for kind, v in rest)
            rows = GeneratedRows(1, lambda i: values)
        self.rows.append(rows)
        return rows

    def failed(self) -> None:
        """Fail the open transaction block."""
        if self._status == "T":
            self._status = "E"

    def close(self) -> None:
        """Note it."""
        self.closed = True


def _type(name: str) -> SqlType:
    found = type_named(name.strip())
    if found is None:
        raise SqlError("42704", f'type "{name}" does not exist')
    return found


def sql_settings(**sections: Any) -> Settings:
    """Return settings for a port on 127.0.0.1 of any free number."""
    sections["sql"] = {"port": 0, "host": "127.0.0.1", **sections.get("sql", {})}
    return Settings.model_validate(sections)


class WireServer:
    """A port in a thread with a loop of its own. ``sessions``: all that were opened."""

    def __init__(
        self,
        settings: Settings,
        *,
        fast_loop: bool = True,
        open_session: OpenSession | None = None,
    ) -> None:
        """``open_session``: makes sessions of another kind than ScriptedSession."""
        self.sessions: list[ScriptedSession] = []
        self.log: list[str] = []
        self.registry = CollectorRegistry()
        listener = socket.create_server(("127.0.0.1", 0))
        self.sql = SqlPort(settings, listener, open_session or self._open, self.registry)
        self.port: int = listener.getsockname()[1]
        self.loop = uvloop.new_event_loop() if fast_loop else asyncio.new_event_loop()
        self.unhandled: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.do(self.sql.start())

    def _open(self, login: Login) -> ScriptedSession:
        self.sessions.append(ScriptedSession(login, self.log))
        return self.sessions[-1]

    def do(self, work: Any) -> Any:
        """Run a coroutine in the server's loop; return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def dsn(self, **more: object) -> str:
        """Return a connection string."""
        words = {"host": "127.0.0.1", "port": self.port, "user": "me", "dbname": "vecmirror"}
        words |= {"sslmode": "prefer", "gssencmode": "disable", **more}
        return " ".join(f"{key}={value}" for key, value in words.items())

    def count(self, name: str, **labels: str) -> float:
        """Return a figure."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def stop(self, grace_s: float = 0.2) -> None:
        """End the port, then the loop; nothing may have gone wrong in it unseen."""
        if self.loop.is_closed():
            return
        self.do(self.sql.stop(grace_s))
        self.do(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        assert not self.unhandled, self.unhandled


class StartWire(Protocol):
    """Starts a port; the arguments are sections of the settings."""

    def __call__(self, *, fast_loop: bool = True, **sections: Any) -> WireServer:
        """Return the running port."""
        ...


@pytest.fixture
def wire_server() -> Iterator[StartWire]:
    """Return a function that starts a port; its arguments are sections of the settings."""
    with ExitStack() as stack:

        def start(*, fast_loop: bool = True, **sections: Any) -> WireServer:
            server = WireServer(sql_settings(**sections), fast_loop=fast_loop)
            stack.callback(server.stop)
            return server

        yield start
