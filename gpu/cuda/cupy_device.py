"""The real device: CuPy's runtime calls, memory pool and RawModule, and nothing else of CuPy.

Invariants:

- CuPy is imported when a device is opened, never with this module; no stream, event or array
  exists before that.
- All memory comes out of one pool, on the null stream, with a hard limit. A freed buffer can be
  given out again at once: whoever frees one knows that no stream uses it any more.
- Only contiguous host arrays are copied; every launch gets sized scalars, addresses and buffers.
- After a sticky error every call raises DeviceLost.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpu.arrays import AnyArray
from gpu.errors import BackendError, DeviceLost, EngineError, IndexFull

from .compile import OPTIONS, source
from .device import Argument, Buffer, Event, Kernel, MemoryInfo, Stream
from .faults import translated
from .instances import names_of
from .options import CudaOptions

_TO_DEVICE, _TO_HOST, _WITHIN = 1, 2, 3  # cudaMemcpyKind
#: Shared memory a block gets without asking (CUDA C++ Programming Guide, "Shared Memory").
_PLAIN_SHARED_BYTES = 48 << 10
#: Where CuPy keeps compiled kernels; it looks at each compilation.
_CACHE_VARIABLE = "CUPY_CACHE_DIR"


class CupyBuffer:
    """Memory of the pool, freed with the last reference."""

    def __init__(self, pointer: Any, nbytes: int) -> None:
        self._pointer, self.nbytes = pointer, nbytes
        self.address = int(pointer.ptr)


class CupyEvent:
    """A recorded CUDA event."""

    def __init__(self, device: CupyDevice, event: Any) -> None:
        self._device, self.event = device, event

    def wait(self) -> None:
        """Block until the device has reached it."""
        with self._device.calling("waiting for an event"):
            self.event.synchronize()


class CupyStream:
    """A non-blocking CUDA stream."""

    def __init__(self, device: CupyDevice, stream: Any) -> None:
        self._device, self.stream = device, stream

    def synchronize(self) -> None:
        """Block until its work is done; raise BackendError for what went wrong in it."""
        with self._device.calling("waiting for a stream"):
            self.stream.synchronize()

    def record(self) -> CupyEvent:
        """Mark the present end of its work."""
        with self._device.calling("recording an event") as cupy:
            event = cupy.cuda.Event(disable_timing=True)
            event.record(self.stream)
            return CupyEvent(self._device, event)

    def wait_for(self, event: Event) -> None:
        """Let later work of this stream start only when ``event`` is reached."""
        with self._device.calling("ordering two streams"):
            self.stream.wait_event(_own_event(event).event)


class CupyGraph:
    """A captured sequence of launches and copies, with their addresses and scalars."""

    def __init__(self, device: CupyDevice, graph: Any) -> None:
        self._device, self._graph = device, graph

    def launch(self, stream: Stream) -> None:
        """Queue the whole sequence with one call."""
        with self._device.calling("launching a graph"):
            self._graph.launch(_own(stream).stream)


class CupyDevice:
    """See ``Device``. Raises BackendError where there is no CuPy, driver, card or compiler."""

    def __init__(self, options: CudaOptions | None = None) -> None:
        self.options = options or CudaOptions()
        self.lost: str | None = None
        self._cupy = _imported()
        self._here = threading.local()
        self._modules: dict[str, Any] = {}
        self._compiling = threading.Lock()
        if self.options.cache_dir is not None:
            os.environ[_CACHE_VARIABLE] = str(self.options.cache_dir)
        with self.calling("opening the card") as cupy:
            self._properties = cupy.cuda.runtime.getDeviceProperties(self.options.number)
            self._pool = cupy.cuda.MemoryPool()
            if self.options.memory_limit_bytes is not None:
                self._pool.set_limit(size=self.options.memory_limit_bytes)

    @property
    def name(self) -> str:
        """What the driver calls the card."""
        name = self._properties["name"]
        return name.decode() if isinstance(name, bytes) else str(name)

    @property
    def compute_capability(self) -> int:
        """70 for sm_70, 120 for sm_120."""
        return 10 * int(self._properties["major"]) + int(self._properties["minor"])

    @property
    def pci_bus_id(self) -> str:
        """Where the card is, as NVML names it."""
        with self.calling("asking for the card's place") as cupy:
            place = cupy.cuda.runtime.deviceGetPCIBusId(self.options.number)
        return place.decode() if isinstance(place, bytes) else str(place)

    @property
    def multiprocessors(self) -> int:
        """Number of SMs."""
        return int(self._properties["multiProcessorCount"])

    @property
    def shared_bytes(self) -> int:
        """Most shared memory of one block, opted in."""
        opted_in = int(self._properties.get("sharedMemPerBlockOptin", 0))
        return max(opted_in, int(self._properties["sharedMemPerBlock"]))

    def memory(self) -> MemoryInfo:
        """Return what can still be allocated under the limit, and what the card has."""
        with self.calling("asking for free memory") as cupy:
            free, total = cupy.cuda.runtime.memGetInfo()
        used, held = int(self._pool.used_bytes()), int(self._pool.total_bytes())
        free = int(free) + held - used  # what the pool holds unused can be given out again
        limit = self.options.memory_limit_bytes
        return MemoryInfo(free if limit is None else min(free, limit - used), int(total))

    @property
    def held_bytes(self) -> int:
        """Bytes of the card that the pool holds, given out or not."""
        return int(self._pool.total_bytes())

    def stream(self) -> CupyStream:
        """Make a stream that does not synchronise with the default one."""
        with self.calling("making a stream") as cupy:
            return CupyStream(self, cupy.cuda.Stream(non_blocking=True))

    def empty(self, nbytes: int) -> CupyBuffer:
        """Allocate; freed when the last reference goes. Raise IndexFull beyond the limit."""
        with self.calling(f"{nbytes} bytes") as cupy:
            try:
                pointer = self._pool.malloc(nbytes)
            except cupy.cuda.memory.OutOfMemoryError:
                # Free chunks of other sizes may hold what is missing.
                self._pool.free_all_blocks()
                pointer = self._pool.malloc(nbytes)
        buffer = CupyBuffer(pointer, nbytes)
        assert buffer.address % 256 == 0, "device memory is aligned to 256 bytes"
        return buffer

    def pinned(self, shape: Sequence[int], dtype: np.dtype[np.generic]) -> AnyArray:
        """Allocate page-locked host memory that the device can read at the same address."""
        count = int(np.prod(shape, dtype=np.int64))
        with self.calling(f"{count * dtype.itemsize} page-locked bytes of the host") as cupy:
            memory = cupy.cuda.alloc_pinned_memory(max(1, count * dtype.itemsize))
        return np.frombuffer(memory, dtype, count).reshape(tuple(shape))

    def upload(self, host: AnyArray, to: Buffer, offset_bytes: int, stream: Stream) -> None:
        """Copy a contiguous host array to ``offset_bytes`` of a buffer."""
        _check_copy(host, to, offset_bytes)
        if host.nbytes:
            target = to.address + offset_bytes
            self._copy(target, host.ctypes.data, host.nbytes, _TO_DEVICE, stream)

    def download(self, source: Buffer, offset_bytes: int, to: AnyArray, stream: Stream) -> None:
        """Copy from ``offset_bytes`` of a buffer into a contiguous host array."""
        _check_copy(to, source, offset_bytes)
        if to.nbytes:
            origin = source.address + offset_bytes
            self._copy(to.ctypes.data, origin, to.nbytes, _TO_HOST, stream)

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
        _check_range(source, source_offset_bytes, nbytes)
        _check_range(to, to_offset_bytes, nbytes)
        if nbytes:
            origin, target = source.address + source_offset_bytes, to.address + to_offset_bytes
            self._copy(target, origin, nbytes, _WITHIN, stream)

    def fill(
        self, buffer: Buffer, offset_bytes: int, nbytes: int, byte: int, stream: Stream
    ) -> None:
        """Set bytes."""
        _check_range(buffer, offset_bytes, nbytes)
        if nbytes:
            with self.calling("setting memory") as cupy:
                address, raw = buffer.address + offset_bytes, _own(stream).stream.ptr
                cupy.cuda.runtime.memsetAsync(address, byte, nbytes, raw)

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: int,
        arguments: Sequence[Argument],
        stream: Stream,
        shared_bytes: int = 0,
    ) -> None:
        """Run ``kernel`` with ``block`` threads a block. Compiles its file first if it is new."""
        function = self._function(kernel)
        sized = tuple(_sized(argument) for argument in arguments)
        with self.calling(f"launching {kernel.name}"):
            if shared_bytes > _PLAIN_SHARED_BYTES:
                function.max_dynamic_shared_size_bytes = shared_bytes
            with _own(stream).stream:
                function(grid, (block, 1, 1), sized, shared_mem=shared_bytes)

    def prepare(self, kernel: Kernel) -> None:
        """Compile and load a kernel; BackendError where there is no compiler."""
        self._function(kernel)

    def capture(self, stream: Stream, work: Callable[[], None]) -> CupyGraph:
        """Record what ``work`` queues on ``stream``, without running it.

        ``work`` must neither allocate nor wait (CUDA C++ Programming Guide, "CUDA Graphs").
        """
        raw = _own(stream).stream
        with self.calling("capturing a graph"):
            raw.begin_capture()
            try:
                work()
            finally:
                graph = raw.end_capture()
            return CupyGraph(self, graph)

    @contextmanager
    def calling(self, doing: str) -> Iterator[Any]:
        """Make the card this thread's own and translate CuPy's errors; yields cupy."""
        if self.lost is not None:
            raise DeviceLost(self.lost)
        cupy = self._cupy
        try:
            if not getattr(self._here, "chosen", False):
                cupy.cuda.runtime.setDevice(self.options.number)
                self._here.chosen = True
            yield cupy
        except EngineError:
            raise
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise IndexFull(f"the card has no memory left for {doing}") from error
        except (
            cupy.cuda.runtime.CUDARuntimeError,
            cupy.cuda.driver.CUDADriverError,
        ) as error:
            raise self._noted(doing, error) from error

    def _noted(self, doing: str, error: Any) -> EngineError:
        raised = translated(doing, int(error.status), str(error))
        if isinstance(raised, DeviceLost):
            self.lost = str(raised)
        return raised

    def _function(self, kernel: Kernel) -> Any:
        module = self._modules.get(kernel.stem)
        if module is None:
            with self._compiling:
                module = self._modules.get(kernel.stem) or self._compiled(kernel.stem)
                self._modules[kernel.stem] = module
        with self.calling(f"loading {kernel.name}"):
            return module.get_function(kernel.name)

    def _compiled(self, stem: str) -> Any:
        """Compile all instances of a file, or take them from the cache."""
        names = names_of(stem, self.compute_capability)
        with self.calling(f"compiling {stem}.cu") as cupy:
            try:
                module = cupy.RawModule(code=source(stem), options=OPTIONS, name_expressions=names)
                module.compile()
            except cupy.cuda.compiler.CompileException as error:
                raise BackendError(f"{stem}.cu does not compile for this card") from error
            except (ImportError, OSError, RuntimeError) as error:
                if hasattr(error, "status"):
                    raise
                raise BackendError(
                    "CUDA's compiler library (NVRTC) cannot be loaded; "
                    "install it with pip install 'cupy-cuda13x[ctk]'"
                ) from error
        return module

    def _copy(self, to: int, origin: int, nbytes: int, kind: int, stream: Stream) -> None:
        with self.calling("copying") as cupy:
            cupy.cuda.runtime.memcpyAsync(to, origin, nbytes, kind, _own(stream).stream.ptr)


def _imported() -> Any:
    """Import CuPy; raise BackendError with what to install where that fails."""
    try:
        import cupy  # noqa: PLC0415 (takes a second, and exists only beside a card)
    except ImportError as error:
        raise BackendError(
            "CuPy is not installed; pip install 'vecmirror[cuda13]', "
            "or vecmirror[cuda12] for drivers older than 580"
        ) from error
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"the CUDA driver is missing or too old: {error}") from error
    if count == 0:
        raise BackendError("the CUDA driver shows no card")
    return cupy


def _own(stream: Stream) -> CupyStream:
    if not isinstance(stream, CupyStream):
        raise BackendError("this stream belongs to another device")
    return stream


def _own_event(event: Event) -> CupyEvent:
    if not isinstance(event, CupyEvent):
        raise BackendError("this event belongs to another device")
    return event


def _sized(argument: Argument) -> np.generic:
    """Return what RawKernel passes by value: Python numbers would silently become 8 bytes."""
    if isinstance(argument, np.generic):
        return argument
    return np.uint64(argument.address)


def _check_copy(host: AnyArray, buffer: Buffer, offset_bytes: int) -> None:
    if not host.flags.c_contiguous:
        raise BackendError("only contiguous arrays are copied")
    _check_range(buffer, offset_bytes, host.nbytes)


def _check_range(buffer: Buffer, offset_bytes: int, nbytes: int) -> None:
    if offset_bytes < 0 or nbytes < 0 or offset_bytes + nbytes > buffer.nbytes:
        raise BackendError(
            f"bytes {offset_bytes} to {offset_bytes + nbytes} of a buffer of {buffer.nbytes}"
        )
