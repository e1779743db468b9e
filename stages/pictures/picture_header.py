"""What an encoded picture says of itself in its first bytes: its format and its size in pixels, before any decoder sees it.

Pure, and trusts nothing: some decoders allocate the whole canvas when they are merely opened, and others walk millions of tiny
pieces, so size and structure are read here first.
Knows no limits and decodes no pixels. PNG, JPEG, WebP, GIF and BMP; nothing else is a picture.

Sources: PNG (W3C, 3rd edition, 11.2.1), JPEG (ITU T.81, B.1.1), WebP (RFC 9649), GIF89a (section 18), BMP (BITMAPCOREHEADER,
BITMAPINFOHEADER).
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import prod


class PictureFormat(StrEnum):
    """The value is the name of Pillow's plugin."""

    PNG = "PNG"
    JPEG = "JPEG"
    WEBP = "WEBP"
    GIF = "GIF"
    BMP = "BMP"


class BadHeader(ValueError):
    """The first bytes are no picture's, or contradict themselves."""


_MAX_PIECES = 1000
"""Chunks, segments, blocks beside the pixels: decoders walk them slowly, one by one, and a picture made in earnest has a
hundred.
"""


@dataclass(frozen=True, slots=True)
class Header:
    """As stored: before EXIF orientation. Pixels; both at least 1."""

    format: PictureFormat
    width: int
    height: int


def sniff(data: bytes | memoryview) -> PictureFormat | None:
    """The format that the magic bytes tell, or None."""
    magic = bytes(data[:12])
    if magic.startswith(b"\x89PNG\r\n\x1a\n"):
        return PictureFormat.PNG
    if magic.startswith(b"\xff\xd8\xff"):
        return PictureFormat.JPEG
    if magic.startswith((b"GIF87a", b"GIF89a")):
        return PictureFormat.GIF
    if magic.startswith(b"RIFF") and magic[8:] == b"WEBP":
        return PictureFormat.WEBP
    if magic.startswith(b"BM"):
        return PictureFormat.BMP
    return None


def read_header(data: bytes | memoryview) -> Header:
    """Copies nothing of the picture. Raises `BadHeader`."""
    found = sniff(data)
    if found is None:
        raise BadHeader("its first bytes are not those of a PNG, JPEG, WebP, GIF or BMP")
    try:
        width, height = _SIZES[found](data)
    except (struct.error, IndexError) as error:
        raise BadHeader(f"its {found} header is cut off") from error
    if width < 1 or height < 1:
        raise BadHeader(f"its {found} header says {width} x {height} pixels")
    return Header(found, width, height)


_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE_BYTES = 4 << 20


def _png(data: bytes | memoryview) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if length != 13 or kind != b"IHDR":
        raise BadHeader("its PNG header does not begin with IHDR")
    _check_png_chunks(data)
    return width, height


def _check_png_chunks(data: bytes | memoryview) -> None:
    position, num_pixel_chunks, num_others = 8, 0, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IDAT", b"fdAT", b"fcTL"):
            num_pixel_chunks += 1
        else:
            num_others += 1
        if num_others > _MAX_PIECES or num_pixel_chunks > _MAX_PIECES + len(data) // 512:
            raise BadHeader(f"its PNG is cut into {num_others + num_pixel_chunks} chunks or more")
        position += length + 12


def check_png_rows(data: bytes) -> None:
    """Raises `BadHeader` for a PNG whose pixels end before its last row: decoders leave the rest black and say nothing."""
    try:
        width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
        passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
        missing = sum(_pass_bytes(width, height, depth * _SAMPLES[colour], *each) for each in passes)
        inflate = zlib.decompressobj()
        for piece in _png_pixel_chunks(data):
            while missing > 0 and (rows := inflate.decompress(piece, _INFLATE_BYTES)):
                missing -= len(rows)
                piece = inflate.unconsumed_tail
    except (struct.error, KeyError, zlib.error) as error:
        raise BadHeader(f"its PNG pixels are damaged: {error}") from error
    if missing > 0:
        raise BadHeader(f"its PNG is truncated: {missing} bytes of its {width} x {height} pixels are missing")


def _png_pixel_chunks(data: bytes) -> Iterator[bytes]:
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            yield data[position + 8 : position + 8 + length]
        position += length + 12


def _pass_bytes(width: int, height: int, pixel_bits: int, left: int, top: int, step_x: int, step_y: int) -> int:
    """Raw bytes of one pass: each row is a filter byte and its pixels, rounded up; an empty pass has none."""
    columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
    return rows * (1 + (columns * pixel_bits + 7) // 8) if columns > 0 and rows > 0 else 0


def _gif(data: bytes | memoryview) -> tuple[int, int]:
    """The logical screen. A first frame that is larger is seen by whoever opens the file."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    _check_gif_extensions(data, 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
    return width, height


def _check_gif_extensions(data: bytes | memoryview, position: int) -> None:
    num_blocks = 0
    while data[position] == 0x21:  # up to the first frame
        position += 2
        while data[position]:
            position += data[position] + 1
            num_blocks += 1
            if num_blocks > _MAX_PIECES:
                raise BadHeader(f"its GIF has more than {_MAX_PIECES} blocks before the first frame")
        position += 1
    if data[position] != 0x2C:
        raise BadHeader("its GIF has no frame")


def _bmp(data: bytes | memoryview) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return width, abs(height)  # negative: rows from the top


def _webp(data: bytes | memoryview) -> tuple[int, int]:
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


_NOT_FILL = re.compile(rb"[^\xff]")
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset(range(0xD0, 0xD8)) | {0x01}
_NO_SEGMENT_MARKERS = frozenset({0x00, 0xD8, 0xD9})
_START_OF_SCAN = 0xDA


def _jpeg(data: bytes | memoryview) -> tuple[int, int]:
    """Walks all that stands before the pixels; of several frame headers, the largest counts."""
    position, frames = 2, [(0, 0)]
    for _ in range(_MAX_PIECES):
        marker, position = _jpeg_marker(data, position)
        if marker == _START_OF_SCAN:
            return max(frames, key=prod)
        if marker in _BARE_MARKERS:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, position + 3)
            frames.append((width, height))
        position += length
    raise BadHeader(f"its JPEG has no pixels after {_MAX_PIECES} segments")


def _jpeg_marker(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """The marker that begins at `position`, and where it ends. It may be preceded by fill bytes (0xFF)."""
    end = _NOT_FILL.search(data, position)
    if end is None or not 0 < end.start() - position <= _MAX_PIECES or data[end.start()] in _NO_SEGMENT_MARKERS:
        raise BadHeader(f"its JPEG has no marker at byte {position}")
    return data[end.start()], end.end()


_SIZES = {
    PictureFormat.PNG: _png,
    PictureFormat.JPEG: _jpeg,
    PictureFormat.WEBP: _webp,
    PictureFormat.GIF: _gif,
    PictureFormat.BMP: _bmp,
}
