"""What a compiled module uses and does: cuobjdump's resources and nvdisasm's instructions."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cuda.compile.nvrtc import compiled, nvidia_wheels
from tests.cuda.emulator.build import built_once

#: sm_90 and newer set aside 1 KB of shared memory for each block (CUDA C++ Programming Guide).
_RESERVED_SHARED_BYTES, _RESERVED_SINCE = 1024, 90
#: Architectures that today's nvdisasm no longer reads.
UNREADABLE = (70,)
_USAGE = re.compile(r"Function (\S+):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_SECTION = re.compile(r"^\.text\.(\S+):$", re.MULTILINE)
_LABEL = re.compile(r"^(\.L\w+):")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);")
_TARGET = re.compile(r"`\((\.L\w+)\)")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one kernel uses: of a thread registers, stack and local memory (where spills are).

    ``shared_bytes`` is the static shared memory of a block.
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    local_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What one kernel uses, and how often it reads 16 bytes and touches local memory."""

    usage: Usage
    wide_loads: int
    local_accesses: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """``name`` with its modifiers (``LDG.E.128``); ``target`` of a branch."""

    name: str
    target: str | None


def _output_of(tool: str, *arguments: str) -> str:
    wheels = nvidia_wheels()
    assert wheels is not None
    command = [str(wheels / "cu13" / "bin" / tool), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def usage(cubin: Path, architecture: int) -> dict[str, Usage]:
    """Return what each kernel uses, by symbol."""
    text = _output_of("cuobjdump", "--dump-resource-usage", str(cubin))
    reserved = _RESERVED_SHARED_BYTES if architecture >= _RESERVED_SINCE else 0
    return {
        symbol: Usage(int(registers), int(stack), max(int(shared) - reserved, 0), int(local))
        for symbol, registers, stack, shared, local in _USAGE.findall(text)
    }


def facts(stem: str, toolkit: str, architecture: int) -> dict[str, Facts]:
    """Return the facts of a file's instances by C++ name; kept beside the cubin."""
    module = compiled(stem, toolkit, architecture)
    kept = module.cubin.with_suffix(".facts.json")
    with built_once(kept) as unfinished:
        if unfinished:
            used = usage(module.cubin, architecture)
            codes = {} if architecture in UNREADABLE else code(module.cubin)
            found = {
                name: Facts(
                    used[symbol],
                    codes[symbol].wide_loads() if codes else 0,
                    codes[symbol].count("LDL", "STL") if codes else 0,
                )
                for name, symbol in module.symbols.items()
            }
            text = json.dumps({name: asdict(f) for name, f in found.items()})
            unfinished.write_text(text, encoding="utf-8")
    read = json.loads(kept.read_text(encoding="utf-8"))
    return {
        name: Facts(Usage(**f["usage"]), f["wide_loads"], f["local_accesses"])
        for name, f in read.items()
    }


class Code:
    """The instructions of one kernel, in order, with the places of labels."""

    def __init__(self, text: str) -> None:
        self.instructions: list[Instruction] = []
        self._labels: dict[str, int] = {}
        for line in text.splitlines():
            if label := _LABEL.match(line):
                self._labels[label.group(1)] = len(self.instructions)
            elif found := _INSTRUCTION.match(line):
                target = _TARGET.search(found.group(3))
                self.instructions.append(Instruction(found.group(2), target and target.group(1)))

    def count(self, *prefixes: str) -> int:
        """Return how many instructions start with one of these."""
        return sum(i.name.startswith(prefixes) for i in self.instructions)

    def wide_loads(self) -> int:
        """Return the number of 16-byte loads from global memory."""
        return sum(i.name.startswith("LDG") and ".128" in i.name for i in self.instructions)

    def loops(self) -> list[Sequence[Instruction]]:
        """Return the bodies of loops: from a label to the branch back to it."""
        bodies: list[Sequence[Instruction]] = []
        for end, instruction in enumerate(self.instructions):
            start = self._labels.get(instruction.target or "", end + 1)
            if instruction.name.startswith("BRA") and start <= end:
                bodies.append(self.instructions[start : end + 1])
        return bodies

    def innermost_loops(self) -> list[Sequence[Instruction]]:
        """Return the loops that hold no other branch back."""
        return [b for b in self.loops() if sum(self._goes_back(i, b) for i in b[:-1]) == 0]

    def _goes_back(self, instruction: Instruction, body: Sequence[Instruction]) -> bool:
        if not instruction.name.startswith("BRA") or instruction.target is None:
            return False
        place = next(i for i, x in enumerate(self.instructions) if x is instruction)
        return self._labels.get(instruction.target, place + 1) <= place


def code(cubin: Path) -> dict[str, Code]:
    """Return the instructions of each kernel, by symbol."""
    text = _output_of("nvdisasm", "-c", str(cubin))
    starts = list(_SECTION.finditer(text))
    ends = [m.start() for m in starts[1:]] + [len(text)]
    return {m.group(1): Code(text[m.end() : end]) for m, end in zip(starts, ends, strict=True)}
