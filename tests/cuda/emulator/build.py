"""Compile kernels and the emulator's runtime with g++, once for each content.

Invariant: a library's name is the hash of everything that went into it, so nothing is ever stale
and processes that build the same thing at once end with the same file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from gpu.errors import BackendError

HERE = Path(__file__).parent
INCLUDE = HERE / "include"
RUNTIME = HERE / "runtime"
#: Compiled things of every layer; git ignores it.
CACHE = Path(__file__).parents[3] / ".cache" / "cuda"

FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-mf16c",
    "-mfma",
    "-ffp-contract=off",  # a * b + c rounds twice, as written; fmaf is the fused one
    "-fno-strict-aliasing",  # kernels read bytes as vectors
    "-w",
)
#: No libtsan: the runtime has the functions that -fsanitize=thread calls.
CHECKED_FLAGS = ("-fsanitize=thread", "-g", "-DCHECKED")
GCC_FLAGS = ("-fno-gnu-unique",)  # or two modules would share their __shared__ variables


@cache
def compiler() -> str | None:
    """Return the path of g++, or None; clang++ 14 has no _Float16, newer ones are untried."""
    return shutil.which("g++")


@cache
def why_not() -> str | None:
    """Return why the emulator cannot run on this machine, or None if it can."""
    if compiler() is None:
        return "the CUDA emulator needs g++ (Debian, Ubuntu: apt-get install g++)"
    if platform.machine() not in ("x86_64", "AMD64") or platform.system() != "Linux":
        return "the CUDA emulator switches threads with x86-64 Linux code only"
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    missing = [f for f in ("f16c", "fma") if f" {f} " not in flags.replace("\n", " ")]
    return f"the CUDA emulator needs a CPU with {' and '.join(missing)}" if missing else None


@contextmanager
def built_once(path: Path) -> Iterator[Path | None]:
    """Yield a name to build ``path`` under, or None if it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        yield None
        return
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            yield None
            return
        unfinished = path.with_suffix(f".{os.getpid()}")
        yield unfinished
        unfinished.replace(path)


def content_hash(*parts: str | Path) -> str:
    """Hash texts, and the contents of files and of folders of files."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            for file in sorted(part.iterdir()) if part.is_dir() else [part]:
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
        digest.update(b"\1")
    return digest.hexdigest()[:20]


def _run(command: Sequence[str | Path], what: str) -> None:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError(f"{what} does not compile for the emulator:\n{done.stderr[:6000]}")


def _flags() -> tuple[str, ...]:
    name = Path(compiler() or "").name
    return FLAGS + (GCC_FLAGS if name.startswith("g++") else ())


@cache
def runtime(checked: bool) -> Path:
    """Return the runtime's library: fibers, collectives, launch, and the checker if asked."""
    if reason := why_not():
        raise BackendError(reason)
    flags = (*_flags(), "-O2", *(("-DCHECKED",) if checked else ()))
    key = content_hash(str(compiler()), repr(flags), INCLUDE, RUNTIME)
    library = CACHE / "emulator" / f"runtime-{key}.so"
    left_out = {"unchecked.cpp"} if checked else {"shadow.cpp", "traffic.cpp", "hooks.cpp"}
    sources = [p for p in sorted(RUNTIME.glob("*.cpp")) if p.name not in left_out]
    with built_once(library) as unfinished:
        if unfinished:
            command = [compiler() or "", *flags, "-shared", "-g", "-fvisibility=default"]
            command.append("-fno-semantic-interposition")
            _run([*command, "-I", INCLUDE, *sources, "-o", unfinished], "the runtime")
    return library


def kernels(text: str, names: Sequence[str], *, checked: bool, defines: Sequence[str] = ()) -> Path:
    """Return the library of one source text with the named instances, in that order."""
    base = runtime(checked)
    exports = "".join(f"EMU_KERNEL({i}, {name})\n" for i, name in enumerate(names))
    whole = f'#include "emulator.h"\n{text}\n#line 1 "exports"\n{exports}'
    flags = (*_flags(), "-O2", *(CHECKED_FLAGS if checked else ()), *(f"-D{d}" for d in defines))
    key = content_hash(str(compiler()), whole, repr(flags), INCLUDE)
    compiled = CACHE / "emulator" / f"kernels-{key}.o"
    library = CACHE / "emulator" / f"kernels-{content_hash(key, base.name)}.so"
    with built_once(library) as unfinished:
        if unfinished:
            _compile(whole, flags, compiled)
            linked = [compiler() or "", "-shared", str(compiled), str(base)]
            _run([*linked, f"-Wl,-rpath,{base.parent}", "-o", unfinished], "a kernel")
    return library


def _compile(text: str, flags: Sequence[str], compiled: Path) -> None:
    """Compile once, whatever the runtime is: it takes seconds, linking does not."""
    with built_once(compiled) as unfinished, tempfile.TemporaryDirectory() as folder:
        if unfinished:
            source = Path(folder, "kernels.cpp")
            source.write_text(text, encoding="utf-8")
            command = [compiler() or "", *flags, "-I", str(INCLUDE), "-c", str(source)]
            _run([*command, "-o", str(unfinished)], "a kernel")
