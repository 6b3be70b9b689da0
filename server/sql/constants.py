"""SELECT without FROM: what drivers and people ask to see whether anyone is there."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from server.filters import check_value, syntax
from server.filters.syntax import Syntax, rewritten

from .answers import Column
from .binding import constant
from .errors import SqlError
from .expressions import OTHER_TYPES
from .login import Login
from .parameters import Values
from .plans import default_name
from .statements import Output, Select, Star
from .tables import SCHEMAS
from .types import TEXT, type_named
from .variables import SERVER_VERSION

#: What version() says, after the pattern by which clients read it.
VERSION = f"PostgreSQL {SERVER_VERSION} (Vecmirror {version('vecmirror')})"

SetConfig = Callable[[str, str, bool], str]


class Facts:
    """What functions without a table know: about the session, its client and its settings."""

    def __init__(
        self, login: Login, get: Callable[[str], str], set_config: SetConfig | None = None
    ) -> None:
        self._login, self._get, self._set_config = login, get, set_config

    def call(self, name: str, arguments: Sequence[object]) -> tuple[str, object] | None:
        """Return type and value of a function; None if there is no such function here."""
        login = self._login
        plain: Mapping[str, tuple[str, object]] = {
            "version": ("text", VERSION),
            "current_schema": ("name", SCHEMAS[0]),
            "current_database": ("name", login.database),
            "current_catalog": ("name", login.database),
            "current_user": ("name", login.user),
            "session_user": ("name", login.user),
            "user": ("name", login.user),
            "current_role": ("name", login.user),
            "pg_backend_pid": ("int4", login.process_id),
            "pg_is_in_recovery": ("bool", False),
            "pg_advisory_unlock_all": ("void", ""),
        }
        if not arguments:
            return plain.get(name)
        if name == "current_setting":
            return "text", self._current_setting(*arguments[:2])
        if name == "set_config" and len(arguments) == 3:
            return "text", self._set(*arguments)
        return None

    def _current_setting(self, name: object, missing_ok: object = None) -> str | None:
        try:
            return self._get(str(name))
        except SqlError:
            if missing_ok in (True, "true", "t"):
                return None
            raise

    def _set(self, name: object, value: object, local: object) -> str:
        if self._set_config is None:
            return ""
        return self._set_config(str(name), str(value), local in (True, "true", "t"))


#: Names that are functions without parentheses.
_BARE = (
    "current_user",
    "session_user",
    "user",
    "current_schema",
    "current_catalog",
    "current_role",
)


def columns_of(select: Select, facts: Facts, unknown: Values) -> tuple[Column, ...]:
    """Return the columns of the answer."""
    return tuple(
        Column(_name(output), _evaluated(output, facts, unknown)[0]) for output in select.outputs
    )


def row_of(select: Select, facts: Facts, values: Values) -> tuple[object, ...]:
    """Return the one row."""
    return tuple(_evaluated(output, facts, values)[1] for output in select.outputs)


def check_shape(select: Select) -> None:
    """Raise SqlError for clauses that make no sense without FROM, or are not served."""
    if select.where is not None or select.order:
        raise SqlError("0A000", "WHERE and ORDER BY without FROM are not served here")


def _name(output: Output) -> str:
    value = output.value
    if output.name:
        return output.name
    return "?column?" if isinstance(value, Star) else default_name(value)


def _evaluated(output: Output, facts: Facts, values: Values) -> tuple[int, object]:
    """Return the OID and value of an output."""
    value = output.value
    if isinstance(value, Star):
        message = "SELECT * with no tables specified is not valid"
        raise SqlError("42601", message, position=value.position + 1)
    found = _called(value, facts, values)
    if found is None and isinstance(value, syntax.Cast) and value.type in OTHER_TYPES:
        found = value.type, constant(value, values, value.type)
    if found is None:
        tree = rewritten(value, lambda part: _as_literal(part, facts, values))
        checked = check_value(tree, dict(values), {})
        shown: object = checked.value
        if checked.type == "uuid" and isinstance(shown, bytes):
            shown = uuid.UUID(bytes=shown)
        found = checked.type, shown
    known = type_named(found[0])
    return (known.oid if known else TEXT), found[1]


def _called(tree: Syntax, facts: Facts, values: Values) -> tuple[str, object] | None:
    """Return type and value of a call of one of the functions here."""
    if isinstance(tree, syntax.Name) and tree.name in _BARE:
        return facts.call(tree.name, ())
    if not isinstance(tree, syntax.Function):
        return None
    arguments = [_argument(argument, facts, values) for argument in tree.arguments]
    return facts.call(tree.name, arguments)


def _argument(tree: Syntax, facts: Facts, values: Values) -> object:
    if isinstance(tree, syntax.Keyword):
        return tree.value
    literal = rewritten(tree, lambda part: _as_literal(part, facts, values))
    return constant(literal, values, "text")


def _as_literal(tree: Syntax, facts: Facts, values: Values) -> Syntax | None:
    """Return a call inside an expression as a literal of its type."""
    found = _called(tree, facts, values)
    if found is None:
        return None
    type_name, value = found
    if value is None or isinstance(value, bool):
        return syntax.Keyword(value, tree.position)
    target = "text" if type_name in ("name", "void") else type_name
    return syntax.Cast(syntax.String(str(value), tree.position), target, tree.position)
