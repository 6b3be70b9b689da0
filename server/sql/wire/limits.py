"""What one connection may cost."""

from __future__ import annotations

from dataclasses import dataclass

from server.sections import SqlSection


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are seconds, 0 for none."""

    max_message_bytes: int = 32 << 20
    startup_timeout_s: float = 10.0
    statement_timeout_s: float = 120.0
    idle_timeout_s: float = 0.0
    idle_in_transaction_timeout_s: float = 600.0
    write_timeout_s: float = 60.0

    @classmethod
    def from_section(cls, section: SqlSection) -> Limits:
        """Take them from the settings."""
        return cls(
            max_message_bytes=section.max_message_bytes,
            startup_timeout_s=section.startup_timeout_s,
            statement_timeout_s=section.statement_timeout_ms / 1000,
            idle_timeout_s=section.idle_timeout_s,
            idle_in_transaction_timeout_s=section.idle_in_transaction_timeout_s,
            write_timeout_s=section.write_timeout_s,
        )
