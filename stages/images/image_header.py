"""What an encoded image says of itself: its format and its size in pixels, before any decoder sees it; and what of it a decoder is
to see.

Pure, and trusts nothing: some decoders allocate the whole canvas when they are merely opened, and others walk millions of tiny
pieces, so size and structure are read here first.
Knows no limits and decodes no pixels. PNG, JPEG, WebP, AVIF, GIF and BMP; nothing else is an image. What each looks like is in
`stages/images/formats/`.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stages.images.formats import avif, bmp, gif, jpeg, png, webp
from stages.images.formats.essence import BadHeader, Essence, ImageFormat

_SIZES: Mapping[ImageFormat, Callable[[bytes | memoryview], tuple[int, int]]] = {
    ImageFormat.PNG: png.size,
    ImageFormat.JPEG: jpeg.size,
    ImageFormat.WEBP: webp.size,
    ImageFormat.GIF: gif.size,
    ImageFormat.BMP: bmp.size,
    ImageFormat.AVIF: avif.size,
}
_ESSENCES: Mapping[ImageFormat, Callable[[bytes], Essence]] = {
    ImageFormat.PNG: png.essence,
    ImageFormat.JPEG: jpeg.essence,
    ImageFormat.WEBP: webp.essence,
    ImageFormat.GIF: gif.essence,
    ImageFormat.BMP: bmp.essence,
    ImageFormat.AVIF: avif.essence,
}


@dataclass(frozen=True, slots=True)
class Header:
    """As stored: before EXIF orientation. Pixels; both at least 1."""

    format: ImageFormat
    width: int
    height: int


def sniff(data: bytes | memoryview) -> ImageFormat | None:
    """The format that the magic bytes tell, or None."""
    magic = bytes(data[:12])
    if magic.startswith(b"\x89PNG\r\n\x1a\n"):
        return ImageFormat.PNG
    if magic.startswith(b"\xff\xd8\xff"):
        return ImageFormat.JPEG
    if magic.startswith((b"GIF87a", b"GIF89a")):
        return ImageFormat.GIF
    if magic.startswith(b"RIFF") and magic[8:] == b"WEBP":
        return ImageFormat.WEBP
    if magic.startswith(b"BM"):
        return ImageFormat.BMP
    if avif.is_avif(data):
        return ImageFormat.AVIF
    return None


def read_header(data: bytes | memoryview) -> Header:
    """Copies nothing of the image, and looks at little of it. Raises `BadHeader`."""
    found = sniff(data)
    if found is None:
        raise BadHeader("its first bytes are not those of a PNG, JPEG, WebP, AVIF, GIF or BMP")
    try:
        width, height = _SIZES[found](data)
    except (struct.error, IndexError) as error:
        raise BadHeader(f"its {found} header is cut off") from error
    if width < 1 or height < 1:
        raise BadHeader(f"its {found} header says {width} x {height} pixels")
    return Header(found, width, height)


def essence_of(data: bytes, header: Header) -> Essence:
    """What a decoder is to see of it. Raises `BadHeader`."""
    try:
        return _ESSENCES[header.format](data)
    except (struct.error, IndexError) as error:
        raise BadHeader(f"its {header.format} header is cut off") from error
