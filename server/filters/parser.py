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
    parser = _Parser(tokenize(text))
    tree = parser.expression()
    parser.expect_end()
    return tree


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    # tokens

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _peek(self, ahead: int = 1) -> Token:
        return self._tokens[min(self._at + ahead, len(self._tokens) - 1)]

    def _next(self) -> Token:
        token = self._token
        if token.kind is not Kind.END:
            self._at += 1
        return token

    def _is(self, *words: str) -> bool:
        """Whether the next tokens are these keywords, names or punctuation marks."""
        for ahead, word in enumerate(words):
            token = self._peek(ahead)
            if token.text != word or token.kind in (Kind.STRING, Kind.QUOTED, Kind.END):
                return False
        return True

    def _accept(self, *words: str) -> bool:
        found = self._is(*words)
        self._at += len(words) * found
        return found

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise self._error(f"{word.upper()} is expected here")

    def _error(self, hint: str | None = None) -> FilterError:
        return syntax_error(self._token.text, self._token.position, hint)

    def expect_end(self) -> None:
        """Raise FilterError unless all tokens are read."""
        if self._token.kind is not Kind.END:
            raise self._error()

    # expressions

    def expression(self, loosest: Level = Level.LOOSEST, *, bound: bool = False) -> Syntax:
        """Read an expression of operators that bind at least as tightly as ``loosest``.

        ``bound``: it is the lower bound of a BETWEEN, which may hold none of the operators that
        are written as words.
        """
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FilterError("the filter nests too deeply", self._token.position, TOO_COMPLEX)
        left = self._operand()
        closed: Level | None = None
        while (infix := self._infix(bound)) is not None and infix.level >= loosest:
            if infix.level is closed:
                raise self._error("put parentheses around one of the two")
            left, complete = self._apply(infix, left, bound)
            closed = None if complete or infix.level not in _NOT_ASSOCIATIVE else infix.level
        self._depth -= 1
        return left

    def _infix(self, bound: bool) -> _Infix | None:
        """Return what operator comes next without reading it."""
        token = self._token
        if token.kind is Kind.OPERATOR:
            return _Infix(_LEVELS.get(token.text, Level.OTHER), token.text)
        if token.kind not in (Kind.KEYWORD, Kind.NAME):
            return None
        if self._is("operator", "("):
            return _Infix(Level.OTHER, "operator")
        if token.text == "is" and bound:
            # Inside a lower bound IS takes [NOT] DISTINCT FROM only.
            distinct = self._peek(2 if self._peek().text == "not" else 1).text == "distinct"
            return _Infix(Level.IS, "is") if distinct else None
        return None if bound else self._word_infix(token)

    def _word_infix(self, token: Token) -> _Infix | None:
        if token.text in ("or", "and"):
            return _Infix(Level.OR if token.text == "or" else Level.AND, token.text)
        if token.text in ("is", "isnull", "notnull"):
            return _Infix(Level.IS, token.text)
        negated = token.text == "not"
        word = self._peek().text if negated else token.text
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
        position = self._token.position
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
        position = self._token.position
        operands = [left]
        while self._accept(infix.word):
            operands.append(self.expression(Level(infix.level + 1)))
            self._check_length(operands)
        return syntax.Junction(infix.word == "and", tuple(operands), position)

    def _check_length(self, items: list[Syntax]) -> None:
        if len(items) > MAX_LIST_ITEMS:
            raise FilterError(
                f"a list in a filter may have {MAX_LIST_ITEMS} items",
                self._token.position,
                "54000",
                "pass the list as one array parameter: id = ANY($1)",
            )

    def _test(self, operand: Syntax, bound: bool) -> tuple[Syntax, bool]:
        position = self._token.position
        if self._is("isnull") or self._is("notnull"):
            return syntax.NullTest(operand, self._next().text == "notnull", position), True
        self._expect("is")
        negated = self._accept("not")
        if self._accept("null"):
            return syntax.NullTest(operand, negated, position), True
        if self._accept("distinct"):
            self._expect("from")
            right = self.expression(Level.COMPARISON, bound=bound)
            return syntax.Distinct(operand, right, negated, position), False
        for word, wanted in (("true", True), ("false", False), ("unknown", None)):
            if self._accept(word):
                return syntax.TruthTest(operand, wanted, negated, position), True
        raise self._error("NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM is expected after IS")

    def _membership(self, operand: Syntax, negated: bool, position: int) -> Syntax:
        self._expect("in")
        self._expect("(")
        if self._is("select"):
            raise unsupported("a sub-query", self._token.position, "pass its rows as a parameter")
        items = self._list(")")
        if not items:
            raise self._error("a list must not be empty; write id = ANY('{}')")
        return syntax.Membership(operand, items, negated, position)

    def _list(self, closing: str) -> tuple[Syntax, ...]:
        """Read expressions parted by commas up to ``closing``."""
        items: list[Syntax] = []
        if self._accept(closing):
            return ()
        while True:
            items.append(self.expression())
            self._check_length(items)
            if not self._accept(","):
                self._expect(closing)
                return tuple(items)

    def _range(self, operand: Syntax, negated: bool, position: int) -> Syntax:
        self._expect("between")
        symmetric = self._accept("symmetric")
        if not symmetric:
            self._accept("asymmetric")
        low = self.expression(Level.IS, bound=True)
        self._expect("and")
        high = self.expression(Level.OTHER)
        return syntax.Range(operand, low, high, symmetric, negated, position)

    def _like(self, left: Syntax, infix: _Infix, position: int) -> tuple[Syntax, bool]:
        self._expect(infix.word)
        operator = _LIKE[infix.word, infix.negated]
        if quantified := self._quantified(operator, left, position):
            return quantified, True
        pattern = self.expression(Level.OTHER)
        if self._accept("escape"):
            escape = self.expression(Level.OTHER)
            # As Postgres does it; postgres_fdw sends this very call.
            pattern = syntax.Function("like_escape", (pattern, escape), escape.position)
        return syntax.Binary(operator, left, pattern, position), False

    def _binary(
        self, left: Syntax, infix: _Infix, position: int, bound: bool
    ) -> tuple[Syntax, bool]:
        operator = self._next().text
        if operator == "operator":
            operator = self._qualified_operator()
        if quantified := self._quantified(operator, left, position):
            return quantified, True
        right = self.expression(Level(infix.level + 1), bound=bound)
        return syntax.Binary(operator, left, right, position), False

    def _qualified_operator(self) -> str:
        """Read the rest of OPERATOR(schema.=), the form in which postgres_fdw may write one."""
        self._expect("(")
        if self._peek().text == ".":
            if not self._accept("pg_catalog"):
                raise unsupported("an operator of another schema", self._token.position)
            self._expect(".")
        if self._token.kind is not Kind.OPERATOR:
            raise self._error("an operator is expected here")
        operator = self._next().text
        self._expect(")")
        return operator

    def _quantified(self, operator: str, left: Syntax, position: int) -> Syntax | None:
        if not (self._is("any") or self._is("some") or self._is("all")):
            return None
        every = self._next().text == "all"
        self._expect("(")
        if self._is("select"):
            raise unsupported("a sub-query", self._token.position, "pass its rows as a parameter")
        array = self.expression()
        self._expect(")")
        return syntax.Quantified(operator, left, array, every, position)

    # operands

    def _operand(self) -> Syntax:
        token = self._token
        if self._accept("not"):
            return syntax.Negation(self.expression(Level.NOT), token.position)
        if token.kind is Kind.OPERATOR and token.text in ("+", "-"):
            return self._signed(self._next())
        if token.kind is Kind.OPERATOR:
            raise self._error("an operand is missing before this operator")
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
        while self._is("::") or self._is("collate") or self._is("["):
            count += 1
            if count > MAX_DEPTH:
                raise FilterError("too many casts", self._token.position, TOO_COMPLEX)
            token = self._next()
            if token.text == "[":
                raise unsupported("an array subscript", token.position, "use = ANY(array)")
            if token.text == "::":
                operand = syntax.Cast(operand, self._type(), token.position)
            else:
                self._collation()
                operand = syntax.Collation(operand, token.position)
        return operand

    def _collation(self) -> None:
        if self._accept("pg_catalog", "."):
            pass
        token = self._next()
        if token.kind is not Kind.QUOTED or token.text not in ("C", "POSIX"):
            raise unsupported("this collation", token.position, 'text is ordered as COLLATE "C"')

    def _primary(self, token: Token) -> Syntax:  # noqa: PLR0911 - one per kind
        if token.kind is Kind.NUMBER:
            return syntax.Number(self._next().text.replace("_", ""), token.position)
        if token.kind is Kind.STRING:
            return syntax.String(self._next().text, token.position)
        if token.kind is Kind.PARAMETER:
            return self._parameter(self._next())
        if token.kind is Kind.QUOTED:
            return self._name(self._next())
        if token.kind is Kind.NAME:
            return self._word(token)
        if token.kind is Kind.KEYWORD:
            return self._keyword(token)
        if self._accept("("):
            return self._parenthesised()
        raise self._error()

    def _parenthesised(self) -> Syntax:
        if self._is("select"):
            raise unsupported("a sub-query", self._token.position, "pass its rows as a parameter")
        inner = self.expression()
        if self._is(","):
            raise unsupported("a row of several values", self._token.position)
        self._expect(")")
        return inner

    def _parameter(self, token: Token) -> Syntax:
        if token.text[0] == ":":
            return syntax.Parameter(token.text[1:], token.position)
        # Nine digits are more than any list has; int() of a million would take its time.
        number = int(token.text[1:10])
        return syntax.Parameter(number, token.position)

    def _name(self, token: Token) -> Syntax:
        if self._is("."):
            raise unsupported("a qualified name", token.position, "write the column name alone")
        return syntax.Name(token.text, token.position)

    def _keyword(self, token: Token) -> Syntax:
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self._accept(word):
                return syntax.Keyword(value, token.position)
        if self._accept("case"):
            return self._case(token.position)
        if self._accept("cast"):
            return self._cast(token.position)
        if self._accept("array"):
            return self._array(token.position)
        hint = f'to name a column, write "{token.text}" in double quotes'
        raise self._error(hint)

    def _case(self, position: int) -> Syntax:
        operand = None if self._is("when") else self.expression()
        branches: list[tuple[Syntax, Syntax]] = []
        while self._accept("when"):
            condition = self.expression()
            self._expect("then")
            branches.append((condition, self.expression()))
        if not branches:
            raise self._error("WHEN is expected here")
        otherwise = self.expression() if self._accept("else") else None
        self._expect("end")
        return syntax.Case(operand, tuple(branches), otherwise, position)

    def _cast(self, position: int) -> Syntax:
        self._expect("(")
        operand = self.expression()
        self._expect("as")
        target = self._type()
        self._expect(")")
        return syntax.Cast(operand, target, position)

    def _array(self, position: int) -> Syntax:
        if self._is("("):
            raise unsupported("a sub-query", position, "pass its rows as a parameter")
        self._expect("[")
        if self._is("["):
            raise unsupported("an array of several dimensions", position)
        return syntax.Array(self._list("]"), position)

    def _word(self, token: Token) -> Syntax:
        """Read a column, a function call or a typed literal such as date '2026-01-31'."""
        if typed := self._typed_literal(token):
            return typed
        self._next()
        if token.text == "pg_catalog" and self._accept("."):
            token = self._next()
        if not self._accept("("):
            return self._name(token)
        return syntax.Function(token.text, self._list(")"), token.position)

    def _typed_literal(self, token: Token) -> Syntax | None:
        start = self._at
        # Only a string right behind makes a type of a name: date is a fine column name too.
        if token.text in ALIASES or token.text in _LONG_TYPES:
            try:
                target = self._type()
            except FilterError:
                target = ""
            if target and self._token.kind is Kind.STRING:
                return syntax.Cast(self._primary(self._token), target, token.position)
        self._at = start
        return None

    def _type(self) -> str:
        """Read a type name; return its canonical form."""
        token = self._token
        if self._accept("pg_catalog", "."):
            token = self._token
        if token.kind not in (Kind.NAME, Kind.QUOTED):
            raise self._error("a type is expected here")
        name = ALIASES.get(self._type_words())
        if name is None:
            raise FilterError(
                f'type "{token.text}" cannot be used in a filter',
                token.position,
                FEATURE_NOT_SUPPORTED,
                "types are " + ", ".join(sorted(set(ALIASES.values()))) + " and arrays of them",
            )
        if self._is("("):
            raise unsupported("a type modifier", self._token.position, "write the type alone")
        if self._accept("["):
            self._expect("]")
            name += "[]"
        return name

    def _type_words(self) -> str:
        word = self._next().text
        if word in _LONG_TYPES and self._accept(_LONG_TYPES[word]):
            return f"{word} {_LONG_TYPES[word]}"
        if word == "timestamp":
            for with_zone in ("with", "without"):
                if self._accept(with_zone, "time", "zone"):
                    return f"timestamp {with_zone} time zone"
        return word
