"""How large an image may be, in bytes and pixels, and what is said of one that is larger."""

import tracemalloc

import pytest
from PIL import Image

from stages.contract.errors import InvalidRequest, TooLarge
from stages.images.image import inspect
from stages.images.image_header import read_header
from tests.stages.image_files import (
    FORMATS,
    gif_with_first_frame,
    jpeg_with_size,
    png,
    quarters,
    save,
    webp_with_canvas,
)
from tests.stages.images.reading import MEGA, PARAM, look, read, refusal


@pytest.mark.parametrize("format", FORMATS)
def test_a_header_is_read_through_a_view_as_well(format: str) -> None:
    data = save(quarters(), format)
    assert read_header(memoryview(data)) == read_header(data)


@pytest.mark.parametrize("format", FORMATS)
def test_exactly_at_the_limits_an_image_is_accepted(format: str) -> None:
    data = save(quarters(), format)
    assert look(data, max_bytes=len(data), max_pixels=40 * 24).width == 40
    assert read(data, max_pixels=40 * 24).size == (40, 24)


@pytest.mark.parametrize("format", FORMATS)
def test_one_pixel_over_the_limit_is_refused_with_value_limit_and_setting(format: str) -> None:
    error = refusal(save(quarters(), format), max_pixels=40 * 24 - 1)
    assert isinstance(error, TooLarge)
    assert all(word in error.message for word in ("40 x 24", "960", "959", "limits.image_pixels"))


def test_one_byte_over_the_limit_is_refused_with_value_limit_and_setting() -> None:
    data = save(quarters(), "PNG")
    with pytest.raises(TooLarge) as caught:
        look(data, max_bytes=len(data) - 1)
    assert all(word in caught.value.message for word in (PARAM, str(len(data)), str(len(data) - 1), "limits.image_bytes"))


@pytest.mark.parametrize("size", [(1, 201), (201, 1), (2, 401)])
def test_a_line_of_pixels_is_refused_as_models_scale_by_the_shorter_side(size: tuple[int, int]) -> None:
    data = save(Image.new("RGB", size), "PNG")
    for read_it in (lambda: inspect(data, max_bytes=MEGA, max_pixels=MEGA, param="image"), lambda: read(data)):
        with pytest.raises(InvalidRequest, match="one side is more than 200 times the other"):
            read_it()
    assert read(save(Image.new("RGB", (1, 200)), "PNG")).size == (1, 200)


@pytest.mark.parametrize(
    "bomb",
    [
        png(50_000, 50_000, b""),
        png(2**31 - 1, 2**31 - 1, b""),
        jpeg_with_size(65_000, 65_000),
        webp_with_canvas(16_000, 16_000),
        gif_with_first_frame(60_000, 60_000),
        b"GIF89a" + b"\xff" * 4 + b"\0\0\0,",
        b"BM" + bytes(12) + (40).to_bytes(4, "little") + (2**31 - 1).to_bytes(4, "little") * 2 + bytes(28),
    ],
    ids=["png", "png of 2^62 pixels", "jpeg", "webp", "gif frame", "gif screen", "bmp"],
)
def test_a_file_that_says_it_is_huge_is_refused_before_it_is_decoded(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        assert isinstance(refusal(bomb), TooLarge)
        assert tracemalloc.get_traced_memory()[1] < 8 * MEGA
    finally:
        tracemalloc.stop()


def test_an_image_within_our_limit_but_beyond_pillows_is_refused_too() -> None:
    assert isinstance(refusal(png(20_000, 20_000, b""), max_pixels=10**9), TooLarge)


def test_a_huge_image_behind_a_small_second_frame_header_is_seen() -> None:
    honest = save(quarters(), "JPEG")
    at = honest.index(b"\xff\xc0")
    frame = bytearray(honest[at : at + 19])
    frame[5:9] = b"\xff\xff\xff\xff"
    assert isinstance(refusal(honest[:at] + bytes(frame) + honest[at:]), TooLarge)
