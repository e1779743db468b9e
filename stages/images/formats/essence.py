"""What the readers of all formats share: what they find, what they refuse, and how many pieces they walk.

A file holds more than its pixels: profiles, comments, thumbnails, further frames. Decoders parse those in Python, expand them and
follow their references, so a file of a kilobyte may cost seconds. An `Essence` is what is left for a decoder to see.
"""

from dataclasses import dataclass
from enum import StrEnum


class ImageFormat(StrEnum):
    """The value is the name of Pillow's plugin."""

    PNG = "PNG"
    JPEG = "JPEG"
    WEBP = "WEBP"
    GIF = "GIF"
    BMP = "BMP"
    AVIF = "AVIF"


class BadHeader(ValueError):
    """The first bytes are no image's, or contradict themselves."""


MAX_PIECES = 1000
"""Chunks, segments, blocks beside the pixels: decoders walk them slowly, one by one, and an image made in earnest has a
hundred.
"""


@dataclass(frozen=True, slots=True)
class Essence:
    """A file of the same format with nothing in it but its first image. `orientation`: EXIF's, 1-8. `tables`: what decoding may
    take beside the pixels, as so many pixels."""

    data: bytes
    orientation: int = 1
    tables: int = 0
