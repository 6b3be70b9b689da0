"""The index engine: arrays in, arrays out. It knows no HTTP, no Postgres and no keys."""
