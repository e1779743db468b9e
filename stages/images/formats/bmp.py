"""BMP: its size, and that its pixels are there, as they are. Pure.

Run-length compression is refused: Pillow decodes it in Python, and a kilobyte of it may stand for any number of pixels.

Source: BITMAPCOREHEADER, BITMAPINFOHEADER.
"""

import struct

from stages.images.formats.essence import BadHeader, Essence

_CORE_HEADER_BYTES = 12
_COMPRESSIONS = {1: "RLE8", 2: "RLE4", 4: "JPEG", 5: "PNG"}


def size(data: bytes | memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH" if _header_bytes(data) == _CORE_HEADER_BYTES else "<ii", data, 18)
    return width, abs(height)  # negative: rows from the top


def essence(data: bytes) -> Essence:
    """All of it. Raises `BadHeader`."""
    is_core = _header_bytes(data) == _CORE_HEADER_BYTES
    pixel_bits, compression = struct.unpack_from("<H", data, 24 if is_core else 28)[0], 0
    if not is_core:
        (compression,) = struct.unpack_from("<I", data, 30)
    if compression in _COMPRESSIONS:
        raise BadHeader(
            f"its BMP is compressed ({_COMPRESSIONS[compression]}), which is not read here; send it uncompressed, or as PNG"
        )
    width, height = size(data)
    row_bytes = (width * pixel_bits + 31) // 32 * 4
    if row_bytes * (height - 1) > len(data):
        raise BadHeader(f"its BMP is truncated: {height} rows of {row_bytes} bytes don't fit into {len(data)} bytes")
    return Essence(data)


def _header_bytes(data: bytes | memoryview) -> int:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    return int(header_bytes)
