"""The index server: HTTP port, catalog, filters and durability; where gpu and pgsync meet."""
