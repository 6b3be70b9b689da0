"""The demonstration: an embedded Postgres, real rows, and a tour over the whole path."""
