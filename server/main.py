"""The server process: sockets, signals, and what is done in which order at start and stop.

Start: check that nobody is let in by mistake, lock the data directory, listen, then load the
catalog beside the first requests. Stop (SIGTERM, SIGINT): listen no more, let requests finish,
save what grew, both within ``server.shutdown_grace_s``, close the catalog, exit 0. One process owns
the indexes: there are no worker processes.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from types import FrameType

import structlog
import uvicorn
from threadpoolctl import threadpool_limits

from .api.app import create_app
from .api.context import Context
from .api.direct import direct_protocol
from .auth import UnsafeExposure, refuse_unsafe_exposure
from .catalog import Catalog
from .device import DEVICE_LOST, DeviceWatch, NoDevice, open_device
from .errors import StorageError
from .logs import configure_logs
from .mirror import MirrorOptions
from .sections import ServerSection
from .settings import Settings
from .sql.port import CannotServeSql, SqlPort
from .sql.session import SqlSessions
from .stopping import save_grown

log = structlog.get_logger("vecmirror.server")

OK, FAILED, WRONG_SETTINGS = 0, 1, 2

#: Connections that may wait to be accepted.
_BACKLOG = 1024
#: Seconds an idle connection is kept: longer than common proxies (60 s) keep theirs, so that none
#: sends a request into a connection that is being closed.
_KEEP_ALIVE_S = 75
_LOOPBACK = "127.0.0.1"


class CannotListen(Exception):
    """An address cannot be listened on; the message says which and why."""


def serve(settings: Settings) -> int:
    """Run the server until a signal ends it; return the exit status of the process.

    0: ended as asked. 1: the data directory, an address or the card cannot be had. 2: unsafe
    settings. 75: the card was lost; to be started anew.
    """
    configure_logs(settings.server.log_level, settings.server.log_format)
    # BLAS would start a thread for each core, and most of their time is spent on waiting for each
    # other: searches run beside each other instead. Set here, as NumPy is long loaded.
    threadpool_limits(settings.server.math_threads, user_api="blas")
    try:
        refuse_unsafe_exposure(settings)
        backend = open_device(settings.server)
        options = MirrorOptions(
            training_memory_bytes=settings.server.training_memory_bytes, backend=backend
        )
        catalog = Catalog(settings.server.data_dir, options)
    except UnsafeExposure as error:
        log.error("the server does not start", reason=str(error))
        return WRONG_SETTINGS
    except NoDevice as error:
        log.error("the server does not start", reason=str(error))
        return FAILED
    except (StorageError, OSError) as error:
        log.error("the data directory cannot be opened", reason=str(error))
        return FAILED
    watch = DeviceWatch(backend, settings.server.shutdown_grace_s)
    try:
        with listening(settings.server) as sockets, sql_listening(settings) as sql_listener:
            context = Context(settings, catalog)
            asked_s = _run(context, sockets, _sql_port(context, sql_listener))
        if watch.reason is not None:
            return DEVICE_LOST  # no snapshot: what lies on the card is not to be believed
        save_grown(catalog.mirrors(), asked_s + settings.server.shutdown_grace_s)
    except (CannotListen, CannotServeSql) as error:
        log.error("the server does not start", reason=str(error))
        return FAILED
    finally:
        catalog.close()
    log.info("stopped")
    return OK


class _Server(uvicorn.Server):
    """Remembers when it was asked to stop, by time.monotonic."""

    asked_s = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note the time of the first signal."""
        self.asked_s = min(self.asked_s, monotonic())
        super().handle_exit(sig, frame)


def _run(context: Context, sockets: Sequence[socket.socket], sql_port: SqlPort | None) -> float:
    """Serve until a signal; return when it came."""
    server = context.settings.server
    config = uvicorn.Config(
        create_app(context.settings, context.catalog, context, sql_port),
        log_config=None,
        access_log=False,
        server_header=False,
        loop="uvloop",
        http=direct_protocol(context),  # type: ignore[arg-type]  # a class, for uvicorn
        ws="none",
        lifespan="on",
        proxy_headers=False,  # addresses of callers are used nowhere
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=server.shutdown_grace_s,
    )
    # uvicorn raises a signal again once it has shut down; by then it has done its work.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    log.info("listening", addresses=[_name(listener) for listener in sockets])
    running = _Server(config)
    running.run(sockets=list(sockets))
    return running.asked_s


@contextlib.contextmanager
def listening(server: ServerSection) -> Iterator[list[socket.socket]]:
    """Open the sockets the settings name; close them, and remove the Unix socket, at the end."""
    with contextlib.ExitStack() as stack:
        sockets = []
        if server.tcp:
            sockets.append(stack.enter_context(_tcp_socket(server.host, server.port)))
        if server.uds is not None:
            sockets.append(stack.enter_context(_unix_socket(server.uds)))
            stack.callback(server.uds.unlink, missing_ok=True)
        if not sockets:
            raise CannotListen("server.tcp is false and server.uds is not set: set one of them")
        yield sockets


@contextlib.contextmanager
def sql_listening(settings: Settings) -> Iterator[socket.socket | None]:
    """Open the socket of the SQL port, if it is enabled; close it at the end."""
    if not settings.sql.enabled:
        yield None
        return
    server, sql = settings.server, settings.sql
    host = sql.host or (server.host if server.tcp else _LOOPBACK)
    try:
        listener = _tcp_socket(host, sql.port)
    except CannotListen as error:
        raise CannotListen(f"{error} (set sql.port, or sql.enabled = false)") from error
    with listener:
        yield listener


def _sql_port(context: Context, listener: socket.socket | None) -> SqlPort | None:
    if listener is None:
        return None
    sessions = SqlSessions(context)
    return SqlPort(context.settings, listener, sessions.open, context.metrics.registry)


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CannotListen(f"{host} port {port}: {error.strerror}") from error


def _unix_socket(path: Path) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise CannotListen(f"{path}: {error.strerror or error}") from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket nobody listens on any more, as a killed server leaves it."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise CannotListen(f"{path}: another server listens there")


def _name(listener: socket.socket) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
