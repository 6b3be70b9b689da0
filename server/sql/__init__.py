"""The SQL port: the indexes as tables that psql, drivers, dblink and postgres_fdw can query.

Bytes -> messages -> ``SqlSession`` -> ``Answer`` -> messages -> bytes. docs/sql.md is its manual.
"""
