"""The sections of the settings: every key with its default, its unit in its name, its sentence."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    model_validator,
)

_MIB = 1 << 20


def _entries(value: object) -> object:
    """Split text into its entries at commas and line ends; leave anything else as it is."""
    if isinstance(value, str):
        return [entry.strip() for entry in re.split(r"[,\n]", value) if entry.strip()]
    return value


Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_entries)]


class Section(BaseModel):
    """A group of settings: a table of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSection(Section):
    """The index server: where it listens, where its files lie, what it bears."""

    tcp: bool = Field(default=True, description="Listen on host and port.")
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(default=8410, ge=0, le=65535, description="TCP port; 0 takes any free one.")
    uds: Path | None = Field(
        default=None, description="Path of a Unix socket to listen on as well."
    )
    data_dir: Path = Field(
        default=Path("vecmirror-data"), description="Directory of journals and snapshots."
    )
    max_k: PositiveInt = Field(default=10_000, description="Largest k of a search.")
    max_queries: PositiveInt = Field(
        default=1_000, description="Most query vectors in one request."
    )
    max_results: PositiveInt = Field(
        default=1_000_000, description="Most hits (queries times k) one request may ask for."
    )
    max_body_bytes: PositiveInt = Field(default=32 * _MIB, description="Largest body of a request.")
    max_changes_body_bytes: PositiveInt = Field(
        default=256 * _MIB, description="Largest body of a change batch."
    )
    search_threads: PositiveInt = Field(
        default=min(8, os.cpu_count() or 1), description="Threads that search."
    )
    changes_threads: PositiveInt = Field(default=4, description="Threads that apply changes.")
    math_threads: PositiveInt = Field(
        default=1, description="Threads of one matrix product, in searches and in training."
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$",
        description="What searches: auto (a card if there is one), cuda, cuda:N, or cpu.",
    )
    device_required: bool = Field(
        default=False, description="Refuse to start without the card, instead of taking the CPU."
    )
    device_memory_limit_bytes: PositiveInt | None = Field(
        default=None, description="Most memory taken on the card; if not set, all of it."
    )
    device_raw: Literal["device", "pinned", "none"] = Field(
        default="device",
        description="Where the card finds raw vectors: its own copy, page-locked host memory, "
        "or nowhere (the CPU re-ranks).",
    )
    kernel_cache_dir: Path | None = Field(
        default=None, description="Directory of compiled CUDA kernels; if not set, CuPy's own."
    )
    training_memory_bytes: PositiveInt = Field(
        default=2048 * _MIB, description="Memory that training may take beside the index it makes."
    )
    max_queued_searches: PositiveInt = Field(
        default=512,
        description="Searches that may wait for a thread; one more is refused with 429.",
    )
    max_waiting_searches: PositiveInt = Field(
        default=64, description="Searches that may wait for an LSN; one more is refused with 429."
    )
    max_batch_queries: PositiveInt = Field(
        default=64, description="Most queries of concurrent requests merged into one batch."
    )
    search_timeout_ms: PositiveInt = Field(
        default=10_000, description="Time limit of a search that names none, in milliseconds."
    )
    max_search_timeout_ms: PositiveInt = Field(
        default=120_000, description="Longest timeout_ms a search may ask for."
    )
    shutdown_grace_s: PositiveInt = Field(
        default=20, description="Seconds that requests may still run after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines written."
    )
    log_format: Literal["json", "console"] = Field(default="json", description="Form of log lines.")


class SqlSection(Section):
    """The SQL port, for Postgres clients and postgres_fdw. Passwords are API keys."""

    enabled: bool = Field(default=True, description="Listen for Postgres clients.")
    host: str | None = Field(
        default=None,
        min_length=1,
        description="Address to listen on; if not set, server.host (without server.tcp 127.0.0.1).",
    )
    port: int = Field(default=8411, ge=0, le=65535, description="TCP port; 0 takes any free one.")
    tls_cert: Path | None = Field(
        default=None, description="Certificate (PEM, with its chain); offers TLS to clients."
    )
    tls_key: Path | None = Field(default=None, description="Private key of the certificate (PEM).")
    require_tls: bool = Field(default=False, description="Refuse clients that do not use TLS.")
    max_connections: PositiveInt = Field(
        default=1_000, description="Most connections; one more is refused with 53300."
    )
    max_message_bytes: int = Field(
        default=32 * _MIB,
        ge=1 << 16,
        le=1 << 30,
        description="Longest statement, or parameters of one, in bytes.",
    )
    statement_timeout_ms: NonNegativeInt = Field(
        default=120_000, description="Time limit of a statement, in milliseconds; 0: none."
    )
    idle_in_transaction_timeout_s: NonNegativeInt = Field(
        default=600,
        description="Seconds without a statement that end an open transaction; 0: none.",
    )
    idle_timeout_s: NonNegativeInt = Field(
        default=0, description="Seconds without a statement that end a connection; 0: none."
    )
    startup_timeout_s: PositiveInt = Field(
        default=10, description="Seconds that a client may take to log in."
    )
    write_timeout_s: PositiveInt = Field(
        default=60, description="Seconds that a client may leave an answer unread."
    )

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both or none")
        if self.require_tls and self.tls_cert is None:
            raise ValueError("require_tls needs tls_cert and tls_key")
        return self


class SourceSection(Section):
    """The Postgres database that is mirrored."""

    dsn: SecretStr | None = Field(
        default=None,
        description="Connection string of the source; needed for consistency = strong.",
    )
    connect_timeout_s: PositiveInt = Field(
        default=5, description="Seconds to wait for a connection."
    )


class AuthSection(Section):
    """API keys. None at all: the server is open, and only starts on loopback or a Unix socket."""

    read_keys: Secrets = Field(default=(), description="Keys that may search and look.")
    admin_keys: Secrets = Field(default=(), description="Keys that may do everything.")


class SyncSection(Section):
    """The sidecar."""

    server_url: str = Field(
        default="http://127.0.0.1:8410", description="Where the index server is."
    )
    server_uds: Path | None = Field(
        default=None, description="Unix socket of the index server, instead of TCP."
    )
    api_key: SecretStr | None = Field(
        default=None, description="Admin key to send to the index server."
    )
    copy_workers: PositiveInt = Field(
        default=2, description="Connections that copy a table in parallel."
    )


class IndexSection(Section):
    """What a new index gets where its creator says nothing."""

    metric: Literal["l2", "cosine", "ip"] = Field(
        default="cosine", description="Distance: l2 is <->, cosine is <=>, ip is <#>."
    )
    raw_dtype: Literal["auto", "float32", "float16"] = Field(
        default="auto",
        description="Element type of the vectors kept for re-ranking; auto: as in the table.",
    )
    code_bits: Literal[4, 8] = Field(default=4, description="Bits of a product quantizer code.")
    train_from_rows: PositiveInt = Field(
        default=20_000, description="Rows from which an index is trained; below it search is exact."
    )


class ReadySection(Section):
    """When /readyz says no."""

    max_lag_bytes: PositiveInt = Field(
        default=256 * _MIB, description="Largest distance behind the source, in bytes of WAL."
    )
    max_silence_s: PositiveInt = Field(
        default=60, description="Longest time without a word from the sidecar, in seconds."
    )
