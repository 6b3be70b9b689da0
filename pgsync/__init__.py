"""The replication sidecar: Postgres bytes and SQL in, ChangeBatch out. It knows no index."""
