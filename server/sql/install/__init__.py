"""What a client database needs to search an index in plain SQL: objects for fdw and dblink.

Pure: an index, an address, options and what the database holds go in; SQL statements come out.
``database.py`` looks and runs.
"""

from __future__ import annotations

from .facts import BaseTable, ClientFacts, Existing, Options, PortAddress
from .plan import install_statements
from .removal import removal_statements
from .statement import Statement

__all__ = [
    "BaseTable",
    "ClientFacts",
    "Existing",
    "Options",
    "PortAddress",
    "Statement",
    "install_statements",
    "removal_statements",
]
