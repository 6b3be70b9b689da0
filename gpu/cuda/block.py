"""One block of queries on the device: its arrays in and out, laid out in a workspace's memory.

    device  | inputs | outputs | search scratch (scratch.py) | extra |
    host    | inputs | outputs |                                page-locked

so a block costs one upload and one download, however many arrays there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu.arrays import AnyArray

from .device import Buffer
from .scratch import Queue
from .workspace import Parts, Workspace, view_of


@dataclass(frozen=True, slots=True)
class Output:
    """An array that the device fills: its shape and type."""

    shape: tuple[int, ...]
    dtype: type[np.generic]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Block:
    """Inputs, outputs and scratch of one round trip. ``zeros``: that many bytes of counters."""

    def __init__(
        self,
        space: Workspace,
        inputs: tuple[AnyArray, ...],
        outputs: tuple[Output, ...],
        scratch_bytes: int,
        zeros_bytes: int = 0,
    ) -> None:
        self.space, self._inputs, self._outputs = space, inputs, outputs
        parts = Parts()
        self._in = [parts.add(array.nbytes) for array in inputs]
        self._in_bytes = parts.nbytes
        self._out = [parts.add(output.nbytes) for output in outputs]
        self._out_bytes = parts.nbytes - self._in_bytes
        self._host = space.pinned(parts.nbytes)
        self._buffer: Buffer = space.scratch(parts.nbytes + scratch_bytes)
        self.scratch = self._buffer.address + parts.nbytes
        self.zeros = space.zeros(zeros_bytes).address if zeros_bytes else 0
        for array, offset in zip(inputs, self._in, strict=True):
            view_of(self._host, offset, array.shape, array.dtype.type)[...] = array

    @property
    def queue(self) -> Queue:
        """Where its work goes."""
        return Queue(self.space.device, self.space.stream)

    @property
    def place(self) -> tuple[int, int, int]:
        """Addresses that what is queued depends on."""
        return self._buffer.address, self.zeros, int(self._host.ctypes.data)

    def input(self, number: int) -> int:
        """Return the address of an input."""
        return self._buffer.address + self._in[number]

    def output(self, number: int) -> int:
        """Return the address of an output."""
        return self._buffer.address + self._out[number]

    def send(self) -> None:
        """Queue the upload of the inputs."""
        if self._in_bytes:
            sent = self._host[: self._in_bytes]
            self.space.device.upload(sent, self._buffer, 0, self.space.stream)

    def receive(self) -> None:
        """Queue the download of the outputs."""
        first, end = self._in_bytes, self._in_bytes + self._out_bytes
        host = self._host[first:end]
        self.space.device.download(self._buffer, first, host, self.space.stream)

    def wait(self) -> list[AnyArray]:
        """Wait for everything queued; return the outputs as arrays of their own."""
        self.space.stream.synchronize()
        return [
            view_of(self._host, offset, output.shape, output.dtype).copy()
            for offset, output in zip(self._out, self._outputs, strict=True)
        ]
