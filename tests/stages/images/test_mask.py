"""Which part of an image is to be painted: where its mask is transparent."""

import numpy as np
import pytest
from PIL import Image

from stages.contract.errors import InvalidRequest
from stages.images.mask import by_cells, painted
from tests.stages.image_files import save

SIZE = (40, 24)


def mask(hole: tuple[int, int, int, int], size: tuple[int, int] = SIZE, *, alpha: int = 0) -> Image.Image:
    """Opaque, but for the hole (left, top, right, bottom)."""
    image = Image.new("RGBA", size, (10, 20, 30, 255))
    image.paste((0, 0, 0, alpha), hole)
    return image


def read(data: bytes, size: tuple[int, int] = SIZE) -> list[tuple[int, int]]:
    """The corners of what is to be painted, as (x, y)."""
    found = np.argwhere(painted(data, *size, max_pixels=10_000, param="mask"))[:, ::-1]
    return [tuple(found.min(axis=0)), tuple(found.max(axis=0))]


@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF"])
def test_what_is_transparent_is_to_be_painted(format: str) -> None:
    assert read(save(mask((8, 4, 20, 12)), format)) == [(8, 4), (19, 11)]


def test_a_palette_and_a_transparent_colour_count_as_transparency() -> None:
    image = mask((8, 4, 20, 12))
    assert read(save(image.quantize(), "PNG")) == [(8, 4), (19, 11)]
    grey = Image.new("L", SIZE, 200)
    grey.paste(7, (8, 4, 20, 12))
    assert read(save(grey, "PNG", transparency=7)) == [(8, 4), (19, 11)]


@pytest.mark.parametrize(("alpha", "is_painted"), [(0, True), (127, True), (128, False), (255, False)])
def test_half_transparent_is_opaque(alpha: int, is_painted: bool) -> None:
    image = mask((0, 0, 1, 1))
    image.paste((0, 0, 0, alpha), (8, 4, 20, 12))
    found = painted(save(image, "PNG"), *SIZE, max_pixels=10_000, param="mask")
    assert bool(found[8, 10]) is is_painted


def test_it_is_turned_as_exif_says() -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn
    assert read(save(mask((0, 0, 10, 4)), "PNG", exif=exif), (24, 40)) == [(20, 0), (23, 9)]


def test_it_is_scaled_and_cut_as_its_image_is_and_stays_sharp() -> None:
    assert read(save(mask((8, 4, 20, 12)), "PNG"), (80, 48)) == [(16, 8), (39, 23)]
    assert read(save(mask((0, 0, 40, 12)), "PNG"), (24, 24)) == [(0, 0), (23, 11)]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (Image.new("RGB", SIZE), "mask: it has no transparency"),
        (Image.new("L", SIZE), "mask: it has no transparency"),
        (Image.new("RGBA", SIZE, (0, 0, 0, 255)), "nothing of it is transparent"),
    ],
)
def test_a_mask_that_lets_nothing_be_painted_is_refused(image: Image.Image, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        painted(save(image, "PNG"), *SIZE, max_pixels=10_000, param="mask")
    assert caught.value.param == "mask"


def test_a_cell_is_painted_where_any_of_its_pixels_is() -> None:
    pixels = np.zeros((16, 24), np.bool_)
    pixels[0, 0] = pixels[15, 23] = pixels[7, 8] = True
    expected = np.array([[[1, 1, 0], [0, 0, 1]]], np.float32)
    np.testing.assert_array_equal(by_cells(pixels, 8), expected)
