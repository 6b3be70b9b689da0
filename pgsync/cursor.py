"""Cursor: reads big-endian fields of one message, and never past its end."""

from __future__ import annotations

from struct import Struct

from .errors import DecodeError

_U16, _U32 = Struct(">H"), Struct(">I")


class Cursor:
    """Position in the bytes of one message called ``tag`` in errors. Every read checks the bounds.

    All methods raise DecodeError when the message is too short for what is asked.
    """

    __slots__ = ("data", "offset", "tag")

    def __init__(self, tag: str, data: bytes, offset: int) -> None:
        self.tag, self.data, self.offset = tag, data, offset

    def error(self, reason: str) -> DecodeError:
        """Return the error to raise for the field that starts here."""
        return DecodeError(self.tag, self.offset, reason)

    def unpack(self, fields: Struct) -> tuple[int, ...]:
        """Return the fields of an integer struct and step over them."""
        end = self.offset + fields.size
        if end > len(self.data):
            raise self.error(f"{fields.size} bytes expected, the message ends before")
        values = fields.unpack_from(self.data, self.offset)
        self.offset = end
        return values

    def u8(self) -> int:
        """Return one byte."""
        if self.offset >= len(self.data):
            raise self.error("one byte expected, the message ends here")
        self.offset += 1
        return self.data[self.offset - 1]

    def u16(self) -> int:
        """Return an unsigned 16-bit integer."""
        return self.unpack(_U16)[0]

    def u32(self) -> int:
        """Return an unsigned 32-bit integer."""
        return self.unpack(_U32)[0]

    def take(self, length: int) -> bytes:
        """Return the next ``length`` bytes."""
        end = self.offset + length
        if end > len(self.data):
            raise self.error(f"{length} bytes expected, the message ends before")
        taken = self.data[self.offset : end]
        self.offset = end
        return taken

    def text(self) -> str:
        """Return a NUL-terminated UTF-8 string."""
        end = self.data.find(0, self.offset)
        if end < 0:
            raise self.error("a string without an end")
        try:
            text = self.data[self.offset : end].decode()
        except UnicodeDecodeError as error:
            raise self.error("a string that is not UTF-8") from error
        self.offset = end + 1
        return text

    def finish(self) -> None:
        """Raise DecodeError when bytes are left over."""
        left = len(self.data) - self.offset
        if left:
            raise self.error(f"{left} bytes more than the message has fields")
