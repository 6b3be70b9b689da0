"""An embedded Postgres with pgvector: started from a wheel, removed without a trace.

Invariants:

- Postgres never runs as root, no account is created, no folder of someone else is opened.
- The Unix socket is open to the account and root only; TCP, when asked for, needs a password.
- A server without a folder of its own leaves nothing behind after ``close``.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, urlencode

from .binaries import Account, PostgresUnavailable, find_binaries

#: sockaddr_un.sun_path has room for 104 bytes on macOS and 108 on Linux, the closing zero included.
SOCKET_PATH_LIMIT_BYTES = 103

DEFAULT_PORT = 5432  # without TCP it only names the socket file

#: What logical replication needs, and a bound on the WAL that a forgotten slot can keep.
DEFAULT_SETTINGS: Mapping[str, str] = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_slot_wal_keep_size": "4GB",
}

START_TIMEOUT_S = 60
FAST_STOP_TIMEOUT_S = 20
KILL_TIMEOUT_S = 20


class EmbeddedPostgres:
    """One Postgres cluster of major version ``major``.

    ``home`` holds the cluster, its socket and its log; the account Postgres runs as must be able to
    reach it. Without it a temporary folder is made, and removed by ``close``. ``port`` adds
    TCP on 127.0.0.1. ``settings`` may be changed between starts; they win over ALTER SYSTEM.

    Raises PostgresUnavailable when the version is not installed or the server does not start.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        major: int = 18,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.major, self.port = major, port
        self.settings: dict[str, str] = {**DEFAULT_SETTINGS, **(settings or {})}
        self.account = Account.choose()
        self.bin = find_binaries(major, self.account)
        self._temporary = home is None
        self.home = _temporary_folder(self.account) if home is None else home.absolute()
        self.cluster = self.home / "data"
        self.log = self.home / "server.log"
        self._password_file = self.home / "password"

    @property
    def running(self) -> bool:
        """Tell whether the server runs."""
        return self.home.exists() and self._pg_ctl("status").returncode == 0

    @property
    def pid(self) -> int:
        """The postmaster's process id; raise FileNotFoundError when it is not running."""
        return int((self.cluster / "postmaster.pid").read_text().split("\n", 1)[0])

    def dsn(self, dbname: str = "postgres", *, tcp: bool = False) -> str:
        """Return the URI of a database, over the socket or over TCP (then with a password)."""
        name = quote(dbname, safe="")
        if not tcp:
            query = {"host": str(self.home)} | ({"port": str(self.port)} if self.port else {})
            return f"postgresql://postgres@/{name}?{urlencode(query, safe='/')}"
        if self.port is None:
            raise ValueError("this server was made without a TCP port")
        password = self._password_file.read_text().strip()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{name}"

    def start(self) -> EmbeddedPostgres:
        """Create the cluster where there is none, start it, and return once it answers."""
        if not (self.cluster / "PG_VERSION").exists():
            self._create_cluster()
        done = self._pg_ctl(
            "start", "-t", str(START_TIMEOUT_S), "-l", str(self.log), "-o", self._options()
        )
        if done.returncode != 0:
            raise PostgresUnavailable(f"Postgres {self.major} did not start:\n{self.log_tail()}")
        return self

    def stop(self) -> None:
        """Stop in order, or at once when a client holds the orderly shutdown up."""
        if self.running:
            fast = self._pg_ctl("stop", "-m", "fast", "-t", str(FAST_STOP_TIMEOUT_S))
            if fast.returncode != 0:
                self._pg_ctl("stop", "-m", "immediate")

    def restart(self) -> None:
        """Stop and start, with the settings as they are now."""
        self.stop()
        self.start()

    def crash(self) -> None:
        """Kill every process of the server with SIGKILL, as a failing machine would; wait for it.

        The backends die by themselves when the postmaster is gone; ``start`` recovers the cluster.
        """
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while self.running and time.monotonic() < deadline:
            time.sleep(0.02)

    def close(self) -> None:
        """Stop, and remove the folder when it is a temporary one."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def __enter__(self) -> EmbeddedPostgres:
        """Start; a failed start is cleaned up."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _create_cluster(self) -> None:
        """Run initdb; the account, not we, must be able to read the password file."""
        if not self.home.exists():
            self.home.mkdir(mode=0o700, parents=True)
            self.account.own(self.home)
        self._check_home()
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(18))
        self.account.own(self._password_file)
        done = subprocess.run(
            [
                *(self.bin / "initdb", "-D", self.cluster, "-U", "postgres", "-E", "UTF8"),
                *("--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"),
                f"--pwfile={self._password_file}",
            ],
            **self.account.popen_arguments(),
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise PostgresUnavailable(f"initdb failed:\n{done.stderr.strip()}")

    def _check_home(self) -> None:
        """Refuse a folder that cannot work, with the reason."""
        socket = self.home / f".s.PGSQL.{self.port or DEFAULT_PORT}"
        if len(os.fsencode(socket)) > SOCKET_PATH_LIMIT_BYTES:
            raise PostgresUnavailable(f"{self.home} is too long a path for a Unix socket")
        if not self.account.can_reach(self.home):
            raise PostgresUnavailable(
                f"the account Postgres runs as cannot reach {self.home}; choose another folder"
            )

    def _options(self) -> str:
        """Return the server's command line for ``pg_ctl -o``, which hands it to a shell."""
        listen = {"listen_addresses": "127.0.0.1", "port": str(self.port)}
        settings = {
            **(listen if self.port else {"listen_addresses": "", "port": str(DEFAULT_PORT)}),
            "unix_socket_directories": str(self.home),
            "unix_socket_permissions": "0700",
            **self.settings,
        }
        return " ".join("-c " + shlex.quote(f"{name}={value}") for name, value in settings.items())

    def _pg_ctl(self, action: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run pg_ctl and wait for its end; its output would be a pipe the server keeps open."""
        return subprocess.run(
            [self.bin / "pg_ctl", action, "-D", self.cluster, "-w", "-s", *arguments],
            **self.account.popen_arguments(),
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _temporary_folder(account: Account) -> Path:
    """Make a folder of the account's own where it can reach it and a socket path is short enough.

    The usual temporary folder is taken unless it is closed to the account or its path too long.
    """
    for parent in dict.fromkeys([Path(tempfile.gettempdir()), Path("/tmp")]):  # noqa: S108
        folder = Path(tempfile.mkdtemp(prefix="vecmirror-pg-", dir=parent))
        account.own(folder)
        socket = folder / f".s.PGSQL.{DEFAULT_PORT}"
        if len(os.fsencode(socket)) <= SOCKET_PATH_LIMIT_BYTES and account.can_reach(folder):
            return folder
        folder.rmdir()
    raise PostgresUnavailable("no temporary folder that the account Postgres runs as can reach")
