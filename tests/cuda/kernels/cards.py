"""A card for kernel tests: arrays up, addresses to kernels, arrays down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu.arrays import AnyArray
from gpu.codec import Codec
from gpu.cuda.device import Buffer, Device
from gpu.cuda.layout import CodecView, RowsView, codec_arrays, codec_view
from gpu.cuda.scratch import Queue, Scratch, SearchShape


class Card:
    """A device, one stream, and all that was put there; memory lives as long as the card."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.queue = Queue(device, device.stream())
        self._buffers: list[Buffer] = []
        self._hosts: list[AnyArray] = []

    def room(self, nbytes: int) -> int:
        """Return the address of fresh memory."""
        self._buffers.append(self.device.empty(max(nbytes, 1)))
        return self._buffers[-1].address

    def put(self, array: AnyArray) -> int:
        """Copy an array to the card; return its address."""
        host = np.ascontiguousarray(array)
        address = self.room(host.nbytes)
        self.write(address, host)
        return address

    def write(self, address: int, array: AnyArray) -> None:
        """Copy an array to an address of the card."""
        host = np.ascontiguousarray(array)
        self._hosts.append(host)
        buffer = self._buffer_of(address)
        if host.nbytes:
            offset = address - buffer.address
            self.device.upload(host.reshape(-1), buffer, offset, self.queue.stream)

    def get(self, address: int, shape: Sequence[int] | int, dtype: object) -> AnyArray:
        """Copy an array from an address of the card, after all that was queued."""
        host: AnyArray = np.empty(shape, dtype)  # type: ignore[call-overload]
        buffer = self._buffer_of(address)
        flat = host.reshape(-1)
        self.device.download(buffer, address - buffer.address, flat, self.queue.stream)
        self.queue.stream.synchronize()
        return flat.reshape(host.shape)

    def _buffer_of(self, address: int) -> Buffer:
        for buffer in self._buffers:
            if buffer.address <= address < buffer.address + buffer.nbytes:
                return buffer
        raise AssertionError("no such address")

    def codec(self, codec: Codec) -> CodecView:
        """Put a codec there."""
        arrays = codec_arrays(codec)._asdict()
        return codec_view(codec, {n: self.put(a) if a.size else 0 for n, a in arrays.items()})

    def scratch(self, codec: CodecView, shape: SearchShape) -> Scratch:
        """Make room for searches of one shape, zeroed where it must be."""
        size = Scratch.at(0, codec, shape).nbytes
        scratch = Scratch.at(self.room(size), codec, shape)
        self.write(scratch.coarse_arrived, np.zeros(scratch.zeroed_bytes, np.uint8))
        return scratch

    def rows(self, vectors: AnyArray, metric: int, *, shift: int = 4, pad: int = 0) -> RowsView:
        """Put raw rows there in chunks of 2^shift, each row followed by ``pad`` components."""
        wide = np.pad(vectors, ((0, -len(vectors) % (1 << shift)), (0, pad)))
        chunks = [self.put(wide[i : i + (1 << shift)]) for i in range(0, len(wide), 1 << shift)]
        stride, dim = wide.shape[1] * wide.itemsize, vectors.shape[1]
        table = self.put(np.array(chunks or [0], np.uint64))
        return RowsView(table, shift, stride, dim, vectors.dtype == np.float16, metric)
