"""What is compiled, and how: source texts and NVRTC options, for CuPy and for the tests alike.

Invariant: the text that is compiled holds everything of ours. CuPy's kernel cache is keyed by that
text and not by what it includes, so an included ``compat.cuh`` of a newer version would be missed.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels"

#: What RawModule is given; CuPy adds the architecture, ``-ftz=true`` and device-as-default.
OPTIONS = ("-std=c++17",)

_OWN_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([\w.]+)"[^\n]*$', re.MULTILINE)


@cache
def source(stem: str, folder: Path = KERNELS) -> str:
    """Return the text of ``<stem>.cu`` of ``folder`` with our own headers put in, each once.

    A header is looked for beside the kernel, then in ``KERNELS``. ``#line`` directives keep the
    messages of the compiler true.
    """
    return _expanded(folder / f"{stem}.cu", set())


def _expanded(path: Path, seen: set[str]) -> str:
    text = path.read_text(encoding="utf-8").replace("#pragma once\n", "\n")

    def included(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in seen:
            return ""
        seen.add(name)
        beside = path.with_name(name)
        header = _expanded(beside if beside.exists() else KERNELS / name, seen)
        next_line = text.count("\n", 0, match.end()) + 2
        return f'{header}\n#line {next_line} "{path.name}"'

    return f'#line 1 "{path.name}"\n' + _OWN_INCLUDE.sub(included, text)
