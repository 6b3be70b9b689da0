"""The index server: HTTP port, catalog, filters and durability. The only place where gpu and pgsync meet."""
