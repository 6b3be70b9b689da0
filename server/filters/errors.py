"""FilterError: everything that can be wrong with a filter, as Postgres would report it."""

from __future__ import annotations

from server.errors import BadRequest

# SQLSTATEs, named as in Postgres' table of error codes (Appendix A of its documentation).
SYNTAX_ERROR = "42601"
UNDEFINED_COLUMN = "42703"
UNDEFINED_FUNCTION = "42883"
UNDEFINED_PARAMETER = "42P02"
INDETERMINATE_DATATYPE = "42P18"
DATATYPE_MISMATCH = "42804"
CANNOT_COERCE = "42846"
AMBIGUOUS_FUNCTION = "42725"
WRONG_OBJECT_TYPE = "42809"
PROTOCOL_VIOLATION = "08P01"
FEATURE_NOT_SUPPORTED = "0A000"
TOO_COMPLEX = "54001"
PROGRAM_LIMIT_EXCEEDED = "54000"
INVALID_TEXT = "22P02"
NOT_IN_REPERTOIRE = "22021"
OUT_OF_RANGE = "22003"
DIVISION_BY_ZERO = "22012"
INVALID_DATETIME = "22007"
DATETIME_OVERFLOW = "22008"
INVALID_ESCAPE_SEQUENCE = "22025"
INVALID_ESCAPE_CHARACTER = "22019"


class FilterError(BadRequest):
    """A filter that cannot be read or evaluated.

    ``position`` is the 0-based character in the filter's text that the message is about,
    ``sqlstate`` Postgres' code for the same mistake, ``hint`` what to write instead, if known.
    """

    def __init__(self, message: str, position: int, sqlstate: str, hint: str | None = None) -> None:
        self.message, self.position, self.sqlstate, self.hint = message, position, sqlstate, hint
        super().__init__(message)


def unsupported(what: str, position: int, hint: str | None = None) -> FilterError:
    """Return the error for valid SQL that filters do not offer."""
    return FilterError(f"{what} cannot be used in a filter", position, FEATURE_NOT_SUPPORTED, hint)
