"""Real image files, made to measure, honest and hostile."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP"]  # AVIF: `test_avif.py`


def quarters(width: int = 40, height: int = 24) -> Image.Image:
    """Four coloured quarters, so that every orientation is told apart: red, green / blue, white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = WHITE
    return Image.fromarray(pixels)


def save(image: Image.Image, format: str, **options: Any) -> bytes:
    if format == "JPEG":
        options = {"quality": 95, "subsampling": 0} | options
    if format == "AVIF":
        options = {"quality": 100, "subsampling": "4:4:4", "speed": 8} | options
    if format == "WEBP":
        options = {"lossless": True} | options
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def pixels_of(image: Image.Image) -> NDArray[np.int16]:
    """[height, width, 3], signed so that differences can be taken."""
    return np.asarray(image).astype(np.int16)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG whose header says `width` x `height`, whatever `rows` (filter byte and samples of each row) hold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows, 9)) + after + chunk(b"IEND", b"")


def jpeg_with_size(width: int, height: int) -> bytes:
    """A small JPEG whose frame header says another size."""
    data = bytearray(save(quarters(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_with_canvas(width: int, height: int) -> bytes:
    """A small WebP in the extended format, whose canvas says another size."""
    data = bytearray(save(quarters(), "WEBP", exif=Image.Exif().tobytes() or b"Exif\0\0"))
    if data[12:16] != b"VP8X":
        raise ValueError("not an extended WebP")
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def gif_with_first_frame(width: int, height: int) -> bytes:
    """A GIF of a small screen, whose first frame says that it is larger."""
    data = bytearray(save(quarters(), "GIF"))
    at = data.index(b",\0\0\0\0", 13)
    data[at + 5 : at + 9] = struct.pack("<HH", width, height)
    return bytes(data)
