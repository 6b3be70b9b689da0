"""A compiled kernel library: its instances, their parameters, and one launch of one of them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from gpu.errors import BackendError

Schedule: TypeAlias = Literal["in order", "reverse", "random"]
SCHEDULES: tuple[Schedule, ...] = ("in order", "reverse", "random")

_POINTER = 1000
_MOST_PARAMETERS = 64
_ERROR_BYTES = 2000
_TYPE_WORDS = {2: "float", 3: "int", 4: "uint"}


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_int * 3),
        ("block", ctypes.c_int * 3),
        ("dynamic_shared", ctypes.c_long),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_ulonglong),
    )


class Order(NamedTuple):
    """In which order threads and blocks take turns."""

    schedule: Schedule
    seed: int


def type_name(code: int) -> str:
    """Say a type code of ``launch.h`` in NumPy's words."""
    if code == _POINTER:
        return "a pointer"
    if code == 500:
        return "a struct"
    return f"{_TYPE_WORDS[code // 100]}{code % 100 * 8}"


def _code(value: np.generic) -> int:
    kinds = {"f": 200, "i": 300, "u": 400}
    if value.dtype.kind not in kinds:
        raise BackendError(f"kernels take no {value.dtype}")
    return kinds[value.dtype.kind] + value.dtype.itemsize


class Instance:
    """One kernel of a library."""

    def __init__(self, library: ctypes.CDLL, position: int, name: str) -> None:
        self.name = name
        self._run = library[f"emu_run_{position}"]
        codes, sizes = (ctypes.c_int * _MOST_PARAMETERS)(), (ctypes.c_int * _MOST_PARAMETERS)()
        n = library[f"emu_parameters_{position}"](codes, sizes)
        self.parameters: tuple[int, ...] = tuple(codes[:n])

    def check(self, arguments: Sequence[np.generic]) -> None:
        """Refuse what the driver would take in silence: a wrong number or types of arguments."""
        if len(arguments) != len(self.parameters):
            wanted = len(self.parameters)
            raise BackendError(f"{self.name} takes {wanted} arguments, got {len(arguments)}")
        for i, (wanted, value) in enumerate(zip(self.parameters, arguments, strict=True)):
            got = _code(value)
            if got != (408 if wanted == _POINTER else wanted):
                raise BackendError(
                    f"{self.name}: argument {i} is {type_name(got)},"
                    f" the kernel wants {type_name(wanted)}"
                )

    def run(
        self,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[np.generic],
        shared_bytes: int,
        order: Order,
    ) -> None:
        """Run all blocks; arguments have been checked. Raises BackendError with the reason."""
        values = [np.atleast_1d(np.asarray(a)) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        launch = _Launch(
            (ctypes.c_int * 3)(*grid),
            (ctypes.c_int * 3)(block, 1, 1),
            shared_bytes,
            ctypes.cast(pointers, ctypes.POINTER(ctypes.c_void_p)),
            SCHEDULES.index(order.schedule),
            order.seed,
        )
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        if self._run(ctypes.byref(launch), error, _ERROR_BYTES):
            raise BackendError(f"{self.name}: {error.value.decode(errors='replace')}")


class Module:
    """All instances of one library, by C++ name."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        self.instances = {n: Instance(library, i, n) for i, n in enumerate(names)}
