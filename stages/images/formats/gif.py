"""GIF: its size, and its essence (no comments and no other extensions before its first frame). Pure.

Source: GIF89a, sections 18, 20 and 23-26.
"""

import struct
from dataclasses import dataclass

from stages.images.formats.essence import MAX_PIECES, BadHeader, Essence

_EXTENSION, _FRAME, _CONTROL = 0x21, 0x2C, 0xF9


def size(data: bytes | memoryview) -> tuple[int, int]:
    """Of the screen, or of what it grows to where the first frame reaches beyond it."""
    width, height = struct.unpack_from("<HH", data, 6)
    start = _before_frame(data).frame + 1
    descriptor = bytes(data[start : start + 8]).ljust(8, b"\0")  # where it is cut off, the screen is told nevertheless
    left, top, frame_width, frame_height = struct.unpack("<HHHH", descriptor)
    return max(width, left + frame_width), max(height, top + frame_height)


def essence(data: bytes) -> Essence:
    """Raises `BadHeader`."""
    parts, view = _before_frame(data), memoryview(data)
    return Essence(b"".join([view[: parts.screen_ends], view[parts.control], view[parts.frame :]]))


@dataclass(frozen=True, slots=True)
class _BeforeFrame:
    """`control`: where the last extension is that says what is transparent, which counts. `frame`: where the first one begins."""

    screen_ends: int
    control: slice
    frame: int


def _before_frame(data: bytes | memoryview) -> _BeforeFrame:
    flags = data[10]
    screen_ends = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    position, num_blocks, control = screen_ends, 0, slice(0)
    while data[position] == _EXTENSION:
        start, position = position, position + 2
        while data[position]:
            position += data[position] + 1
            num_blocks += 1
            if num_blocks > MAX_PIECES:
                raise BadHeader(f"its GIF has more than {MAX_PIECES} blocks before the first frame")
        position += 1
        if data[start + 1] == _CONTROL:
            control = slice(start, position)
    if data[position] != _FRAME:
        raise BadHeader("its GIF has no frame")
    return _BeforeFrame(screen_ends, control, position)
