"""The wire: Postgres' frontend/backend protocol, passwords and encodings. It knows no SQL.

Source: Postgres documentation, chapter "Frontend/Backend Protocol".
"""
