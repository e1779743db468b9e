"""Encoded images from strangers: what is accepted, and how it becomes pixels. And the way back, for images we made.

Decides which formats are images, that nothing is decoded before its size is known to be within the limits and there is room for its
pixels in this process, and what RGB means for images with an orientation, transparency, 16 bits or CMYK. Knows no HTTP and no model.
Everything here is CPU work (milliseconds to a second): keep it off event loops. Work that nobody waits for any more stops between
blocks of the file, of about a million pixels each, and bands of the image (`stages/contract/wanted.py`). What can't be stopped is one
call of a codec that takes the file as a whole (WebP), or paints once it has read all of it (progressive JPEG).
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageFile, ImageOps

from stages.contract.errors import InvalidRequest, TooLarge, TriptychError
from stages.contract.wanted import stop_if_unwanted
from stages.images.formats.essence import BadHeader, Essence, ImageFormat
from stages.images.formats.png import check_rows
from stages.images.image_header import Header, essence_of, read_header
from stages.images.pixel_budget import PixelBudget, pixels_of_this_process

OutputFormat = Literal["png", "jpeg", "webp"]

MAX_PROPORTION = 200
"""Of the longer side to the shorter one. Models scale an image by its shorter side: a line of pixels would become gigabytes."""
_BAND_PIXELS = 1 << 20
_BLOCK_BYTES = range(1 << 10, 1 << 16)
"""Of a file, read at a time. A block of Pillow's own size holds all of a large image that is easily compressed."""
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """`width` and `height` in pixels as the image is to be seen: after EXIF orientation."""

    format: ImageFormat
    width: int
    height: int


