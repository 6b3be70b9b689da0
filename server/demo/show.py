"""The whole demonstration: Postgres, server and sidecar started, the tour, and everything removed.

Invariants:

- Whatever happens, the processes started here are stopped and the folders made here are removed.
- Nothing of the user's is read or written: no configuration, no database, no port in use.
"""

from __future__ import annotations

import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import psycopg
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from server.client import Client

from .entries import further_entries, table_entries
from .postgres import EmbeddedPostgres
from .processes import ChildProcess, demo_environment, run_vecmirror, wait_until
from .table import create_and_load
from .tour import INDEX, Figures, Tour

PREFERRED_PORT = 8410
PREFERRED_SQL_PORT = 8411

#: All rows but the last copied batch may be enough; the index must train on these 10,000 rows.
TRAIN_FROM_ROWS = 5_000

COPY_TIMEOUT_S = 120.0
TRAINING_TIMEOUT_S = 300.0
#: The first start on a machine compiles all kernels: a minute on one core, more beside training.
COMPILE_TIMEOUT_S = 600.0

#: Signals that end the demonstration, and the seconds after which one that was lost comes again.
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs: the source, the index server's client, both processes."""

    postgres: EmbeddedPostgres
    client: Client
    children: list[ChildProcess]
    url: str


def run_demo(out: Console, *, once: bool) -> Figures:
    """Run the demonstration; with ``once`` return after the tour, else serve until Ctrl-C.

    Raises DemoFailed or PostgresUnavailable when a step fails.
    """
    with _terminated_as_exit(), ExitStack() as stack:
        try:
            stage = _set_up(stack, out)
            with psycopg.connect(stage.postgres.dsn("demo"), autocommit=True) as connection:
                entries = table_entries(), further_entries()
                figures = Tour(out, stage.client, connection, *entries).run()
            if not once:
                _serve_until_interrupted(out, stage)
            return figures
        finally:
            _ignore_interrupts()  # a second Ctrl-C must not leave processes behind


