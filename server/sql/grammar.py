"""Reads one statement of the port's SQL: its first word decides which."""

from __future__ import annotations

import re
from collections.abc import Callable

from server.filters import FilterError
from server.filters.errors import SYNTAX_ERROR
from server.filters.tokens import Kind, tokenize

from . import catalog_queries
from .errors import SqlError
from .expressions import SqlParser
from .selecting import read_select
from .statements import (
    Begin,
    Close,
    Commit,
    Deallocate,
    Declare,
    Direction,
    Discard,
    ExecuteNamed,
    Explain,
    Fetch,
    Nothing,
    PrepareNamed,
    Query,
    Release,
    Reset,
    Rollback,
    RollbackTo,
    Savepoint,
    SetVariable,
    Show,
    Statement,
)

_PREPARE = re.compile(r"\s*prepare\s+(\w+)\s*(?:\(([^)]*)\))?\s*as\b(.*)", re.I | re.DOTALL)
_NAMES = (Kind.NAME, Kind.QUOTED)
_WRITES = frozenset(
    [
        "insert",
        "update",
        "delete",
        "merge",
        "truncate",
        "create",
        "alter",
        "drop",
        "grant",
        "revoke",
        "copy",
        "vacuum",
        "reindex",
        "cluster",
        "comment",
        "refresh",
        "lock",
        "do",
        "call",
        "import",
        "security",
        "notify",
    ]
)


def read_statement(text: str) -> Statement:
    """Return what one statement says; raise FilterError or SqlError with its position."""
    if query := catalog_queries.recognised(text):
        return query
    if match := _PREPARE.match(text):
        types = tuple(part.strip().lower() for part in (match[2] or "").split(",") if part.strip())
        return PrepareNamed(match[1].lower(), types, match[3])
    parser = SqlParser(tokenize(text))
    return _read(parser, text)


def check_syntax(text: str, before: int) -> None:
    """Raise SqlError if ``text``, which ``before`` characters precede, is no statement at all."""
    try:
        read_statement(text)
    except FilterError as error:
        if error.sqlstate == SYNTAX_ERROR:
            position = before + error.position + 1
            raise SqlError(
                SYNTAX_ERROR, error.message, hint=error.hint, position=position
            ) from None
    except SqlError as error:
        if error.sqlstate == SYNTAX_ERROR:
            error.position = None if error.position is None else before + error.position
            raise


def _read(parser: SqlParser, text: str) -> Statement:
    first = parser.token
    if first.text == "select":
        statement: Statement = read_select(parser)
    elif first.kind in (Kind.NAME, Kind.KEYWORD) and first.text in _READERS:
        parser.advance()
        statement = _READERS[first.text](parser, text)
    elif first.text in _WRITES and first.kind is Kind.NAME:
        raise SqlError(
            "25006",
            f"cannot execute {first.text.upper()}: an index is only read",
            hint="change the rows in their own database; the index follows by itself",
            position=first.position + 1,
        )
    elif first.text in ("with", "values", "table"):
        hint = "write one SELECT over one index"
        message = f"{first.text.upper()} is not served here"
        raise SqlError("0A000", message, hint=hint, position=first.position + 1)
    else:
        raise parser.error()
    parser.accept(";")
    parser.expect_end()
    return statement


def _query(parser: SqlParser, text: str) -> Query:
    """Read the query inside another statement."""
    rest = text[parser.token.position :]
    if query := catalog_queries.recognised(rest):
        while parser.token.kind is not Kind.END:
            parser.advance()
        return query
    return read_select(parser)


def _name(parser: SqlParser) -> str:
    token = parser.advance()
    if token.kind not in (*_NAMES, Kind.KEYWORD):
        raise parser.error("a name is expected here")
    return token.text


def _begin(parser: SqlParser, text: str) -> Statement:
    _ = parser.accept("transaction") or parser.accept("work")
    _modes(parser)
    return Begin("BEGIN")


def _start(parser: SqlParser, text: str) -> Statement:
    parser.expect("transaction")
    _modes(parser)
    return Begin("START TRANSACTION")


