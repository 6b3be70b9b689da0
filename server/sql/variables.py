"""Settings of a session: SET, RESET, SHOW. Most only please drivers; statement_timeout counts.

Values are always shown as the port works: times in UTC and ISO form, text in UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import SqlError

#: What the port calls itself to clients, who decide by it what they may send.
SERVER_VERSION = "18.0"

#: Variables that can be set, and what they are at first.
_DEFAULTS: Mapping[str, str] = {
    "application_name": "",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "client_min_messages": "notice",
    "datestyle": "ISO, MDY",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
    "enable_seqscan": "on",
    "extra_float_digits": "1",
    "geqo": "on",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "intervalstyle": "postgres",
    "jit": "off",
    "lock_timeout": "0",
    "role": "none",
    "row_security": "on",
    "search_path": "vecmirror, public",
    "session_replication_role": "origin",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "transaction_isolation": "repeatable read",
    "transaction_read_only": "on",
    "transaction_timeout": "0",
    "xmloption": "content",
}
#: Variables that tell something and cannot be set.
_FIXED: Mapping[str, str] = {
    "server_version": SERVER_VERSION,
    "server_version_num": "180000",
    "server_encoding": "UTF8",
    "in_hot_standby": "off",
    "integer_datetimes": "on",
    "is_superuser": "off",
    "max_identifier_length": "63",
    "max_index_keys": "32",
    "lc_collate": "C",
    "lc_ctype": "C",
    "block_size": "8192",
}
#: Variables that can be set and that clients are told of (GUC_REPORT in Postgres).
_REPORTED = (
    "application_name",
    "client_encoding",
    "datestyle",
    "default_transaction_read_only",
    "intervalstyle",
    "search_path",
    "standard_conforming_strings",
    "timezone",
)
#: Names as Postgres shows them where they are not in lower case.
SHOWN = {"timezone": "TimeZone", "datestyle": "DateStyle", "intervalstyle": "IntervalStyle"}

#: Names of the time zone that times are in, as Postgres shows them.
_UTC = {
    name.lower(): name
    for name in ("UTC", "GMT", "Etc/UTC", "Etc/GMT", "Zulu", "UCT", "Universal", "Etc/Universal")
}
_ALSO_UTC = ("0", "+00", "+00:00")
_DATE_ORDERS = {"mdy": "MDY", "us": "MDY", "dmy": "DMY", "european": "DMY", "ymd": "YMD"}
_INTERVAL_STYLES = ("postgres", "postgres_verbose", "sql_standard", "iso_8601")
_ON, _OFF = ("on", "true", "yes", "1", "t", "y"), ("off", "false", "no", "0", "f", "n")
_DURATION = re.compile(r"(-?\d+)\s*(us|ms|s|min|h|d)?")
_MS = {None: 1.0, "us": 0.001, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}


class Variables:
    """The settings of one session; ``saved`` and ``restore`` make them follow transactions."""

    def __init__(self, asked: Mapping[str, str] | None = None) -> None:
        """``asked``: what the client's startup message said; only its name is taken from that."""
        name = (asked or {}).get("application_name", "")
        self._defaults = {**_DEFAULTS, "application_name": name}
        self._changed: dict[str, str] = {}
        #: What clients are told, asked for after each statement; None after a change.
        self._reported: dict[str, str] | None = None

    @property
    def statement_timeout_s(self) -> float | None:
        """Seconds that a statement may take; None for no end."""
        text = self._changed.get("statement_timeout")
        return None if text is None else _duration_ms("statement_timeout", text) / 1000 or None

    def saved(self) -> dict[str, str]:
        """Return what ``restore`` goes back to."""
        return dict(self._changed)

    def restore(self, saved: dict[str, str]) -> None:
        """Take back what was set since."""
        self._changed, self._reported = dict(saved), None

    def put_back(self, values: Mapping[str, str | None]) -> None:
        """Give variables the values that ``changed`` told; None: unchanged from the default."""
        for name, value in values.items():
            self._reported = None
            if value is None:
                self._changed.pop(name, None)
            else:
                self._changed[name] = value

    def changed(self, name: str) -> str | None:
        """Return what a variable was set to, None if it has its default."""
        return self._changed.get(name.lower())

    def get(self, name: str) -> str:
        """Return the value of a variable; raise SqlError when there is none of that name."""
        name = name.lower()
        for values in (self._changed, self._defaults, _FIXED):
            if name in values:
                return values[name]
        raise _unknown(name)

    def all(self) -> list[tuple[str, str]]:
        """Return every variable and its value, by name."""
        return sorted({**self._defaults, **_FIXED, **self._changed}.items())

    def reported(self) -> dict[str, str]:
        """Return what clients are told of, by the names that Postgres tells them."""
        if self._reported is None:
            changed, defaults = self._changed, self._defaults
            self._reported = {
                SHOWN.get(name, name): changed.get(name, defaults[name]) for name in _REPORTED
            }
        return self._reported

    def set(self, name: str, value: str | None) -> str | None:
        """Set a variable, None for its default; return a notice if it was not taken as it is."""
        name = name.lower()
        if name in _FIXED:
            raise SqlError("55P02", f'parameter "{name}" cannot be changed')
        if name not in _DEFAULTS and "." not in name:
            raise _unknown(name)
        self._reported = None
        if value is None:
            self._changed.pop(name, None)
            return None
        taken, notice = _checked(name, value)
        if taken is not None:
            self._changed[name] = taken
        return notice

    def reset(self) -> None:
        """Set every variable to its default."""
        self._changed.clear()
        self._reported = None


