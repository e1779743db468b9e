"""PNG: its size, its essence (one IDAT, its palette and what of it is transparent), and whether its rows are all there. Pure.

Of an animation the still image is left, of text, profiles and unknown chunks nothing.

Source: PNG (W3C, 3rd edition), 5.3, 8, 11.2 and 11.3; deflate (RFC 1951), 3.2.6.
"""

import struct
import zlib
from collections.abc import Callable, Iterator

from stages.images.formats import exif
from stages.images.formats.essence import MAX_PIECES, BadHeader, Essence

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE_BYTES = 4 << 20
_PACKED_BYTES = 64 << 10  # looked at between two looks at what came of it
_MOST_BITS = 9  # for a byte: of deflate's own codes the longest; a tool that chooses never needs more than 8
_KEPT = {b"IHDR": 13, b"PLTE": 768, b"tRNS": 256}  # with the most bytes that they may hold
_BYTES_A_PIXEL_CHUNK = 512  # far less than any encoder writes; each is a step in Python


def size(data: bytes | memoryview) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if length != 13 or kind != b"IHDR":
        raise BadHeader("its PNG header does not begin with IHDR")
    return width, height


def essence(data: bytes) -> Essence:
    """Raises `BadHeader`."""
    kept: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    orientation, is_among_pixels = exif.UPRIGHT, False
    for kind, chunk in _chunks(data):
        if kind == b"IDAT" and (is_among_pixels or not pixels):
            pixels.append(_content(chunk))
        elif kind == b"eXIf":
            orientation = exif.orientation(_content(chunk))
        elif kind in _KEPT and kind not in kept and not pixels:
            if len(chunk) > _KEPT[kind] + 12:
                raise BadHeader(f"its PNG has {len(chunk) - 12} bytes of {kind.decode()}; at most {_KEPT[kind]}")
            kept[kind] = bytes(chunk)
        is_among_pixels = kind == b"IDAT"
    if not pixels:
        raise BadHeader("its PNG has no pixels")
    length = struct.pack(">I", sum(map(len, pixels)))
    # Decoders don't look at the checksum of pixels, which have one of their own.
    return Essence(b"".join([_SIGNATURE, *kept.values(), length, b"IDAT", *pixels, bytes(4), _END]), orientation)


def check_rows(data: bytes, pause: Callable[[], None]) -> None:
    """Raises `BadHeader` for an essence whose pixels end before its last row: decoders leave the rest black and say nothing. `pause` is
    called every few megabytes, and may raise."""
    try:
        width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
        passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
        missing = sum(_pass_bytes(width, height, depth * _SAMPLES[colour], *each) for each in passes)
        packed = next(_content(chunk) for kind, chunk in _chunks(data) if kind == b"IDAT")
        for num in _inflated(packed):
            missing -= num
            pause()
            if missing <= 0:
                break
    except (struct.error, KeyError, zlib.error) as error:
        raise BadHeader(f"its PNG pixels are damaged: {error}") from error
    if missing > 0:
        raise BadHeader(f"its PNG is truncated: {missing} bytes of its {width} x {height} pixels are missing")


def _inflated(packed: memoryview) -> Iterator[int]:
    """How many bytes there are, some megabytes at a time. Raises `BadHeader` where there are fewer of them than the worst encoding takes to
    hold them: of pieces that stand for nothing a file may have millions, each of which costs more time than a pixel."""
    inflate, num_out = zlib.decompressobj(), 0
    for start in range(0, len(packed), _PACKED_BYTES):
        piece: bytes | memoryview = packed[start : start + _PACKED_BYTES]
        while piece:
            num = len(inflate.decompress(piece, _INFLATE_BYTES))
            num_out += num
            yield num
            piece = inflate.unconsumed_tail
        if inflate.eof:
            return
        if start > num_out * _MOST_BITS // 8 + _PACKED_BYTES:
            raise BadHeader(f"its PNG has {start} bytes of pixels or more that hold only {num_out}")
    while num := len(inflate.decompress(b"", _INFLATE_BYTES)):
        yield num


def _chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


_END = _chunk(b"IEND")


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind, and the whole chunk with its length and checksum. The last one may be cut off."""
    view, position, num_pixel_chunks, num_others = memoryview(data), 8, 0, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in (b"IDAT", b"fdAT", b"fcTL"):
            num_pixel_chunks += 1
        else:
            num_others += 1
        if num_others > MAX_PIECES or num_pixel_chunks > MAX_PIECES + len(data) // _BYTES_A_PIXEL_CHUNK:
            raise BadHeader(f"its PNG is cut into {num_others + num_pixel_chunks} chunks or more")
        yield kind, view[position : position + length + 12]
        position += length + 12
        if kind == b"IEND":
            return


def _content(chunk: memoryview) -> memoryview:
    return chunk[8 : 8 + int.from_bytes(chunk[:4])]


def _pass_bytes(width: int, height: int, pixel_bits: int, left: int, top: int, step_x: int, step_y: int) -> int:
    """Raw bytes of one pass: each row is a filter byte and its pixels, rounded up; an empty pass has none."""
    columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
    return rows * (1 + (columns * pixel_bits + 7) // 8) if columns > 0 and rows > 0 else 0