def inspect(data: bytes, *, max_bytes: int, max_pixels: int, param: str) -> ImageInfo:
    """Checks an image without decoding its pixels. `param` is the request's field, for messages.

    Raises `TooLarge` over `max_bytes` (`limits.image_bytes`) or `max_pixels` (`limits.image_pixels`), `InvalidRequest` for
    what is no PNG, JPEG, WebP, AVIF, GIF or BMP, and for what is longer than `MAX_PROPORTION`. A file that is cut off or lies may still
    fail in `decode`.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"{param}: the image has {len(data)} bytes; at most {max_bytes} (limits.image_bytes)", param=param)
    with _read(data, max_pixels, param) as (header, essence), _opened(essence, header, max_pixels, param) as image:
        width, height = image.size
        if essence.orientation >= 5:
            width, height = height, width
        return ImageInfo(header.format, width, height)


@contextmanager
def decoded(data: bytes, *, max_pixels: int, param: str, budget: PixelBudget | None = None) -> Iterator[Image.Image]:
    """The image in mode RGB: its first frame, turned as EXIF says, over white where it is transparent. To be used inside: its pixels
    count among those that this process decodes (`budget`; None: the process's own).

    Raises `TooLarge` over `max_pixels`, before anything is decoded, and for what `limits.pixels_in_flight` has never room for;
    `InvalidRequest` for a file that is none, is cut off or lies, and for what is longer than `MAX_PROPORTION`; `Overloaded` where
    others need all the room for too long; `Cancelled` once nobody waits for it.
    """
    with _decoded(data, _over_white, max_pixels, param, budget) as image:
        yield image


@contextmanager
def decoded_alpha(data: bytes, *, max_pixels: int, param: str, budget: PixelBudget | None = None) -> Iterator[Image.Image]:
    """How opaque the image is, in mode L: its first frame, turned as EXIF says. As `decoded`; `InvalidRequest` also for an image without
    transparency."""
    with _decoded(data, partial(_alpha, param), max_pixels, param, budget) as image:
        yield image


@contextmanager
def _decoded(
    data: bytes, wanted: Callable[[Image.Image], Image.Image], max_pixels: int, param: str, budget: PixelBudget | None
) -> Iterator[Image.Image]:
    """What is wanted of the image's pixels."""
    stop_if_unwanted()
    with _read(data, max_pixels, param) as (header, essence):
        pixels = header.width * header.height
    budget = budget or pixels_of_this_process()
    with budget.hold(max(pixels, min(pixels + essence.tables, budget.max_pixels)), param=param):
        with _faults_named(max_pixels, param):
            image = _upright(header, essence, wanted, max_pixels, param)
        yield image


def _upright(
    header: Header, essence: Essence, wanted: Callable[[Image.Image], Image.Image], max_pixels: int, param: str
) -> Image.Image:
    if header.format is ImageFormat.PNG:
        check_rows(essence.data, stop_if_unwanted)
    with _opened(essence, header, max_pixels, param) as image:
        image.load()
        stop_if_unwanted()
        flat = wanted(_eight_bit(image))
    del image  # of a WebP it holds the canvas twice
    transpose = _TRANSPOSES.get(essence.orientation)
    stop_if_unwanted()
    return flat if transpose is None else flat.transpose(transpose)


def fit(image: Image.Image, width: int, height: int, *, sharply: bool = False) -> NDArray[np.uint8]:
    """[height, width, 3] uint8 of an image in mode RGB, [height, width] of one in mode L: scaled to cover that size with its proportions
    kept, and cut about its middle where they differ. An image of that size stays as it is. Lanczos, as the diffusion library scales;
    `sharply`: no pixel is a mixture of others."""
    how = Image.Resampling.NEAREST if sharply else Image.Resampling.LANCZOS
    fitted = image if image.size == (width, height) else ImageOps.fit(image, (width, height), how)
    return np.array(fitted, dtype=np.uint8)


def encode(pixels: NDArray[np.uint8], format: OutputFormat, *, quality: int = 90) -> bytes:
    """Encodes [height, width, 3] uint8. `quality` (1-100) is for jpeg and webp; png is lossless. Raises `ValueError`."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels: {pixels.dtype} {list(pixels.shape)} is not uint8 [height, width, 3]")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality: {quality} is not within 1-100")
    image, out = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    if format == "png":
        image.save(out, "PNG", compress_level=4)  # a third of the default's time for 3 % more bytes
    else:
        image.save(out, format.upper(), quality=quality)
    return out.getvalue()


class _WatchedFile(io.BytesIO):
    """Ends the decoder that reads it once nobody waits for the image."""

    def read(self, size: int | None = -1, /) -> bytes:
        stop_if_unwanted()
        return super().read(size)


@contextmanager
def _read(data: bytes, max_pixels: int, param: str) -> Iterator[tuple[Header, Essence]]:
    """What there is to decode, of a size within the limits."""
    with _faults_named(max_pixels, param):
        header = read_header(data)
        _check_size(header.width, header.height, max_pixels, param)
        yield header, essence_of(data, header)


@contextmanager
def _opened(essence: Essence, header: Header, max_pixels: int, param: str) -> Iterator[ImageFile.ImageFile]:
    """The image, opened but not decoded, by the plugin of its own format and no other."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # as all others; of its own it takes every core
    with Image.open(_WatchedFile(essence.data), formats=[header.format.value]) as image:
        _check_size(*image.size, max_pixels, param)
        image.decodermaxblock = _block_bytes(len(essence.data), image.width * image.height)
        yield image


def _block_bytes(num_bytes: int, pixels: int) -> int:
    """As many of the file's bytes as hold about a band of its pixels."""
    return min(max(num_bytes * _BAND_PIXELS // pixels, _BLOCK_BYTES.start), _BLOCK_BYTES.stop)


@contextmanager
def _faults_named(max_pixels: int, param: str) -> Iterator[None]:
    """Whatever the body raises about the file's content is the request's fault."""
    try:
        yield
    except (TriptychError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, where ours is higher or a frame outgrows its header
        raise TooLarge(f"{param}: the image is too large: {error} (limits.image_pixels: {max_pixels})", param=param) from error
    except BadHeader as error:
        raise InvalidRequest(f"{param}: not an image that can be read: {error}", param=param) from error
    except Exception as error:  # plugins raise a dozen kinds of errors for hostile files, and none of them is ours
        why = f"{type(error).__name__}: {error}"
        raise InvalidRequest(
            f"{param}: not an image that can be read: {_reason(error)}", param=param, detail=why[:200]
        ) from error


def _reason(error: Exception) -> str:
    """For the client: what a plugin said of the file, which it does in these classes; others speak of the code."""
    text = str(error)
    is_of_the_file = isinstance(error, OSError | SyntaxError | EOFError) and text and "object at 0x" not in text
    return text[:200] if is_of_the_file else "it is damaged"


def _check_size(width: int, height: int, max_pixels: int, param: str) -> None:
    pixels = width * height
    if pixels > max_pixels:
        message = f"{param}: the image has {width} x {height} = {pixels} pixels; at most {max_pixels} (limits.image_pixels)"
        raise TooLarge(message, param=param)
    if max(width, height) > MAX_PROPORTION * min(width, height):
        message = f"{param}: the image has {width} x {height} pixels: one side is more than {MAX_PROPORTION} times the other"
        raise InvalidRequest(message, param=param)


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit greyscale as L or LA: Pillow's own conversion would clip it to white. The high byte, as for 16-bit colour."""
    if not image.mode.startswith("I"):
        return image
    grey: NDArray[Any] = np.asarray(image)
    high = Image.fromarray((grey >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is None:
        return high
    return Image.merge("LA", (high, Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8))))


def _alpha(param: str, image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        raise InvalidRequest(f"{param}: it has no transparency (alpha), which says what is to be painted", param=param)
    return image.convert("RGBA").getchannel("A")


def _over_white(image: Image.Image) -> Image.Image:
    """In bands, since mixing takes several times the memory of the result, and the interpreter's lock."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    flat = Image.new("RGB", image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        stop_if_unwanted()
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        white = Image.new("RGBA", band.size, "white")
        white.alpha_composite(band.convert("RGBA"))
        flat.paste(white.convert("RGB"), (0, top))
    return flat
