"""Images as tests read them."""

import numpy as np
import pytest
from PIL import Image

from stages.contract.errors import InvalidRequest
from stages.images.image import ImageInfo, decoded, inspect
from tests.stages.image_files import (
    RED,
    quarters,
    save,
)

PARAM = "messages[0].content[1].image_url"
MEGA = 1_000_000


def look(data: bytes, max_bytes: int = MEGA, max_pixels: int = MEGA) -> ImageInfo:
    return inspect(data, max_bytes=max_bytes, max_pixels=max_pixels, param=PARAM)


def read(data: bytes, max_pixels: int = MEGA) -> Image.Image:
    with decoded(data, max_pixels=max_pixels, param=PARAM) as image:
        pass
    assert image.mode == "RGB"
    return image


def refusal(data: bytes, max_pixels: int = MEGA) -> InvalidRequest:
    """What both of them refuse. The error of the first that does."""
    with pytest.raises(InvalidRequest) as caught:
        look(data, max_pixels=max_pixels)
    with pytest.raises(InvalidRequest):
        read(data, max_pixels=max_pixels)
    assert caught.value.param == PARAM
    assert PARAM in caught.value.message
    return caught.value


def oriented(format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(quarters(), format, exif=exif)


def half_transparent() -> Image.Image:
    """Left half opaque red, right half fully transparent black."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (*RED, 255)
    return Image.fromarray(pixels)
