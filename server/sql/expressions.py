"""Expressions as postgres_fdw and people write them to the SQL port: filters and a little more.

Beyond the filter language: qualified names, operators and types of other schemas (pgvector's lie
where its extension was created), and the stand-ins for parameters in postgres_fdw's EXPLAINs.
"""

from __future__ import annotations

from server.filters import syntax
from server.filters.parser import Parser, no_sub_query
from server.filters.syntax import Syntax
from server.filters.tokens import Kind, Token

#: pgvector's distance operators and the metric that each of them is.
METRICS = {"<->": "l2", "<=>": "cosine", "<#>": "ip"}
OPERATORS = {metric: operator for operator, metric in METRICS.items()}
#: pgvector's functions that say the same.
DISTANCE_FUNCTIONS = {
    "l2_distance": "<->",
    "cosine_distance": "<=>",
    "vector_negative_inner_product": "<#>",
}
#: The number of the parameter that a stand-in is; no parameter of a client has it.
STAND_IN = 0
COUNT = "count(*)"

#: Types that filters do not know; they occur with light columns and in questions to the catalog.
OTHER_TYPES = frozenset({"vector", "halfvec", "pg_lsn", "regclass", "regtype", "name", "oid"})
_NAMES = (Kind.NAME, Kind.QUOTED)


class SqlParser(Parser):
    """Reads the expressions of one statement.

    ``qualifiers`` are the tables that columns were qualified with, and where. ``stand_ins`` counts
    the parameters whose values postgres_fdw does not know while it plans. ``qualified_by`` are the
    names that the table of FROM goes by.
    """

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__(tokens)
        self.qualifiers: list[Token] = []
        self.stand_ins = 0
        self.qualified_by: set[str] = set()

    def sub_query(self) -> Syntax:
        """Read the stand-in ``(SELECT null::integer)``; there are no other sub-queries."""
        position = self.token.position
        if not self.accept("select", "null"):
            raise no_sub_query(position)
        self.stand_ins += 1
        stand_in: Syntax = syntax.Parameter(STAND_IN, position)
        while self.accept("::"):
            stand_in = syntax.Cast(stand_in, self.type_name(), position)
        return stand_in

    def column(self, token: Token) -> Syntax:
        """Return a column; its qualifiers are noted. What looks like one may be a call."""
        qualified = False
        while self.accept("."):
            self.qualifiers.append(token)
            token, qualified = self._label(), True
        if qualified and self.token.kind is Kind.STRING and token.text in OTHER_TYPES:
            self.qualifiers.pop()
            return self._typed(token)
        if not qualified and token.kind is Kind.NAME and token.text in OTHER_TYPES:
            if self.token.kind is Kind.STRING:
                return self._typed(token)
        elif qualified and self.accept("("):
            self.qualifiers.pop()
            return self.call(token)
        return syntax.Name(token.text, token.position)

    def call(self, name: Token) -> Syntax:
        """Read the arguments of a call; ``count(*)`` is one without any."""
        if self.accept("*"):
            self.expect(")")
            return syntax.Function(f"{name.text}(*)", (), name.position)
        arguments = self.items(")")
        operator = DISTANCE_FUNCTIONS.get(name.text)
        if operator and len(arguments) == 2:
            return syntax.Binary(operator, arguments[0], arguments[1], name.position)
        return syntax.Function(name.text, arguments, name.position)

    def qualified_operator(self) -> str:
        """Read the rest of ``OPERATOR(schema.=)``.

        pgvector's distances are known by their symbols in every schema; any other operator that
        is not Postgres' own keeps the schema in its name.
        """
        if self.peek().kind in _NAMES and self.peek().text != "pg_catalog":
            self.expect("(")
            schema = self.advance().text
            self.expect(".")
            operator = self.advance()
            if operator.kind is not Kind.OPERATOR:
                raise self.error("an operator is expected here")
            self.expect(")")
            return operator.text if operator.text in METRICS else f"{schema}.{operator.text}"
        return super().qualified_operator()

    def type_name(self) -> str:
        """Read a type name; types of other schemas are known by their last part."""
        if self.token.kind in _NAMES and self.peek().text == ".":
            self.advance()
            self.advance()
        if self.token.kind not in _NAMES or self.token.text not in OTHER_TYPES:
            return super().type_name()
        name = self.advance().text
        if self.accept("("):
            self.advance()
            self.expect(")")
        return name

    def _typed(self, type_token: Token) -> Syntax:
        literal = self.advance()
        return syntax.Cast(
            syntax.String(literal.text, literal.position), type_token.text, type_token.position
        )

    def _label(self) -> Token:
        token = self.advance()
        if token.kind not in (*_NAMES, Kind.KEYWORD):
            raise self.error("a name is expected here")
        return token
