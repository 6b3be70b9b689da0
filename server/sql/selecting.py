"""Reads SELECT over one table: what postgres_fdw's deparser and the users of an index write."""

from __future__ import annotations

from server.filters import syntax
from server.filters.syntax import Syntax
from server.filters.tokens import Kind, Token

from .errors import SqlError
from .expressions import SqlParser
from .statements import OrderKey, Output, SearchCall, Select, Star, TableRef

_NAMES = (Kind.NAME, Kind.QUOTED)
_JOINS = ("join", "inner", "left", "right", "full", "cross", "natural")
_AFTER_OUTPUT = ("from", "where", "order", "limit", "offset", "group", "having", "union", "for")
_SET_OPERATIONS = ("union", "intersect", "except")
_ONE_TABLE = "an index answers questions about one table: join in your own database"


def unserved(what: str, position: int, hint: str | None = None) -> SqlError:
    """Return the error for SQL that Postgres has and the port does not."""
    return SqlError("0A000", f"{what} is not served here", position=position + 1, hint=hint)


def read_select(parser: SqlParser) -> Select:
    """Read a SELECT up to its end; raise FilterError or SqlError."""
    parser.expect("select")
    if parser.sees("distinct"):
        raise unserved("DISTINCT", parser.token.position, _ONE_TABLE)
    parser.accept("all")
    outputs = _outputs(parser)
    source, sample = _from(parser) if parser.accept("from") else (None, None)
    where = parser.expression() if parser.accept("where") else None
    _refuse_grouping(parser)
    order = _order(parser) if parser.accept("order") else ()
    limit, offset = _limit_offset(parser)
    if parser.sees("for"):
        raise unserved("locking rows", parser.token.position, "an index is only read")
    _check_qualifiers(parser)
    return Select(outputs, source, where, order, limit, offset, sample)


def _refuse_grouping(parser: SqlParser) -> None:
    if parser.token.text in ("group", "having", "window", *_SET_OPERATIONS):
        word = parser.token.text.upper()
        raise unserved(word, parser.token.position, "do it in your own database, with these rows")


def _outputs(parser: SqlParser) -> tuple[Output, ...]:
    outputs: list[Output] = []
    # SELECT FROM t has rows without columns.
    if parser.token.kind is Kind.END or parser.sees("from"):
        return ()
    while True:
        outputs.append(_output(parser))
        if not parser.accept(","):
            return tuple(outputs)


def _output(parser: SqlParser) -> Output:
    start = parser.token
    if parser.accept("*"):
        return Output(Star(start.position), None)
    if start.kind in _NAMES and parser.peek().text == "." and parser.peek(2).text == "*":
        parser.qualifiers.append(parser.advance())
        parser.advance()
        parser.advance()
        return Output(Star(start.position), None)
    value = parser.expression()
    if parser.accept("as"):
        label = parser.advance()
        if label.kind not in (*_NAMES, Kind.KEYWORD):
            raise parser.error("a name is expected after AS")
        return Output(value, label.text)
    if parser.token.kind in _NAMES and parser.token.text not in _AFTER_OUTPUT:
        return Output(value, parser.advance().text)
    return Output(value, None)


def _from(parser: SqlParser) -> tuple[TableRef | SearchCall, float | None]:
    if parser.sees("("):
        raise unserved("this FROM", parser.token.position, _ONE_TABLE)
    first = _name(parser)
    names = [first.text]
    while parser.accept("."):
        names.append(_name(parser).text)
    source: TableRef | SearchCall = TableRef(tuple(names[-2:]), first.position)
    if parser.accept("("):
        source = _search_call(parser, names, first.position)
    sample = _sample(parser)
    alias = _alias(parser)
    sample = _sample(parser) if sample is None else sample
    if parser.sees(",") or parser.token.text in _JOINS:
        raise unserved("a join", parser.token.position, _ONE_TABLE)
    parser.qualified_by = {alias} if alias else set(names[-2:])
    return source, sample


