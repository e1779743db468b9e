"""Files that are almost images: read as what they say they are, or refused in words; and never past the limits."""

import io

import numpy as np
from hypothesis import given
from PIL import Image

from stages.contract.errors import InvalidRequest
from stages.images.formats.essence import BadHeader
from stages.images.image import ImageInfo, decoded, inspect
from stages.images.image_header import Header, read_header
from tests.fuzz.effort import effort
from tests.fuzz.mutations import mutated
from tests.stages.image_files import FORMATS, quarters, save

MAX_BYTES, MAX_PIXELS = 1 << 20, 1 << 16
PARAM = "messages[0].content[0].image_url"


def animated(format: str) -> bytes:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    return save(frames[0], format, save_all=True, append_images=frames[1:], duration=10)


def of_mode(mode: str, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    quarters().convert(mode).save(out, format, **options)
    return out.getvalue()


def with_exif(format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(quarters(), format, exif=exif)


SEEDS = [
    *(save(quarters(), format) for format in FORMATS),
    *(with_exif(format) for format in ("JPEG", "PNG", "WEBP", "AVIF")),
    *(animated(format) for format in ("GIF", "WEBP", "PNG", "AVIF")),
    save(quarters(), "AVIF"),
    *(of_mode(mode, "PNG") for mode in ("1", "L", "LA", "P", "RGBA")),
    *(of_mode(mode, "BMP") for mode in ("1", "L", "P")),
    save(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), "PNG"),
    of_mode("CMYK", "JPEG"),
    of_mode("RGB", "JPEG", progressive=True),
    of_mode("RGB", "WEBP", quality=20),
    of_mode("RGBA", "WEBP", lossless=True),
    of_mode("RGBA", "AVIF"),
]
PIECES = [
    *(b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"iCCP", b"zTXt", b"IEND"),
    *(b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda", b"\xff\xdb", b"\xff\xe1", b"\xff\xd8", b"\xff\xd9"),
    *(b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"\x2f", b"\x9d\x01\x2a"),
    *(b"GIF89a", b"\x21\xf9\x04", b"\x21\xff", b"\x2c", b"\x3b"),
    *(b"ftypavif", b"meta", b"iloc", b"ipma", b"\0\0\0\x14ispe", b"av1C", b"irot\1", b"\x0a\x0a", b"\x32", b"\x12\0"),
    *(b"BM", b"(\0\0\0", b"\x0c\0\0\0", b"\x01\0\0\0\x08", b"\x02\0\0\0", b"\x03\0\0\0"),
]
FILES = mutated(SEEDS, PIECES)


def looked_at(data: bytes) -> ImageInfo | InvalidRequest:
    try:
        return inspect(data, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS, param=PARAM)
    except InvalidRequest as error:
        return error


def read(data: bytes) -> Image.Image | InvalidRequest:
    try:
        with decoded(data, max_pixels=MAX_PIXELS, param=PARAM) as image:
            return image.copy()
    except InvalidRequest as error:
        return error


@effort(600)
@given(FILES)
def test_a_damaged_image_is_read_as_what_was_said_of_it_or_refused(data: bytes) -> None:
    info, image = looked_at(data), read(data)
    for refusal in (info, image):
        assert not isinstance(refusal, InvalidRequest) or (refusal.param == PARAM and PARAM in refusal.message)
    assert isinstance(info, InvalidRequest) or 0 < info.width * info.height <= MAX_PIXELS
    if not isinstance(image, InvalidRequest):
        assert isinstance(info, ImageInfo), "what can be decoded was let in"
        assert (image.mode, image.size) == ("RGB", (info.width, info.height))


def header_of(data: bytes | memoryview) -> Header | None:
    try:
        return read_header(data)
    except BadHeader:
        return None


@effort(600)
@given(FILES)
def test_the_first_bytes_tell_a_size_or_nothing_and_a_view_tells_the_same(data: bytes) -> None:
    header = header_of(data)
    assert header == header_of(memoryview(data))
    if header is not None:
        assert header.width >= 1
        assert header.height >= 1
