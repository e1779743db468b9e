"""WebP: its size, and its essence (its first frame, with its transparency). Pure.

Source: RFC 9649, 2.3-2.7.
"""

import struct
from collections.abc import Iterator

from stages.images.formats import exif
from stages.images.formats.essence import MAX_PIECES, BadHeader, Essence

_HAS_METADATA = 0x20 | 0x08 | 0x04  # in VP8X: a profile, EXIF, XMP
_IMAGES = (b"VP8 ", b"VP8L", b"ANMF")
_MAX_TABLES = 1 << 16
_TABLES_PIXELS = 384  # 6 KiB
_KEPT = (b"VP8X", b"ANIM", b"ALPH")


def size(data: bytes | memoryview) -> tuple[int, int]:
    """Of the canvas."""
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return (low_width | high_width << 16) + 1, (low_height | high_height << 16) + 1
    if kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise BadHeader("its lossless WebP header has no signature")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        start_code, width, height = struct.unpack_from("<3sHH", data, 23)
        if start_code != b"\x9d\x01\x2a":
            raise BadHeader("its lossy WebP header has no start code")
        return width & 0x3FFF, height & 0x3FFF
    raise BadHeader(f"its WebP begins with {kind!r}")


def essence(data: bytes) -> Essence:
    """Raises `BadHeader`."""
    kept: list[bytes | memoryview] = []
    orientation, has_image = exif.UPRIGHT, False
    for kind, chunk in _chunks(data):
        if kind == b"EXIF":
            orientation = exif.orientation(chunk[8:])
        elif not has_image and (kind in _IMAGES or kind in _KEPT):
            kept.append(_without_metadata(chunk) if kind == b"VP8X" else chunk)
            has_image = kind in _IMAGES
    if not has_image:
        raise BadHeader("its WebP has no frame")
    whole = b"".join([b"RIFF", struct.pack("<I", 4 + sum(map(len, kept))), b"WEBP", *kept])
    return Essence(whole, orientation, _tables(whole, lossy_only=kept[0][:4] == b"VP8 "))


def _tables(data: bytes, *, lossy_only: bool) -> int:
    """Lossless pixels (and transparency) may have tables of codes of their own for every 4 x 4 of them, of 20 bits in the file and some
    kilobytes in memory."""
    if lossy_only:
        return 0
    width, height = size(data)
    return _TABLES_PIXELS * min(_MAX_TABLES, -(-width // 4) * -(-height // 4), len(data) * 8 // 20)


def _without_metadata(chunk: memoryview) -> bytes:
    flags = bytes([chunk[8] & ~_HAS_METADATA]) if len(chunk) > 8 else b""
    return bytes(chunk[:8]) + flags + bytes(chunk[9:])


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind, and the whole chunk, padded to even length; the last one may be cut off. Stops after `MAX_PIECES`: of an animation so long
    only the first frame counts, and what would come after its last one (EXIF) nobody writes."""
    view, position = memoryview(data), 12
    for _ in range(MAX_PIECES):
        if position + 8 > len(data):
            return
        kind, length = struct.unpack_from("<4sI", data, position)
        end = position + 8 + length + length % 2
        yield kind, view[position:end]
        position = end
