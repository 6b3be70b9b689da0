"""Tokens to a syntax tree: operator precedence as in Postgres' grammar (gram.y).

Expressions are read by precedence climbing; a list of ANDs, ORs or IN items makes no recursion,
and what does is bounded, so that hostile text ends in a FilterError and never in a crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from . import syntax
from .errors import FEATURE_NOT_SUPPORTED, TOO_COMPLEX, FilterError, unsupported
from .sqltypes import ALIASES
from .syntax import Syntax
from .tokens import Kind, Token, syntax_error, tokenize

#: Parentheses, NOTs and the like inside each other. Each level costs a handful of Python frames
#: in the parser, the checker and the evaluator, whose interpreter allows 1,000.
MAX_DEPTH = 60

#: Operands of one AND, OR, IN or ARRAY. Longer lists belong into a parameter.
MAX_LIST_ITEMS = 20_000


class Level(IntEnum):
    """Binding strength, loosest first (Postgres' documentation, section 4.1.6)."""

    LOOSEST = 0
    OR = 1
    AND = 2
    NOT = 3
    IS = 4
    COMPARISON = 5
    RANGE = 6  # BETWEEN, IN, LIKE
    OTHER = 7
    SUM = 8
    PRODUCT = 9
    SIGN = 10


_LEVELS = {
    **dict.fromkeys(("=", "<>", "<", ">", "<=", ">="), Level.COMPARISON),
    **dict.fromkeys(("+", "-"), Level.SUM),
    **dict.fromkeys(("*", "/", "%"), Level.PRODUCT),
}

#: Levels on which ``a op b op c`` is a mistake.
_NOT_ASSOCIATIVE = frozenset({Level.IS, Level.COMPARISON, Level.RANGE})

_LIKE = {("like", False): "~~", ("like", True): "!~~"}
_LIKE |= {("ilike", False): "~~*", ("ilike", True): "!~~*"}

#: Two-word type names by their first word.
_LONG_TYPES = {"double": "precision", "character": "varying"}


@dataclass(slots=True)
class _Infix:
    """What follows an operand: its level, and whether NOT stood before it."""

    level: Level
    word: str
    negated: bool = False


def parse_syntax(text: str) -> Syntax:
    """Return the syntax tree of a filter; raise FilterError."""
    parser = Parser(tokenize(text))
    tree = parser.expression()
    parser.expect_end()
    return tree


def no_sub_query(position: int) -> FilterError:
    """Return the error for a sub-query."""
    return unsupported("a sub-query", position, "pass its rows as a parameter")


class Parser:
    """Reads one expression from tokens.

    Larger languages build on it by what ``sub_query``, ``column``, ``qualified_operator``,
    ``type_name`` and ``call`` make of what they find.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    # tokens

    @property
    def token(self) -> Token:
        """The token to be read next."""
        return self._tokens[self._at]

    def peek(self, ahead: int = 1) -> Token:
        """Return the token ``ahead`` of the next one."""
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def advance(self) -> Token:
        """Return the next token and read on, unless it is the end."""
        token = self.token
        if token.kind is not Kind.END:
            self._at += 1
        return token

    def sees(self, *words: str) -> bool:
        """Whether the next tokens are these keywords, names or punctuation marks."""
        for ahead, word in enumerate(words):
            token = self.peek(ahead)
            if token.text != word or token.kind in (Kind.STRING, Kind.QUOTED, Kind.END):
                return False
        return True

    def accept(self, *words: str) -> bool:
        """Read these words if they come next; tell whether they did."""
        found = self.sees(*words)
        self._at += len(words) * found
        return found

    def expect(self, word: str) -> None:
        """Read a word; raise FilterError if something else comes."""
        if not self.accept(word):
            raise self.error(f"{word.upper()} is expected here")

    def error(self, hint: str | None = None) -> FilterError:
        """Return the syntax error for the next token."""
        return syntax_error(self.token.text, self.token.position, hint)

    def expect_end(self) -> None:
        """Raise FilterError unless all tokens are read."""
        if self.token.kind is not Kind.END:
            raise self.error()

    # expressions

    def expression(self, loosest: Level = Level.LOOSEST, *, bound: bool = False) -> Syntax:
        """Read an expression of operators that bind at least as tightly as ``loosest``.

        ``bound``: it is the lower bound of a BETWEEN, which may hold none of the operators that
        are written as words.
        """
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FilterError("the filter nests too deeply", self.token.position, TOO_COMPLEX)
        left = self._operand()
        closed: Level | None = None
        while (infix := self._infix(bound)) is not None and infix.level >= loosest:
            if infix.level is closed:
                raise self.error("put parentheses around one of the two")
            left, complete = self._apply(infix, left, bound)
            closed = None if complete or infix.level not in _NOT_ASSOCIATIVE else infix.level
        self._depth -= 1
        return left

    def _infix(self, bound: bool) -> _Infix | None:
        """Return what operator comes next without reading it."""
        token = self.token
        if token.kind is Kind.OPERATOR and token.text != "=>":
            return _Infix(_LEVELS.get(token.text, Level.OTHER), token.text)
        if token.kind not in (Kind.KEYWORD, Kind.NAME):
            return None
        if self.sees("operator", "("):
            return _Infix(Level.OTHER, "operator")
        if token.text == "is" and bound:
            # Inside a lower bound IS takes [NOT] DISTINCT FROM only.
            distinct = self.peek(2 if self.peek().text == "not" else 1).text == "distinct"
            return _Infix(Level.IS, "is") if distinct else None
        return None if bound else self._word_infix(token)

    def _word_infix(self, token: Token) -> _Infix | None:
        if token.text in ("or", "and"):
            return _Infix(Level.OR if token.text == "or" else Level.AND, token.text)
        if token.text in ("is", "isnull", "notnull"):
            return _Infix(Level.IS, token.text)
        negated = token.text == "not"
        word = self.peek().text if negated else token.text
        if word in ("between", "in", "like", "ilike", "similar"):
            return _Infix(Level.RANGE, word, negated)
        return None

    def _apply(self, infix: _Infix, left: Syntax, bound: bool) -> tuple[Syntax, bool]:
        """Read the operator and what belongs to it.

        Return the expression, and whether it ends in something that cannot go on, as in IS NULL.
        """
        if infix.word in ("and", "or"):
            return self._junction(infix, left), True
        if infix.word in ("is", "isnull", "notnull"):
            return self._test(left, bound)
        position = self.token.position
        self._at += infix.negated
        if infix.word == "in":
            return self._membership(left, infix.negated, position), True
        if infix.word == "between":
            return self._range(left, infix.negated, position), False
        if infix.word in ("like", "ilike"):
            return self._like(left, infix, position)
        if infix.word == "similar":
            raise unsupported("SIMILAR TO", position, "use LIKE")
        return self._binary(left, infix, position, bound)

    def _junction(self, infix: _Infix, left: Syntax) -> Syntax:
        position = self.token.position
        operands = [left]
        while self.accept(infix.word):
            operands.append(self.expression(Level(infix.level + 1)))
            self._check_length(operands)
        return syntax.Junction(infix.word == "and", tuple(operands), position)

    def _check_length(self, items: list[Syntax]) -> None:
        if len(items) > MAX_LIST_ITEMS:
            raise FilterError(
                f"a list in a filter may have {MAX_LIST_ITEMS} items",
                self.token.position,
                "54000",
                "pass the list as one array parameter: id = ANY($1)",
            )

    def _test(self, operand: Syntax, bound: bool) -> tuple[Syntax, bool]:
        position = self.token.position
        if self.sees("isnull") or self.sees("notnull"):
            return syntax.NullTest(operand, self.advance().text == "notnull", position), True
        self.expect("is")
        negated = self.accept("not")
        if self.accept("null"):
            return syntax.NullTest(operand, negated, position), True
        if self.accept("distinct"):
            self.expect("from")
            right = self.expression(Level.COMPARISON, bound=bound)
            return syntax.Distinct(operand, right, negated, position), False
        for word, wanted in (("true", True), ("false", False), ("unknown", None)):
            if self.accept(word):
                return syntax.TruthTest(operand, wanted, negated, position), True
        raise self.error("NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM is expected after IS")

    def _membership(self, operand: Syntax, negated: bool, position: int) -> Syntax:
        self.expect("in")
        self.expect("(")
        if self.sees("select"):
            raise no_sub_query(self.token.position)
        items = self.items(")")
        if not items:
            raise self.error("a list must not be empty; write id = ANY('{}')")
        return syntax.Membership(operand, items, negated, position)

    def items(self, closing: str) -> tuple[Syntax, ...]:
        """Read expressions parted by commas up to ``closing``."""
        items: list[Syntax] = []
        if self.accept(closing):
            return ()
        while True:
            items.append(self.expression())
            self._check_length(items)
            if not self.accept(","):
                self.expect(closing)
                return tuple(items)

    def _range(self, operand: Syntax, negated: bool, position: int) -> Syntax:
        self.expect("between")
        symmetric = self.accept("symmetric")
        if not symmetric:
            self.accept("asymmetric")
        low = self.expression(Level.IS, bound=True)
        self.expect("and")
        high = self.expression(Level.OTHER)
        return syntax.Range(operand, low, high, symmetric, negated, position)

    def _like(self, left: Syntax, infix: _Infix, position: int) -> tuple[Syntax, bool]:
        self.expect(infix.word)
        operator = _LIKE[infix.word, infix.negated]
        if quantified := self._quantified(operator, left, position):
            return quantified, True
        pattern = self.expression(Level.OTHER)
        if self.accept("escape"):
            escape = self.expression(Level.OTHER)
            # As Postgres does it; postgres_fdw sends this very call.
            pattern = syntax.Function("like_escape", (pattern, escape), escape.position)
        return syntax.Binary(operator, left, pattern, position), False

    def _binary(
        self, left: Syntax, infix: _Infix, position: int, bound: bool
    ) -> tuple[Syntax, bool]:
        operator = self.advance().text
        if operator == "operator":
            operator = self.qualified_operator()
        if quantified := self._quantified(operator, left, position):
            return quantified, True
        right = self.expression(Level(infix.level + 1), bound=bound)
        return syntax.Binary(operator, left, right, position), False

    def qualified_operator(self) -> str:
        """Read the rest of OPERATOR(schema.=), the form in which postgres_fdw may write one."""
        self.expect("(")
        if self.peek().text == ".":
            if not self.accept("pg_catalog"):
                raise unsupported("an operator of another schema", self.token.position)
            self.expect(".")
        if self.token.kind is not Kind.OPERATOR:
            raise self.error("an operator is expected here")
        operator = self.advance().text
        self.expect(")")
        return operator

    def _quantified(self, operator: str, left: Syntax, position: int) -> Syntax | None:
        if not (self.sees("any") or self.sees("some") or self.sees("all")):
            return None
        every = self.advance().text == "all"
        self.expect("(")
        if self.sees("select"):
            raise no_sub_query(self.token.position)
        array = self.expression()
        self.expect(")")
        return syntax.Quantified(operator, left, array, every, position)

    # operands

    def _operand(self) -> Syntax:
        token = self.token
        if self.accept("not"):
            return syntax.Negation(self.expression(Level.NOT), token.position)
        if token.kind is Kind.OPERATOR and token.text in ("+", "-"):
            return self._signed(self.advance())
        if token.kind is Kind.OPERATOR:
            raise self.error("an operand is missing before this operator")
        return self._suffixes(self._primary(token))

    def _signed(self, sign: Token) -> Syntax:
        operand = self.expression(Level.SIGN)
        # A minus belongs to the number it stands before: -2147483648 is an integer.
        if isinstance(operand, syntax.Number) and sign.text == "-":
            bare = operand.text.removeprefix("-")
            text = bare if operand.text != bare else "-" + bare
            return syntax.Number(text, sign.position)
        return syntax.Unary(sign.text, operand, sign.position)

    def _suffixes(self, operand: Syntax) -> Syntax:
        """Read ``::type`` and COLLATE after an operand."""
        count = 0
        while self.sees("::") or self.sees("collate") or self.sees("["):
            count += 1
            if count > MAX_DEPTH:
                raise FilterError("too many casts", self.token.position, TOO_COMPLEX)
            token = self.advance()
            if token.text == "[":
                raise unsupported("an array subscript", token.position, "use = ANY(array)")
            if token.text == "::":
                operand = syntax.Cast(operand, self.type_name(), token.position)
            else:
                self._collation()
                operand = syntax.Collation(operand, token.position)
        return operand

    def _collation(self) -> None:
        if self.accept("pg_catalog", "."):
            pass
        token = self.advance()
        if token.kind is not Kind.QUOTED or token.text not in ("C", "POSIX"):
            raise unsupported("this collation", token.position, 'text is ordered as COLLATE "C"')

    def _primary(self, token: Token) -> Syntax:  # noqa: PLR0911 - one per kind
        if token.kind is Kind.NUMBER:
            return syntax.Number(self.advance().text.replace("_", ""), token.position)
        if token.kind is Kind.STRING:
            return syntax.String(self.advance().text, token.position)
        if token.kind is Kind.PARAMETER:
            return self._parameter(self.advance())
        if token.kind is Kind.QUOTED:
            return self.column(self.advance())
        if token.kind is Kind.NAME:
            return self._word(token)
        if token.kind is Kind.KEYWORD:
            return self._keyword(token)
        if self.accept("("):
            return self._parenthesised()
        raise self.error()

    def _parenthesised(self) -> Syntax:
        inner = self.sub_query() if self.sees("select") else self.expression()
        if self.sees(","):
            raise unsupported("a row of several values", self.token.position)
        self.expect(")")
        return inner

    def sub_query(self) -> Syntax:
        """Read a scalar sub-query up to its closing parenthesis."""
        raise no_sub_query(self.token.position)

    def _parameter(self, token: Token) -> Syntax:
        if token.text[0] == ":":
            return syntax.Parameter(token.text[1:], token.position)
        # Nine digits are more than any list has; int() of a million would take its time.
        number = int(token.text[1:10])
        return syntax.Parameter(number, token.position)

    def column(self, token: Token) -> Syntax:
        """Return the column that ``token``, already read, begins the name of."""
        if self.sees("."):
            raise unsupported("a qualified name", token.position, "write the column name alone")
        return syntax.Name(token.text, token.position)

    def _keyword(self, token: Token) -> Syntax:
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.accept(word):
                return syntax.Keyword(value, token.position)
        if self.accept("case"):
            return self._case(token.position)
        if self.accept("cast"):
            return self._cast(token.position)
        if self.accept("array"):
            return self._array(token.position)
        hint = f'to name a column, write "{token.text}" in double quotes'
        raise self.error(hint)

    def _case(self, position: int) -> Syntax:
        operand = None if self.sees("when") else self.expression()
        branches: list[tuple[Syntax, Syntax]] = []
        while self.accept("when"):
            condition = self.expression()
            self.expect("then")
            branches.append((condition, self.expression()))
        if not branches:
            raise self.error("WHEN is expected here")
        otherwise = self.expression() if self.accept("else") else None
        self.expect("end")
        return syntax.Case(operand, tuple(branches), otherwise, position)

    def _cast(self, position: int) -> Syntax:
        self.expect("(")
        operand = self.expression()
        self.expect("as")
        target = self.type_name()
        self.expect(")")
        return syntax.Cast(operand, target, position)

    def _array(self, position: int) -> Syntax:
        if self.sees("("):
            raise no_sub_query(position)
        self.expect("[")
        if self.sees("["):
            raise unsupported("an array of several dimensions", position)
        return syntax.Array(self.items("]"), position)

    def _word(self, token: Token) -> Syntax:
        """Read a column, a function call or a typed literal such as date '2026-01-31'."""
        if typed := self._typed_literal(token):
            return typed
        self.advance()
        if token.text == "pg_catalog" and self.accept("."):
            token = self.advance()
        return self.call(token) if self.accept("(") else self.column(token)

    def call(self, name: Token) -> Syntax:
        """Read the arguments of a call, whose opening parenthesis is read."""
        return syntax.Function(name.text, self.items(")"), name.position)

    def _typed_literal(self, token: Token) -> Syntax | None:
        start = self._at
        # Only a string right behind makes a type of a name: date is a fine column name too.
        if token.text in ALIASES or token.text in _LONG_TYPES:
            try:
                target = self.type_name()
            except FilterError:
                target = ""
            if target and self.token.kind is Kind.STRING:
                return syntax.Cast(self._primary(self.token), target, token.position)
        self._at = start
        return None

    def type_name(self) -> str:
        """Read a type name; return its canonical form."""
        token = self.token
        if self.accept("pg_catalog", "."):
            token = self.token
        if token.kind not in (Kind.NAME, Kind.QUOTED):
            raise self.error("a type is expected here")
        name = ALIASES.get(self._type_words())
        if name is None:
            raise FilterError(
                f'type "{token.text}" cannot be used in a filter',
                token.position,
                FEATURE_NOT_SUPPORTED,
                "types are " + ", ".join(sorted(set(ALIASES.values()))) + " and arrays of them",
            )
        if self.sees("("):
            raise unsupported("a type modifier", self.token.position, "write the type alone")
        if self.accept("["):
            self.expect("]")
            name += "[]"
        return name

    def _type_words(self) -> str:
        word = self.advance().text
        if word in _LONG_TYPES and self.accept(_LONG_TYPES[word]):
            return f"{word} {_LONG_TYPES[word]}"
        if word == "timestamp":
            for with_zone in ("with", "without"):
                if self.accept(with_zone, "time", "zone"):
                    return f"timestamp {with_zone} time zone"
        return word