def _unknown(name: str) -> SqlError:
    return SqlError("42704", f'unrecognized configuration parameter "{name}"')


def _checked(name: str, value: str) -> tuple[str | None, str | None]:
    """Return the value to keep, None to leave it as it is, and a notice."""
    if name == "client_encoding" and value.upper().replace("-", "") not in ("UTF8", "UNICODE"):
        raise SqlError("0A000", "the port speaks UTF8 only", hint="SET client_encoding = 'UTF8'")
    if name == "client_encoding":
        return "UTF8", None
    if name == "timezone":
        return _time_zone(value)
    if name == "datestyle":
        return _date_style(value)
    if name == "intervalstyle" and value.lower() not in _INTERVAL_STYLES:
        raise _invalid(name)
    if _DEFAULTS.get(name) in ("on", "off"):
        return _switch(name, value), None
    if name.endswith("_timeout"):
        _duration_ms(name, value)
    return value, None


def _time_zone(value: str) -> tuple[str | None, str | None]:
    known = _UTC.get(value.lower())
    if known is None and value not in _ALSO_UTC:
        return None, "times are read and shown in UTC, whatever timezone says"
    return known, None


def _date_style(value: str) -> tuple[str | None, str | None]:
    words = [word.strip().lower() for word in value.split(",")]
    orders = [_DATE_ORDERS[word] for word in words if word in _DATE_ORDERS]
    if "iso" not in words and len(orders) < len(words):
        return None, "times are shown in ISO form, whatever datestyle says"
    return f"ISO, {orders[0]}" if orders else None, None


def _switch(name: str, value: str) -> str:
    if value.lower() in _ON:
        return "on"
    if value.lower() not in _OFF:
        raise _invalid(name, f'parameter "{name}" requires a Boolean value')
    if name == "standard_conforming_strings":
        hint = "write E'..' for strings with escapes"
        raise SqlError("0A000", f'parameter "{name}" is always on here', hint=hint)
    return "off"


def _invalid(name: str, message: str = "", hint: str | None = None) -> SqlError:
    return SqlError("22023", message or f'invalid value for parameter "{name}"', hint=hint)


def _duration_ms(name: str, text: str) -> float:
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or int(match[1]) < 0:
        raise _invalid(name, hint="write milliseconds, or a unit: '5s', '2min'")
    return int(match[1]) * _MS[match[2]]