def _modes(parser: SqlParser) -> None:
    """Read transaction modes; every one is kept, for each sees one state and changes nothing."""
    while parser.token.kind is Kind.NAME or parser.sees("not") or parser.sees("only"):
        if parser.accept("isolation", "level"):
            if not any(
                parser.accept(*words)
                for words in (
                    ("serializable",),
                    ("repeatable", "read"),
                    ("read", "committed"),
                    ("read", "uncommitted"),
                )
            ):
                raise parser.error("an isolation level is expected here")
        elif not any(
            parser.accept(*words)
            for words in (
                ("read", "only"),
                ("read", "write"),
                ("deferrable",),
                ("not", "deferrable"),
            )
        ):
            raise parser.error("a transaction mode is expected here")
        parser.accept(",")


def _chain(parser: SqlParser) -> bool:
    _ = parser.accept("transaction") or parser.accept("work")
    if not parser.accept("and"):
        return False
    if parser.accept("no"):
        parser.expect("chain")
        return False
    parser.expect("chain")
    return True


def _commit(parser: SqlParser, text: str) -> Statement:
    if parser.sees("prepared"):
        raise _no_two_phases(parser)
    return Commit(_chain(parser))


def _rollback(parser: SqlParser, text: str) -> Statement:
    if parser.sees("prepared"):
        raise _no_two_phases(parser)
    _ = parser.accept("transaction") or parser.accept("work")
    if parser.accept("to"):
        parser.accept("savepoint")
        return RollbackTo(_name(parser))
    return Rollback(_chain(parser))


def _no_two_phases(parser: SqlParser) -> SqlError:
    return SqlError("0A000", "two-phase commit is not served here: an index is only read")


def _savepoint(parser: SqlParser, text: str) -> Statement:
    return Savepoint(_name(parser))


def _release(parser: SqlParser, text: str) -> Statement:
    parser.accept("savepoint")
    return Release(_name(parser))


def _declare(parser: SqlParser, text: str) -> Statement:
    name, scroll = _name(parser), None
    while not parser.accept("cursor"):
        if parser.accept("no"):
            parser.expect("scroll")
            scroll = False
        elif parser.accept("scroll"):
            scroll = True
        elif parser.accept("binary"):
            raise SqlError("0A000", "binary cursors are not served here")
        elif not (parser.accept("insensitive") or parser.accept("asensitive")):
            raise parser.error()
    hold = parser.accept("with", "hold")
    if not hold and parser.accept("without"):
        parser.expect("hold")
    parser.expect("for")
    return Declare(name, scroll, hold, _query(parser, text))


def _fetch(parser: SqlParser, text: str) -> Statement:
    return _read_fetch(parser, silent=False)


def _move(parser: SqlParser, text: str) -> Statement:
    return _read_fetch(parser, silent=True)


_SINGLE: dict[str, tuple[Direction, int]] = {
    "next": ("forward", 1),
    "prior": ("backward", 1),
    "first": ("absolute", 1),
    "last": ("absolute", -1),
}


def _read_fetch(parser: SqlParser, *, silent: bool) -> Fetch:
    direction, count = _direction(parser)
    _ = parser.accept("from") or parser.accept("in")
    return Fetch(_name(parser), direction, count, silent)


def _direction(parser: SqlParser) -> tuple[Direction, int | None]:
    word = parser.token.text
    # A cursor may be called next: then nothing, or FROM, stands behind.
    if parser.peek().kind is Kind.END or parser.peek().text == ";":
        return "forward", 1
    if word in _SINGLE:
        parser.advance()
        return _SINGLE[word]
    if word in ("absolute", "relative"):
        parser.advance()
        count = _count(parser)
        return ("absolute" if word == "absolute" else "relative"), count
    direction: Direction = "backward" if word == "backward" else "forward"
    if word in ("backward", "forward"):
        parser.advance()
    if parser.accept("all"):
        return direction, None
    if parser.token.kind is Kind.NUMBER or parser.token.text in ("-", "+"):
        return direction, _count(parser)
    return direction, 1


def _count(parser: SqlParser) -> int:
    sign = -1 if parser.accept("-") else 1
    if sign == 1:
        parser.accept("+")
    token = parser.advance()
    if token.kind is not Kind.NUMBER or not token.text.isdigit() or int(token.text[:12]) >= 2**31:
        raise parser.error("a number of rows is expected here")
    return sign * int(token.text)


def _close(parser: SqlParser, text: str) -> Statement:
    return Close(None if parser.accept("all") else _name(parser))


