"""One connection's session: statements in, answers out; a thin shell around the planner.

Statements are read and planned on the event loop (a look-up, mostly); searches and filters run in
the searchers' threads when their rows are asked for. Waiting for an LSN holds no thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from server.errors import NotReady
from server.mirror import MirrorLike
from server.state import MirrorState

from . import catalog_queries, constants
from .answers import Answer, Prepared, Rows, TransactionStatus
from .binding import Bound, bind, constant
from .catalog_queries import Relation
from .constants import Facts
from .cursors import Cursor, FetchedRows
from .errors import SqlError
from .explaining import UNSERVED_LINE, explain, keep_price, known_price
from .failures import as_sql_error, statement_timeout
from .grammar import check_syntax
from .hits import OneSearch, batches, sampled
from .lazy_rows import CountedRows, FixedRows, LazyRows, Row
from .lifting import Lifted, lift, split
from .login import Login
from .parameters import Values, values_of
from .preparing import Statements, Understood
from .running import Runner
from .statements import (
    Begin,
    CatalogQuery,
    Close,
    Commit,
    Deallocate,
    Declare,
    Discard,
    ExecuteNamed,
    Explain,
    Fetch,
    Nothing,
    PrepareNamed,
    Release,
    Reset,
    Rollback,
    RollbackTo,
    Savepoint,
    Select,
    SetVariable,
    Show,
    Statement,
)
from .tables import table_of
from .transactions import Transactions
from .types import type_named, type_of
from .variables import SHOWN, Variables
from .world import SqlWorld

Result = TypeVar("Result")
_ENDS_BLOCKS = (Commit, Rollback, RollbackTo)


class SqlSessions:
    """Makes the sessions of one server; they share what they have understood of statements."""

    def __init__(self, world: SqlWorld) -> None:
        self._world, self._statements = world, Statements(world.catalog)
        server = world.settings.server
        self._runner = Runner(world.searchers, server.max_queued_searches, server.max_batch_queries)

    def open(self, login: Login) -> Session:
        """Return the session of a connection."""
        return Session(self._world, self._statements, self._runner, login)


class Session:
    """See SqlSession in answers.py."""

    def __init__(
        self, world: SqlWorld, statements: Statements, runner: Runner, login: Login
    ) -> None:
        self._world, self._statements, self._runner = world, statements, runner
        self._variables = Variables(login.parameters)
        self._transactions = Transactions(self._variables)
        self._facts = Facts(login, self._variables.get, self._set_config)
        self._describing = Facts(login, self._variables.get)
        self.named: MutableMapping[str, Prepared] = {}

    @property
    def status(self) -> TransactionStatus:
        """Whether a transaction block is open, and whether it has failed."""
        return self._transactions.status

    @property
    def reported(self) -> Mapping[str, str]:
        """The settings that clients are told of."""
        return self._variables.reported()

    def statements(self, text: str) -> list[str]:
        """Split the text of a simple query at its semicolons; check the syntax of several."""
        parts = split(text)
        end = 0
        for part in parts if len(parts) > 1 else ():
            start = text.index(part, end)
            end = start + len(part)
            check_syntax(part, start)
        return parts

    def begin_implicit(self) -> None:
        """Make several statements one transaction."""
        self._transactions.begin_implicit()

    def begin_pipelined(self) -> None:
        """Make the statements up to a Sync one transaction."""
        self._transactions.begin_pipelined()

    def end_implicit(self) -> None:
        """End that transaction."""
        self._transactions.end_implicit()

    def failed(self) -> None:
        """Note an error found outside the session."""
        self._transactions.fail()

    def close(self) -> None:
        """Let go of cursors and pinned states."""
        self._transactions.end(commit=False)
        self._transactions.cursors.clear()
        self.named.clear()

    async def prepare(self, text: str, oids: Sequence[int]) -> Prepared:
        """Check one statement."""
        lifted = Lifted(text)
        try:
            lifted = lift(text)
            return self._prepare(text, lifted, oids)
        except Exception as error:
            raise self._failure(error, lifted) from error

    def _prepare(self, text: str, lifted: Lifted, oids: Sequence[int]) -> Prepared:
        if self.status == "E":
            self._check_ends_block(lifted)
        understood = self._statements.understand(lifted, oids, self._describing)
        columns = understood.columns
        if isinstance(understood.statement, Fetch) and not understood.statement.silent:
            columns = self._transactions.cursor(understood.statement.cursor).columns
        elif isinstance(understood.statement, ExecuteNamed):
            columns = self._named_statement(understood.statement.name).columns
        return Prepared(text, understood.oids, columns, (understood, lifted))

    def _check_ends_block(self, text: Lifted) -> None:
        """Raise SqlError unless the statement is one of those that a failed block still does."""
        first = text.text.split(None, 1)[0].lower().rstrip(";") if text.text.strip() else ""
        if first not in ("rollback", "abort", "commit", "end"):
            self._transactions.check_not_failed()

    async def run(self, prepared: Prepared, parameters: Sequence[object]) -> Answer:
        """Run a statement."""
        understood, lifted = _plan(prepared)
        if not isinstance(understood.statement, _ENDS_BLOCKS):
            self._transactions.check_not_failed()
        try:
            return await self._run(understood, lifted, prepared, parameters)
        except asyncio.CancelledError:
            self._transactions.fail()
            raise
        except Exception as error:
            raise self._failure(error, lifted) from error

    def _failure(self, error: Exception, text: Lifted) -> SqlError:
        """Fail the open block with what went wrong; return it as SqlError."""
        self._transactions.fail()
        return as_sql_error(error, text)

    async def _run(
        self,
        understood: Understood,
        text: Lifted,
        prepared: Prepared,
        parameters: Sequence[object],
    ) -> Answer:
        statement = understood.statement
        simple = _SIMPLE.get(type(statement))
        if simple is not None:
            return simple(self, statement)
        values = values_of(understood.oids, parameters, text.values)
        match statement:
            case Select() | CatalogQuery():
                return Answer("SELECT", await self._select(understood, values, text), True)
            case Declare():
                return await self._declare(statement, understood, values, text)
            case Fetch():
                return await self._fetch(statement, prepared, text)
            case Explain():
                return await self._explain(understood, values)
            case ExecuteNamed():
                return await self._execute(statement)
        raise AssertionError(statement)

    # queries

    async def _select(self, understood: Understood, values: Values, text: Lifted) -> Rows:
        """Return the rows of a query, to be computed as they are asked for."""
        begin = await self._begin(understood, values, text)
        return begin()

    async def _begin(
        self, understood: Understood, values: Values, text: Lifted
    ) -> Callable[[], Rows]:
        """Return what gives the rows of a query from the first on, each time it is called."""
        statement: Statement = understood.statement
        query = statement.query if isinstance(statement, Declare) else statement
        if isinstance(query, CatalogQuery):
            found = self._catalog_answer(query, values)
            return lambda: FixedRows(list(found))
        assert isinstance(query, Select)
        plan = understood.plan
        if plan is None:
            row = self._constant_row(query, values)
            return lambda: FixedRows(list(row))
        block = self._transactions.current()
        name = plan.table.name
        sampling = name in block.analyzing and plan.condition is None
        bound = bind(plan, values, sampling=sampling)
        state = await self._state(self._world.catalog.get(name), bound)
        runner = self._runner

        def begin() -> Rows:
            if plan.counting:
                rows: Rows = CountedRows(state, bound, runner)
            else:
                whole = sampling and plan.sample is None and not plan.searching
                found = (
                    sampled(state) if whole else OneSearch.of(state, bound) or batches(state, bound)
                )
                rows = LazyRows(state, bound, found, runner)
            return _Guarded(self, rows, text)

        return begin

    def _constant_row(self, query: Select, values: Values) -> list[Row]:
        row = constants.row_of(query, self._facts, values)
        ends = [
            constant(tree, values, "int8") if tree is not None else None
            for tree in (query.limit, query.offset)
        ]
        return [] if ends[0] == 0 or ends[1] else [row]

    async def _state(self, mirror: MirrorLike, bound: Bound) -> MirrorState:
        """Return the state that the transaction reads, waiting for what it must not miss."""
        block, name = self._transactions.current(), mirror.spec.name
        pinned, lsn = block.pinned.get(name), bound.min_lsn
        # Strong is what the state was when it was pinned: two scans of a transaction agree.
        strong = bound.consistency == "strong" and name not in block.strong
        if pinned is None or strong:
            lsn = await self._wait(mirror, bound, pinned)
        if pinned is None:
            pinned = block.pinned[name] = mirror.state
        if lsn > pinned.applied_lsn:
            raise SqlError(
                "40001",
                "this transaction reads an older version of the index than is asked for",
                hint="begin a new transaction; all statements of one see the same version",
            )
        if strong:
            block.strong.add(name)
        return pinned

    async def _wait(self, mirror: MirrorLike, bound: Bound, pinned: MirrorState | None) -> int:
        """Wait until the index has what is asked for; return that position."""
        lsn, timeout_s = bound.min_lsn, self._timeout_s()
        deadline_s = perf_counter() + timeout_s
        if bound.consistency == "strong":
            lsn = max(lsn, await asyncio.wait_for(self._world.source_lsn(), timeout_s))
        if pinned is None and lsn > mirror.state.applied_lsn:
            await self._world.wait_applied(mirror, lsn, max(0.0, deadline_s - perf_counter()))
        return lsn

    def _timeout_s(self) -> float:
        limit_s = self._world.settings.server.search_timeout_ms / 1000
        return self._variables.statement_timeout_s or limit_s

    async def within_time(self, work: Awaitable[Result]) -> Result:
        """Await ``work`` no longer than statement_timeout allows."""
        timeout_s = self._variables.statement_timeout_s
        if timeout_s is None:
            return await work
        try:
            async with asyncio.timeout(timeout_s):
                return await work
        except TimeoutError:
            raise statement_timeout() from None

    def _catalog_answer(self, query: CatalogQuery, values: Values) -> list[Row]:
        relations = [
            Relation(table_of(mirror.spec), _live_rows(mirror))
            for mirror in self._world.catalog.mirrors()
        ]
        parameters = [values[place] for place in range(1, query.parameters + 1)]
        found = catalog_queries.answer(query, [_plain(value) for value in parameters], relations)
        table = catalog_queries.asked_table(query)
        if table is not None:
            self._transactions.current().analyzing.add(table)
        return found.rows

    async def _explain(self, understood: Understood, values: Values) -> Answer:
        plan = understood.plan
        if plan is None:
            return Answer("EXPLAIN", FixedRows([(UNSERVED_LINE,)]))
        mirror = self._world.catalog.get(plan.table.name)
        # A state is pinned by reading it, not by planning to: what is read later may have to be
        # newer than what there was while the other side planned.
        state = self._transactions.current().pinned.get(plan.table.name) or mirror.state
        line = None if values else known_price(plan, state)
        if line is None:
            kind = id(plan), "explain"
            line = await self._runner.run(kind, partial(explain, plan, values, state))
            if not values:
                keep_price(plan, state, line)
        return Answer("EXPLAIN", FixedRows([(line,)]))

    # cursors

    async def _declare(
        self, statement: Declare, understood: Understood, values: Values, text: Lifted
    ) -> Answer:
        if not statement.hold and not self._transactions.open:
            raise SqlError("25P01", "DECLARE CURSOR can only be used in transaction blocks")
        begin = await self._begin(understood, values, text)
        columns, scroll = understood.cursor_columns, statement.scroll
        cursor = Cursor(statement.name, columns, begin, scroll, statement.hold)
        self._transactions.declare(cursor)
        return Answer("DECLARE CURSOR")

    async def _fetch(self, statement: Fetch, prepared: Prepared, text: Lifted) -> Answer:
        cursor = self._transactions.cursor(statement.cursor)
        direction, count = statement.direction, statement.count
        if statement.silent:
            moved = await self.within_time(cursor.move(direction, count))
            return Answer(f"MOVE {moved}")
        if prepared.columns != cursor.columns:
            raise SqlError("0A000", "cached plan must not change result type")
        if direction == "forward" and (count is None or count > 0):
            return Answer("FETCH", _Guarded(self, FetchedRows(cursor, count), text), True)
        rows = await self.within_time(cursor.fetch(direction, count))
        return Answer("FETCH", FixedRows(rows), True)

    def _close(self, statement: Close) -> Answer:
        self._transactions.close_cursor(statement.cursor)
        return Answer("CLOSE CURSOR ALL" if statement.cursor is None else "CLOSE CURSOR")

    # transactions

    def _start(self, statement: Begin) -> Answer:
        if self._transactions.begin():
            return Answer(statement.tag)
        return Answer(statement.tag, notices=("there is already a transaction in progress",))

    def _commit(self, statement: Commit) -> Answer:
        return self._end(commit=True, chain=statement.chain)

    def _rollback(self, statement: Rollback) -> Answer:
        return self._end(commit=False, chain=statement.chain)

    def _end(self, *, commit: bool, chain: bool) -> Answer:
        tag = "COMMIT" if commit else "ROLLBACK"
        if not self._transactions.explicit:
            if chain:
                message = f"{tag} AND CHAIN can only be used in transaction blocks"
                raise SqlError("25P01", message)
            self._transactions.end(commit=commit)
            return Answer(tag, notices=("there is no transaction in progress",))
        committed = self._transactions.end(commit=commit)
        if chain:
            self._transactions.begin()
        return Answer("COMMIT" if committed else "ROLLBACK")

    def _savepoint(self, statement: Savepoint) -> Answer:
        self._transactions.savepoint(statement.name)
        return Answer("SAVEPOINT")

    def _release(self, statement: Release) -> Answer:
        self._transactions.release(statement.name)
        return Answer("RELEASE")

    def _rollback_to(self, statement: RollbackTo) -> Answer:
        self._transactions.rollback_to(statement.name)
        return Answer("ROLLBACK")

    # settings and prepared statements

    def _set(self, statement: SetVariable) -> Answer:
        notice = self._transactions.set_variable(
            statement.name, statement.value, local=statement.local
        )
        return Answer("SET", notices=(notice,) if notice else ())

    def _set_config(self, name: str, value: str, local: bool) -> str:
        self._transactions.set_variable(name, value, local=local)
        return self._variables.get(name)

    def _reset(self, statement: Reset) -> Answer:
        if statement.name is None:
            self._variables.reset()
        else:
            self._transactions.set_variable(statement.name, None, local=False)
        return Answer("RESET")

    def _show(self, statement: Show) -> Answer:
        if statement.name is None:
            rows: list[Row] = [
                (SHOWN.get(name, name), value, "") for name, value in self._variables.all()
            ]
            return Answer("SHOW", FixedRows(rows))
        return Answer("SHOW", FixedRows([(self._variables.get(statement.name),)]))

    def _discard(self, statement: Discard) -> Answer:
        if statement.what == "all":
            if self._transactions.open:
                raise SqlError("25001", "DISCARD ALL cannot run inside a transaction block")
            self._transactions.cursors.clear()
            self.named.clear()
            self._variables.reset()
        what = {"temporary": "temp"}.get(statement.what, statement.what)
        return Answer(f"DISCARD {what.upper()}")

    def _prepare_named(self, statement: PrepareNamed) -> Answer:
        if statement.name in self.named:
            message = f'prepared statement "{statement.name}" already exists'
            raise SqlError("42P05", message)
        oids = []
        for name in statement.types:
            known = type_named(name)
            if known is None:
                raise SqlError("42704", f'type "{name}" does not exist')
            oids.append(known.oid)
        lifted = lift(statement.text)
        self.named[statement.name] = self._prepare(statement.text, lifted, oids)
        return Answer("PREPARE")

    def _named_statement(self, name: str) -> Prepared:
        if name not in self.named:
            raise SqlError("26000", f'prepared statement "{name}" does not exist')
        return self.named[name]

    async def _execute(self, statement: ExecuteNamed) -> Answer:
        prepared = self._named_statement(statement.name)
        if len(statement.arguments) != len(prepared.parameter_oids):
            message = f'wrong number of parameters for prepared statement "{statement.name}"'
            raise SqlError("42601", message)
        if isinstance(_plan(prepared)[0].statement, ExecuteNamed):
            raise SqlError("0A000", "EXECUTE of a prepared EXECUTE is not served here")
        values = []
        for tree, oid in zip(statement.arguments, prepared.parameter_oids, strict=True):
            known = type_of(oid)
            values.append(constant(tree, {}, known.name if known else "text"))
        return await self.run(prepared, values)

    def _deallocate(self, statement: Deallocate) -> Answer:
        if statement.name is None:
            self.named.clear()
            return Answer("DEALLOCATE ALL")
        self._named_statement(statement.name)
        del self.named[statement.name]
        return Answer("DEALLOCATE")

    def _nothing(self, statement: Nothing) -> Answer:
        return Answer(statement.tag)


class _Guarded:
    """Rows whose errors fail the session's transaction, within the session's time."""

    def __init__(self, session: Session, rows: Rows, text: Lifted) -> None:
        self._session, self._rows, self._text = session, rows, text

    async def fetch(self, limit: int) -> list[Row]:
        """Return the next rows."""
        session = self._session
        try:
            return await session.within_time(self._rows.fetch(limit))
        except asyncio.CancelledError:
            session._transactions.fail()
            raise
        except Exception as error:
            raise session._failure(error, self._text) from error


def _plan(prepared: Prepared) -> tuple[Understood, Lifted]:
    """Return what ``_prepare`` put there."""
    plan: Any = prepared.plan
    understood: Understood = plan[0]
    lifted: Lifted = plan[1]
    return understood, lifted


def _live_rows(mirror: MirrorLike) -> int:
    """Return the rows of an index; none of one that cannot be served."""
    try:
        return mirror.state.index.live_rows
    except NotReady:
        return 0


def _plain(value: object) -> object:
    return getattr(value, "value", value)


_SIMPLE: dict[type, Callable[[Session, Any], Answer]] = {
    Begin: Session._start,
    Commit: Session._commit,
    Rollback: Session._rollback,
    Savepoint: Session._savepoint,
    Release: Session._release,
    RollbackTo: Session._rollback_to,
    Close: Session._close,
    SetVariable: Session._set,
    Reset: Session._reset,
    Show: Session._show,
    Discard: Session._discard,
    PrepareNamed: Session._prepare_named,
    Deallocate: Session._deallocate,
    Nothing: Session._nothing,
}
