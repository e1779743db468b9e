"""Boxes of the ISO base media file format, as AVIF files are made of: found, opened and written. Pure, and trusts nothing.

Source: ISO/IEC 14496-12, 4.2.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from stages.images.formats.essence import BadHeader

MAX_BOXES = 256
"""In one box: an image made in earnest has a dozen."""


@dataclass(frozen=True, slots=True)
class Box:
    kind: bytes
    content: memoryview

    def full(self) -> "Fields":
        """Of a box with a version and flags."""
        fields = Fields(self.content)
        head = fields.number(4)
        return Fields(self.content, 4, version=head >> 24, flags=head & 0xFFFFFF)


class Fields:
    """Numbers of a box, one after the other. Raises `struct.error` or `BadHeader` where it ends before them."""

    def __init__(self, content: memoryview, at: int = 0, *, version: int = 0, flags: int = 0) -> None:
        self._content, self._at, self.version, self.flags = content, at, version, flags

    def number(self, num_bytes: int) -> int:
        return int.from_bytes(self.take(num_bytes), "big")

    def take(self, num_bytes: int) -> memoryview:
        if self._at + num_bytes > len(self._content):
            raise BadHeader("its AVIF header is cut off")
        found = self._content[self._at : self._at + num_bytes]
        self._at += num_bytes
        return found

    def rest(self) -> memoryview:
        return self._content[self._at :]


def boxes(data: bytes | memoryview) -> Iterator[Box]:
    """Those of one level, in order; what is cut off is none. Raises `BadHeader` for more than `MAX_BOXES`."""
    view, at = memoryview(data), 0
    for _ in range(MAX_BOXES):
        if at + 8 > len(view):
            return
        size, kind = struct.unpack_from(">I4s", view, at)
        head = 8
        if size == 1 and at + 16 <= len(view):
            (size,), head = struct.unpack_from(">Q", view, at + 8), 16
        if size == 0:
            size = len(view) - at
        if size < head:
            raise BadHeader(f"its AVIF has a box of {size} bytes")
        yield Box(kind, view[at + head : at + size])
        at += size
    raise BadHeader(f"its AVIF has over {MAX_BOXES} boxes in one")


def written(kind: bytes, *contents: bytes | memoryview) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, contents)), kind) + b"".join(contents)


def written_full(kind: bytes, *contents: bytes | memoryview, version: int = 0, flags: int = 0) -> bytes:
    return written(kind, struct.pack(">I", version << 24 | flags), *contents)