def _set(parser: SqlParser, text: str) -> Statement:
    local = parser.accept("local")
    if not local and parser.sees("session") and parser.peek().text != "authorization":
        parser.advance()
    if parser.accept("characteristics"):
        parser.expect("as")
        parser.expect("transaction")
        _modes(parser)
        return Nothing("SET")
    if parser.accept("transaction"):
        if parser.sees("snapshot"):
            raise SqlError("0A000", "snapshots of other sessions are not served here")
        _modes(parser)
        return Nothing("SET")
    if parser.accept("time", "zone"):
        return SetVariable("timezone", _values(parser), local)
    if parser.accept("names"):
        return SetVariable("client_encoding", _values(parser), local)
    name = _variable(parser)
    if not (parser.accept("to") or parser.accept("=")):
        raise parser.error("TO is expected here")
    return SetVariable(name, _values(parser), local)


def _variable(parser: SqlParser) -> str:
    if parser.accept("time", "zone"):
        return "timezone"
    if parser.accept("transaction", "isolation", "level"):
        return "transaction_isolation"
    name = _name(parser)
    while parser.accept("."):
        name += "." + _name(parser)
    return name.lower()


def _values(parser: SqlParser) -> str | None:
    """Read values parted by commas; None for DEFAULT."""
    values: list[str] = []
    while True:
        sign = "-" if parser.accept("-") else ""
        token = parser.advance()
        if token.kind in (Kind.END, Kind.PUNCTUATION, Kind.PARAMETER, Kind.OPERATOR):
            raise parser.error("a value is expected here")
        if token.text == "default" and token.kind is Kind.NAME:
            return None
        values.append(sign + token.text)
        if not parser.accept(","):
            return ", ".join(values)


def _reset(parser: SqlParser, text: str) -> Statement:
    return Reset(None if parser.accept("all") else _variable(parser))


def _show(parser: SqlParser, text: str) -> Statement:
    return Show(None if parser.accept("all") else _variable(parser))


def _discard(parser: SqlParser, text: str) -> Statement:
    what = parser.advance().text
    if what not in ("all", "plans", "sequences", "temp", "temporary"):
        raise parser.error("ALL, PLANS, SEQUENCES or TEMP is expected here")
    return Discard(what)


def _execute(parser: SqlParser, text: str) -> Statement:
    name = _name(parser)
    arguments = parser.items(")") if parser.accept("(") else ()
    return ExecuteNamed(name, arguments)


def _deallocate(parser: SqlParser, text: str) -> Statement:
    parser.accept("prepare")
    return Deallocate(None if parser.accept("all") else _name(parser))


def _explain(parser: SqlParser, text: str) -> Statement:
    _explain_options(parser)
    # What cannot be read is no error: its price is what keeps postgres_fdw from sending it.
    try:
        query = _query(parser, text)
        parser.accept(";")
        parser.expect_end()
    except (SqlError, FilterError):
        query = None
        while parser.token.kind is not Kind.END:
            parser.advance()
    return Explain(query)


def _explain_options(parser: SqlParser) -> None:
    if parser.accept("("):
        while not parser.accept(")"):
            if parser.token.kind is Kind.END:
                raise parser.error()
            if parser.accept("format") and not parser.accept("text"):
                raise SqlError("0A000", "EXPLAIN is answered as text only")
            if parser.sees("analyze"):
                raise SqlError("0A000", "EXPLAIN ANALYZE is not served here", hint=_TIME_IT)
            parser.advance()
    if parser.accept("analyze"):
        raise SqlError("0A000", "EXPLAIN ANALYZE is not served here", hint=_TIME_IT)
    parser.accept("verbose")


_TIME_IT = "run the query itself and take its time"


def _unlisten(parser: SqlParser, text: str) -> Statement:
    if not parser.accept("*"):
        _name(parser)
    return Nothing("UNLISTEN")


_READERS: dict[str, Callable[[SqlParser, str], Statement]] = {
    "begin": _begin,
    "start": _start,
    "commit": _commit,
    "end": _commit,
    "rollback": _rollback,
    "abort": _rollback,
    "savepoint": _savepoint,
    "release": _release,
    "declare": _declare,
    "fetch": _fetch,
    "move": _move,
    "close": _close,
    "set": _set,
    "reset": _reset,
    "show": _show,
    "discard": _discard,
    "execute": _execute,
    "deallocate": _deallocate,
    "explain": _explain,
    "unlisten": _unlisten,
}
