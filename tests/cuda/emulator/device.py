"""``EmulatedDevice``: gpu.cuda's Device on the CPU, running the product's own kernel sources.

Invariants:

- One launch runs at a time; a block's threads take turns as the schedule says.
- What the driver would not notice is an error here: argument types, buffers freed before the work
  that uses them ran, copies beyond a buffer's end.
- After a failed kernel every operation fails, as after a sticky CUDA error.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from gpu.arrays import U8, AnyArray
from gpu.cuda import compile as compiling
from gpu.cuda.device import Argument, Buffer, Kernel, MemoryInfo, Stream
from gpu.cuda.instances import names_of
from gpu.errors import BackendError, DeviceLost

from . import build
from .checker import Checker, with_source_line
from .failures import Failures, Operation
from .memory import Allocation, EmulatedBuffer, Memory, PinnedHost
from .module import Instance, Module, Order, Schedule
from .streams import EmulatedGraph, EmulatedStream
from .traffic import Report

#: Pattern of host memory that a lazy download has not reached yet.
NOT_YET = 0xDD
#: A compute capability that every kernel is for.
_NEWEST = 999
_MODULES: dict[tuple[str, ...], Module] = {}
_RUNNING = threading.RLock()  # the runtime has one state; reentrant, as a finalizer may run inside


class EmulatedDevice:
    """A card of ``compute_capability`` with ``multiprocessors`` and ``total_bytes`` of memory.

    ``lazy``: queued work runs only when it is waited for. ``checked``: the checker watches every
    access (about 60 times slower). ``sources`` and ``instances``: a folder of kernels instead of
    the product's, for tests, and what to compile of each; ``defines``: preprocessor symbols.
    """

    def __init__(
        self,
        *,
        schedule: Schedule = "in order",
        seed: int = 1,
        lazy: bool = False,
        checked: bool = False,
        total_bytes: int = 8 << 30,
        compute_capability: int = 80,
        multiprocessors: int = 4,
        shared_bytes: int = 163 << 10,
        sources: Path = compiling.KERNELS,
        instances: Mapping[str, Sequence[str]] | None = None,
        defines: Sequence[str] = (),
    ) -> None:
        if reason := build.why_not():
            raise BackendError(reason)
        self.name = "emulated"
        self.compute_capability = compute_capability
        self.multiprocessors = multiprocessors
        self.shared_bytes = shared_bytes
        self.order = Order(schedule, seed)
        self.launched: list[Kernel] = []
        self.failures = Failures()
        self.checker = Checker((sources, compiling.KERNELS)) if checked else None
        self._lazy = lazy
        self._sources = sources
        self._instances = instances or {}
        self._defines = tuple(defines)
        self._memory = Memory(total_bytes)
        self._streams: weakref.WeakSet[EmulatedStream] = weakref.WeakSet()
        self._lock = _RUNNING

    def memory(self) -> MemoryInfo:
        """Return what is free and what there is."""
        with self._lock:
            total = self._memory.total_bytes
            return MemoryInfo(total - self._memory.used_bytes, total)

    def stream(self) -> EmulatedStream:
        """Make a stream."""
        self.failures.check("stream")
        made = EmulatedStream(self._lock, self._lazy, lambda: self.failures.check("synchronize"))
        self._streams.add(made)
        return made

    def empty(self, nbytes: int) -> EmulatedBuffer:
        """Allocate; IndexFull beyond the limit."""
        with self._lock:
            self.failures.check("empty")
            allocation = self._memory.allocate(nbytes)
            if self.checker:
                self.checker.add(allocation)
            return EmulatedBuffer(allocation, self._freed)

    def pinned(self, shape: Sequence[int], dtype: np.dtype[np.generic]) -> AnyArray:
        """Allocate host memory that kernels can read by its address."""
        with self._lock:
            self.failures.check("pinned")
            nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            allocation = self._memory.pin(nbytes)
            if self.checker:
                self.checker.add(allocation)
            host = PinnedHost(allocation, self._freed)
        return np.asarray(host).view(dtype).reshape(tuple(shape))

    def _freed(self, allocation: Allocation) -> None:
        with self._lock:
            if self.checker:
                self.checker.remove(allocation)
            busy = any(not s.idle for s in self._streams)
            self._memory.release(allocation, keep=busy)
            if not busy:
                self._memory.forget()

    def upload(self, host: AnyArray, to: Buffer, offset_bytes: int, stream: Stream) -> None:
        """Copy a contiguous host array to the device; lazily, it is read when the stream runs."""
        source = _bytes_of(host)
        target = self._part(to, offset_bytes, source.size)
        self._queue("upload", stream, lambda: self._write(target, source))

    def download(self, source: Buffer, offset_bytes: int, to: AnyArray, stream: Stream) -> None:
        """Copy from the device; lazily, the host array holds rubbish until the stream has run."""
        target = _bytes_of(to)
        part = self._part(source, offset_bytes, target.size)
        if self._lazy:
            target.fill(NOT_YET)
        self._queue("download", stream, lambda: np.copyto(target, part))

    def copy(
        self,
        source: Buffer,
        source_offset_bytes: int,
        to: Buffer,
        to_offset_bytes: int,
        nbytes: int,
        stream: Stream,
    ) -> None:
        """Copy within the device."""
        part = self._part(source, source_offset_bytes, nbytes)
        target = self._part(to, to_offset_bytes, nbytes)
        self._queue("copy", stream, lambda: self._write(target, part))

    def fill(
        self, buffer: Buffer, offset_bytes: int, nbytes: int, byte: int, stream: Stream
    ) -> None:
        """Set bytes."""
        part = self._part(buffer, offset_bytes, nbytes)
        self._queue("fill", stream, lambda: self._write(part, np.uint8(byte)))

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        stream: Stream,
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel of ``sources`` by its C++ name."""
        if shared_bytes > self.shared_bytes:
            raise BackendError(
                f"{kernel.name} asks for {shared_bytes} bytes of shared memory,"
                f" the device has {self.shared_bytes} for one block"
            )
        with self._lock:
            instance = self.compiled(kernel)
            values = [_value(a) for a in arguments]
            instance.check(values)
            used = self._allocations_of(values)
            self.launched.append(kernel)
            self._queue(
                "launch",
                stream,
                lambda: self._run(instance, grid, block, values, shared_bytes, used),
            )

    def capture(self, stream: Stream, work: Callable[[], None]) -> EmulatedGraph:
        """Record what ``work`` queues on ``stream`` instead of running it."""
        with self._lock:
            return EmulatedGraph(_own(stream).recorded(work))

    def traffic(self) -> Report:
        """Return what the checker counted since the last call."""
        if self.checker is None:
            raise BackendError("only a checked device counts: EmulatedDevice(checked=True)")
        report = self.checker.report()
        self.checker.clear()
        return report

    def _write(self, target: U8, source: U8 | np.uint8) -> None:
        np.copyto(target, source)
        if self.checker:
            self.checker.written(target.ctypes.data, target.size)

    def _run(
        self,
        instance: Instance,
        grid: tuple[int, int, int],
        block: int,
        values: Sequence[np.generic],
        shared_bytes: int,
        used: Sequence[Allocation],
    ) -> None:
        if any(not a.alive for a in used):
            raise BackendError(f"{instance.name}: a buffer was freed before the kernel had run")
        try:
            instance.run(grid, block, values, shared_bytes, self.order)
        except BackendError as error:
            message = with_source_line(str(error))
            self.failures.lose(message)
            raise DeviceLost(message) from None

    def _queue(self, operation: Operation, stream: Stream, work: Callable[[], None]) -> None:
        with self._lock:
            self.failures.check(operation)
            _own(stream).queue(work)

    def _part(self, buffer: Buffer, offset_bytes: int, nbytes: int) -> U8:
        if not isinstance(buffer, EmulatedBuffer):
            raise BackendError("copies want buffers of this device")
        if offset_bytes < 0 or nbytes < 0 or offset_bytes + nbytes > buffer.nbytes:
            raise BackendError(
                f"copy of {nbytes} bytes at {offset_bytes} leaves a buffer of {buffer.nbytes}"
            )
        return buffer.allocation.content[offset_bytes : offset_bytes + nbytes]

    def _allocations_of(self, values: Sequence[np.generic]) -> list[Allocation]:
        """Allocations that pointer arguments point into; a null or odd pointer has none."""
        found = (self._memory.find(int(v)) for v in values if v.dtype == np.uint64)
        return [a for a in found if a is not None]

    def compiled(self, kernel: Kernel) -> Instance:
        """Compile and load a kernel; BackendError: not for cards of this compute capability."""
        names = tuple(self._instances.get(kernel.stem, ()))
        if self._sources == compiling.KERNELS:
            names = names_of(kernel.stem, self.compute_capability)
            if kernel.name in set(names_of(kernel.stem, _NEWEST)) - set(names):
                raise BackendError(f"{kernel.name} is not for sm_{self.compute_capability}")
        if kernel.name not in names:
            names = (kernel.name,)
        defines = (f"__CUDA_ARCH__={self.compute_capability * 10}", *self._defines)
        text = compiling.source(kernel.stem, self._sources)
        key = (text, *names, "", *defines, str(self.checker is not None))
        if key not in _MODULES:
            path = build.kernels(text, names, checked=self.checker is not None, defines=defines)
            _MODULES[key] = Module(path, names)
        return _MODULES[key].instances[kernel.name]


def _own(stream: Stream) -> EmulatedStream:
    if not isinstance(stream, EmulatedStream):
        raise BackendError("this is not a stream of the emulated device")
    return stream


def _bytes_of(host: AnyArray) -> U8:
    if not host.flags.c_contiguous:
        raise BackendError("only contiguous arrays are copied to and from a device")
    return host.reshape(-1).view(np.uint8)


def _value(argument: Argument) -> np.generic:
    if isinstance(argument, np.generic):
        return argument
    return np.uint64(argument.address)
