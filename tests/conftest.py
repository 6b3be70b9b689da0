"""Fixtures for every test."""

from __future__ import annotations

pytest_plugins = [
    "tests.fix_postgres",
    "tests.fix_receiver",
    "tests.fix_mirroring",
    "tests.fix_mirrors",
    "tests.fix_sql_wire",
    "tests.fix_sql",
]