def _check_qualifiers(parser: SqlParser) -> None:
    """Raise SqlError unless columns were qualified by the table of FROM only."""
    for token in parser.qualifiers:
        if token.text not in parser.qualified_by:
            message = f'missing FROM-clause entry for table "{token.text}"'
            raise SqlError("42P01", message, position=token.position + 1)


def _name(parser: SqlParser) -> Token:
    if parser.token.kind not in _NAMES:
        raise parser.error("a name is expected here")
    return parser.advance()


def _alias(parser: SqlParser) -> str | None:
    if parser.accept("as"):
        alias = _name(parser).text
    elif parser.token.kind in _NAMES and parser.token.text not in (
        *_JOINS,
        "tablesample",
        "window",
        "fetch",
        *_SET_OPERATIONS,
    ):
        alias = parser.advance().text
    else:
        return None
    if parser.sees("("):
        raise unserved("a list of column aliases", parser.token.position, "rename in SELECT: .. AS")
    return alias


def _sample(parser: SqlParser) -> float | None:
    """Read TABLESAMPLE method(percent)."""
    if not parser.accept("tablesample"):
        return None
    if parser.advance().text not in ("bernoulli", "system"):
        raise unserved("this TABLESAMPLE method", parser.token.position)
    parser.expect("(")
    number = parser.advance()
    parser.expect(")")
    if number.kind is not Kind.NUMBER:
        raise unserved("a sample of no fixed size", number.position)
    return float(number.text) / 100


def _search_call(parser: SqlParser, names: list[str], position: int) -> SearchCall:
    if names[-1] != "search" or (len(names) > 1 and names[-2] not in ("vecmirror", "public")):
        message = f"function {'.'.join(names)}(..) does not exist"
        hint = "the one function that returns rows is vecmirror.search(index, query, k, filter)"
        raise SqlError("42883", message, hint=hint, position=position + 1)
    positional: list[Syntax] = []
    named: list[tuple[str, Syntax]] = []
    while not parser.accept(")"):
        if parser.token.kind is Kind.NAME and parser.peek().text == "=>":
            name = parser.advance().text
            parser.advance()
            named.append((name, parser.expression()))
        elif named:
            raise parser.error("arguments without a name come first")
        else:
            positional.append(parser.expression())
        if not parser.accept(",") and not parser.sees(")"):
            raise parser.error()
    return SearchCall(tuple(positional), tuple(named), position)


def _order(parser: SqlParser) -> tuple[OrderKey, ...]:
    parser.expect("by")
    keys: list[OrderKey] = []
    while True:
        value = parser.expression()
        if parser.sees("using"):
            raise unserved("ORDER BY .. USING", parser.token.position)
        descending = parser.accept("desc")
        if not descending:
            parser.accept("asc")
        nulls_first = descending
        if parser.accept("nulls"):
            nulls_first = parser.accept("first")
            if not nulls_first:
                parser.expect("last")
        keys.append(OrderKey(value, descending, nulls_first))
        if not parser.accept(","):
            return tuple(keys)


def _limit_offset(parser: SqlParser) -> tuple[Syntax | None, Syntax | None]:
    limit: Syntax | None = None
    offset: Syntax | None = None
    while True:
        if limit is None and parser.accept("limit"):
            limit = _all_or(parser)
        elif offset is None and parser.accept("offset"):
            offset = parser.expression()
            _ = parser.accept("rows") or parser.accept("row")
        elif limit is None and parser.accept("fetch"):
            limit = _fetch_first(parser)
        else:
            return limit, offset


def _all_or(parser: SqlParser) -> Syntax:
    position = parser.token.position
    return syntax.Keyword(None, position) if parser.accept("all") else parser.expression()


def _fetch_first(parser: SqlParser) -> Syntax:
    position = parser.token.position
    if not (parser.accept("first") or parser.accept("next")):
        raise parser.error("FIRST is expected here")
    count: Syntax = syntax.Number("1", position)
    if not (parser.sees("row") or parser.sees("rows")):
        count = parser.expression()
    if not (parser.accept("row") or parser.accept("rows")):
        raise parser.error("ROWS is expected here")
    parser.expect("only")
    return count