def _set_up(stack: ExitStack, out: Console) -> Stage:
    """Start everything and wait until the index is copied and trained."""
    out.print("[bold]Vecmirror[/]  a live, searchable mirror of a Postgres vector column\n")
    folder = Path(tempfile.mkdtemp(prefix="vecmirror-demo-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    with _step(out, "start Postgres 18 with pgvector (embedded)"):
        postgres = stack.enter_context(EmbeddedPostgres())
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE demo")
    environment, url = _configure(folder, postgres)
    quiet = {**environment, "VECMIRROR_SERVER__LOG_LEVEL": "warning"}  # we ask it very often
    server = stack.enter_context(ChildProcess("server", ["serve"], quiet, folder))
    client = stack.enter_context(Client(url))
    _load(out, postgres)
    with _step(out, f"start the index server (process {server.pid})"):
        wait_until(client.alive, "the server", [server])
    with _step(out, "vecmirror attach public.words.embedding --filter-columns word,letters"):
        run_vecmirror(_attach_arguments(), environment, folder)
    sidecar = stack.enter_context(ChildProcess("sidecar", ["sync"], environment, folder))
    stage = Stage(postgres, client, [server, sidecar], url)
    _follow_copy(out, stage)
    _follow_training(out, stage)
    with _step(out, "compile the search kernels for this processor (the first time only)"):
        wait_until(client.ready, "the search kernels", stage.children, COMPILE_TIMEOUT_S)
    with _step(out, f"vecmirror sql-install {INDEX} --run"):
        run_vecmirror(["sql-install", INDEX, "--run"], environment, folder)
    return stage


def _configure(folder: Path, postgres: EmbeddedPostgres) -> tuple[dict[str, str], str]:
    """Return the environment of our processes and the server's address."""
    config = folder / "vecmirror.toml"
    config.touch()  # empty: otherwise a file of the user's would be found
    port = _free_port(PREFERRED_PORT)
    url = f"http://127.0.0.1:{port}"
    return demo_environment(
        {
            "VECMIRROR_CONFIG": str(config),
            "VECMIRROR_SERVER__PORT": str(port),
            "VECMIRROR_SERVER__DATA_DIR": str(folder / "index"),
            "VECMIRROR_SERVER__LOG_FORMAT": "console",
            "VECMIRROR_SQL__PORT": str(_free_port(PREFERRED_SQL_PORT, port)),
            "VECMIRROR_SOURCE__DSN": postgres.dsn("demo"),
            "VECMIRROR_SYNC__SERVER_URL": url,
            "VECMIRROR_INDEX__TRAIN_FROM_ROWS": str(TRAIN_FROM_ROWS),
        }
    ), url


def _attach_arguments() -> list[str]:
    columns = ["--filter-columns", "word,letters", "--metric", "cosine", "--name", INDEX]
    return ["attach", "public.words.embedding", *columns]


def _load(out: Console, postgres: EmbeddedPostgres) -> None:
    entries = table_entries()
    with (
        psycopg.connect(postgres.dsn("demo"), autocommit=True) as connection,
        _bar(out, "load 10,000 dictionary entries", len(entries)) as update,
    ):
        create_and_load(connection, entries, update)
        update(len(entries))


def _follow_copy(out: Console, stage: Stage) -> None:
    rows = len(table_entries())

    def copied() -> bool:
        index = stage.client.describe(INDEX)
        update(int((index["copy"] or {}).get("rows", 0)))
        return index["phase"] == "live" and int(index["rows"]) >= rows

    with _bar(out, "copy the table into the mirror", rows) as update:
        wait_until(copied, "the copy", stage.children, COPY_TIMEOUT_S)
        update(rows)


def _follow_training(out: Console, stage: Stage) -> None:
    """Wait until every row is in a list of the trained index."""
    rows = len(table_entries())

    def trained() -> bool:
        index = stage.client.describe(INDEX)
        training, tail_rows = index["training"] or {}, int(index["tail_rows"])
        if index["trained"]:
            update(int(index["rows"]) - tail_rows)
        else:
            update(0, f"train the IVF-PQ index: {training.get('step', 'sample')}")
        return bool(index["trained"]) and tail_rows == 0

    with _bar(out, "train the IVF-PQ index", rows) as update:
        wait_until(trained, "training", stage.children, TRAINING_TIMEOUT_S)
        update(rows, "train the IVF-PQ index, encode rows")


def _serve_until_interrupted(out: Console, stage: Stage) -> None:
    """Print where everything is, and wait for Ctrl-C or SIGTERM."""
    dsn = stage.postgres.dsn("demo")
    body = '{"like": 8361, "k": 5, "columns": ["word"], "filter": "letters < 10"}'
    header = "-H 'content-type: application/json'"
    out.print("\n[bold]Still serving[/]  try it, then stop with Ctrl-C")
    joined = "SELECT id, word, distance FROM vecmirror.words WHERE query = "
    joined += "(SELECT embedding FROM words WHERE id = 8361) ORDER BY distance LIMIT 5"
    for name, value in (
        ("API", f"{stage.url}/docs"),
        ("metrics", f"{stage.url}/metrics"),
        ("search", f"curl -s {stage.url}/v1/indexes/{INDEX}/search {header} -d '{body}'"),
        ("Postgres", f"{stage.postgres.bin / 'psql'} '{dsn}'"),
        ("SQL", joined),
    ):
        out.print(f"  {name:<10}", end="")
        out.print(value, soft_wrap=True, markup=False, style="cyan")
    stopped = threading.Event()
    try:
        while not stopped.wait(1.0):
            for child in stage.children:
                child.check()
    except KeyboardInterrupt:
        out.print("\nstopping")


def _free_port(preferred: int, taken: int | None = None) -> int:
    """Return the usual port, or any free one but ``taken`` when it is in use."""
    for port in (preferred, 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            if found != taken:
                return found
    raise OSError("there is no free TCP port")


@contextmanager
def _step(out: Console, what: str) -> Iterator[None]:
    """Show a step while it runs, and a tick when it is done."""
    with out.status(what):
        yield
    out.print(f"[green]✓[/] {what}", soft_wrap=True)


class _Tick(ProgressColumn):
    """A tick once the task is done."""

    def render(self, task: Task) -> Text:
        """Return the tick."""
        return Text("✓", style="green") if task.finished else Text("…", style="dim")


class _Update(Protocol):
    """Moves a progress bar to ``done``, and may say anew what is being done."""

    def __call__(self, done: int, now: str | None = None) -> None: ...


@contextmanager
def _bar(out: Console, what: str, total: int) -> Iterator[_Update]:
    """Show a progress bar; yield what moves it."""
    columns = (
        _Tick(),
        TextColumn("{task.description:<36}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out) as progress:
        task = progress.add_task(what, total=total)

        def update(done: int, now: str | None = None) -> None:
            progress.update(task, completed=done, description=now or what)

        yield update


@contextmanager
def _terminated_as_exit() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does; restore the handlers at the end.

    What a handler raises while a destructor runs is lost (sys.unraisablehook), so it is raised
    again until the stack unwinds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = (*_ENDING, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in handled}
    asked = 0

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = asked or number
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        if asked == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + asked)

    try:
        for number in handled:
            signal.signal(number, leave)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_interrupts() -> None:
    """Let cleaning up finish, however often someone presses Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (*_ENDING, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
