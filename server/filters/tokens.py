"""Text to tokens, by the lexical rules of Postgres (its documentation, section 4.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from .errors import NOT_IN_REPERTOIRE, PROGRAM_LIMIT_EXCEEDED, SYNTAX_ERROR, FilterError

#: A filter of this length parses in about a second; longer lists belong into a parameter.
MAX_CHARACTERS = 1_000_000

#: Reserved words of Postgres that mean something in a filter, or would mislead as column names.
# fmt: off
KEYWORDS = frozenset({
    "all", "and", "any", "array", "as", "asc", "case", "cast", "collate", "desc",
    "distinct", "else", "end", "false", "for", "from", "group", "having", "ilike", "in",
    "is", "isnull", "like", "limit", "not", "notnull", "null", "offset", "on", "or", "order",
    "select", "similar", "some", "then", "true", "union", "user", "using", "when",
    "where",
})
# fmt: on

#: Operators of Postgres and pgvector; those without a meaning here get a better message.
# fmt: off
OPERATORS = frozenset({
    "=", "<>", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "&&", "@>", "<@", "~~", "~~*",
    "!~~", "!~~*", "~", "~*", "!~", "!~*", "||", "<->", "<=>", "<#>", "^", "|", "&", "#", "@",
    "<<", ">>", "=>",
})
# fmt: on


class Kind(Enum):
    """What a token is."""

    NAME = "name"
    QUOTED = "quoted name"
    KEYWORD = "keyword"
    NUMBER = "number"
    STRING = "string"
    PARAMETER = "parameter"
    OPERATOR = "operator"
    PUNCTUATION = "punctuation"
    END = "end of the filter"


@dataclass(frozen=True, slots=True)
class Token:
    """One token. ``text`` is folded for names and keywords and unescaped for strings."""

    kind: Kind
    text: str
    position: int


_SPACE = re.compile(r"[ \t\n\r\f\v]+|--[^\n\r]*")
_NAME = re.compile(r"[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*")
_NUMBER = re.compile(
    r"0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+"
    r"|(?:\d(?:_?\d)*(?:\.(?:\d(?:_?\d)*)?)?|\.\d(?:_?\d)*)(?:[eE][+-]?\d(?:_?\d)*)?",
    re.ASCII,
)
_STRING = re.compile(r"'((?:[^']|'')*)'")
_ESCAPED = re.compile(r"[eE]'((?:[^'\\]|\\.|'')*)'", re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_PARAMETER = re.compile(r"\$\d+|:[A-Za-z_]\w*", re.ASCII)
_OPERATOR = re.compile(r"[-~!@#^&|`?+*/%<>=]+")
_PUNCTUATION = re.compile(r"::|[(),.\[\];:]")
# Strings that are parted by a line break only are one string.
_CONTINUATION = re.compile(r"[ \t\f\v]*(?:--[^\n\r]*)?[\n\r]\s*'((?:[^']|'')*)'")
_BACKSLASH = re.compile(
    r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))|''", re.DOTALL
)
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ASCII_UPPER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def tokenize(text: str) -> list[Token]:
    """Return the tokens of ``text``, ended by one of kind END; raise FilterError."""
    check_text(text, 0)
    if len(text) > MAX_CHARACTERS:
        raise FilterError(
            f"a filter may have {MAX_CHARACTERS} characters",
            MAX_CHARACTERS,
            PROGRAM_LIMIT_EXCEEDED,
            "pass long lists as one array parameter: id = ANY($1)",
        )
    tokens: list[Token] = []
    position = 0
    while (position := _skip_space(text, position)) < len(text):
        token, position = _token(text, position)
        tokens.append(token)
    tokens.append(Token(Kind.END, "", len(text)))
    return tokens


def check_text(text: str, position: int) -> str:
    """Return ``text`` if a Postgres text value can hold it: no NUL, no lone surrogates."""
    if "\0" in text or (not text.isascii() and _has_surrogates(text)):
        raise FilterError("text holds a character Postgres cannot", position, NOT_IN_REPERTOIRE)
    return text


def syntax_error(text: str, position: int, hint: str | None = None) -> FilterError:
    """Return the error for a token that does not belong where it stands."""
    where = f'at or near "{text}"' if text else "at the end of the filter"
    return FilterError(f"syntax error {where}", position, SYNTAX_ERROR, hint)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _skip_space(text: str, position: int) -> int:
    while True:
        if match := _SPACE.match(text, position):
            position = match.end()
        elif text.startswith("/*", position):
            position = _skip_comment(text, position)
        else:
            return position


def _skip_comment(text: str, start: int) -> int:
    """Return the position after a comment; comments nest."""
    depth = 0
    for match in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return match.end()
    raise FilterError("the comment has no end", start, SYNTAX_ERROR)


def _token(text: str, start: int) -> tuple[Token, int]:  # noqa: PLR0911 - one per kind
    """Return the token at ``start`` and the position after it."""
    character = text[start]
    if character == "'":
        return _string(text, start)
    if character in "eE" and text.startswith("'", start + 1):
        return _escaped_string(text, start)
    if match := _NAME.match(text, start):
        return _word(match[0], start), match.end()
    if character == '"':
        return _quoted(text, start)
    if (match := _NUMBER.match(text, start)) or (match := _PARAMETER.match(text, start)):
        return _number_or_parameter(text, match), match.end()
    if match := _OPERATOR.match(text, start):
        return _operator(match[0], start)
    if match := _PUNCTUATION.match(text, start):
        return Token(Kind.PUNCTUATION, match[0], start), match.end()
    raise syntax_error(character, start)


def _word(text: str, start: int) -> Token:
    # Postgres folds ASCII letters only when the encoding is UTF-8.
    folded = text.translate(_ASCII_UPPER)
    return Token(Kind.KEYWORD if folded in KEYWORDS else Kind.NAME, folded, start)


def _number_or_parameter(text: str, match: re.Match[str]) -> Token:
    kind = Kind.PARAMETER if match[0][0] in "$:" else Kind.NUMBER
    if _NAME.match(text, match.end()) or text.startswith("$", match.end()):
        raise FilterError(f"trailing junk after a {kind.value}", match.start(), SYNTAX_ERROR)
    return Token(kind, match[0], match.start())


def _quoted(text: str, start: int) -> tuple[Token, int]:
    match = _QUOTED.match(text, start)
    if match is None:
        raise FilterError("the quoted name has no end", start, SYNTAX_ERROR)
    if not match[1]:
        raise FilterError("a quoted name must not be empty", start, SYNTAX_ERROR)
    return Token(Kind.QUOTED, match[1].replace('""', '"'), start), match.end()


def _string(text: str, start: int) -> tuple[Token, int]:
    match = _STRING.match(text, start)
    if match is None:
        raise FilterError("the string has no end", start, SYNTAX_ERROR)
    parts = [match[1]]
    while following := _CONTINUATION.match(text, match.end()):
        match = following
        parts.append(match[1])
    return Token(Kind.STRING, "".join(parts).replace("''", "'"), start), match.end()


def _escaped_string(text: str, start: int) -> tuple[Token, int]:
    """Read E'...': escapes by backslash; octal and hexadecimal ones are bytes of UTF-8."""
    match = _ESCAPED.match(text, start)
    if match is None:
        raise FilterError("the string has no end", start, SYNTAX_ERROR)
    body, encoded, at = match[1], bytearray(), 0
    for escape in _BACKSLASH.finditer(body):
        encoded += body[at : escape.start()].encode() + _unescape(escape, start)
        at = escape.end()
    encoded += body[at:].encode()
    try:
        value = encoded.decode()
    except UnicodeDecodeError as error:
        raise FilterError("the string is not UTF-8", start, NOT_IN_REPERTOIRE) from error
    return Token(Kind.STRING, check_text(value, start), start), match.end()


def _unescape(escape: re.Match[str], start: int) -> bytes:
    octal, hexadecimal, short, long, letter = escape.groups()
    if octal or hexadecimal:
        return bytes([int(octal, 8) & 0xFF if octal else int(hexadecimal, 16)])
    if code := short or long:
        if int(code, 16) > 0x10FFFF or 0xD800 <= int(code, 16) < 0xE000:
            raise FilterError("invalid Unicode escape", start, SYNTAX_ERROR)
        return chr(int(code, 16)).encode()
    if letter is not None and letter in "uU":
        raise FilterError("invalid Unicode escape", start, "22025")
    return b"'" if letter is None else _LETTERS.get(letter, letter).encode()


def _operator(run: str, start: int) -> tuple[Token, int]:
    """Cut the longest operator from a run of operator characters, as Postgres' lexer does."""
    for comment in ("--", "/*"):
        if (cut := run.find(comment)) > 0:
            run = run[:cut]
    # A longer operator ends in + or - only if it holds one of these; so "a<-1" is a < -1.
    while len(run) > 1 and run[-1] in "+-" and not set(run[:-1]) & set("~!@#%^&|`?"):
        run = run[:-1]
    if run not in OPERATORS:
        raise FilterError(f"there is no operator {run}", start, "42883")
    return Token(Kind.OPERATOR, "<>" if run == "!=" else run, start), start + len(run)
