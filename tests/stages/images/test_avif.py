"""AVIF files, honest and hostile: what a decoder sees of them is one image, of frames no larger than they say."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from stages.contract.errors import InvalidRequest, TooLarge
from stages.images.formats import avif
from stages.images.formats.av1 import check_frames
from stages.images.formats.essence import BadHeader
from stages.images.image import decoded, decoded_alpha, inspect
from tests.stages.image_files import pixels_of, quarters, save

PLAIN = save(quarters(), "AVIF")


def read(data: bytes, max_pixels: int = 10_000) -> Image.Image:
    with decoded(data, max_pixels=max_pixels, param="image") as image:
        return image.copy()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_it_says(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    turned = read(save(quarters(), "PNG", exif=exif))
    exif = Image.Exif()
    exif[0x112] = orientation
    data = save(quarters(), "AVIF", exif=exif)
    info = inspect(data, max_bytes=10_000, max_pixels=10_000, param="image")
    assert (info.width, info.height) == turned.size
    assert np.abs(pixels_of(read(data)) - pixels_of(turned)).mean() < 3


def test_its_transparency_is_read_and_laid_over_white() -> None:
    image = quarters()
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    data = save(image, "AVIF")
    with decoded_alpha(data, max_pixels=10_000, param="image") as found:
        assert np.abs(np.asarray(found).astype(int) - np.asarray(alpha)).mean() < 3
    assert np.abs(pixels_of(read(data)) - pixels_of(read(save(image, "PNG")))).mean() < 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_of_what_it_holds_the_image_is_left(mode: str) -> None:
    given = save(quarters().convert(mode), "AVIF", icc_profile=b"x" * 5000, xmp=b"<x/>" * 1000)
    essence = avif.essence(given).data
    assert len(essence) < len(given) - 8000
    assert b"<x/>" not in essence
    assert b"x" * 100 not in essence


def test_of_a_sequence_the_still_image_is_left() -> None:
    frames = [quarters().transpose(Image.Transpose.ROTATE_180) for _ in range(3)]
    data = save(quarters(), "AVIF", save_all=True, append_images=frames)
    assert np.abs(pixels_of(read(data)) - pixels_of(quarters())).mean() < 3


def test_more_pixels_than_allowed_are_refused_before_anything_is_decoded() -> None:
    with pytest.raises(TooLarge, match=r"40 x 24 = 960 pixels; at most 900 \(limits\.image_pixels\)"):
        inspect(PLAIN, max_bytes=10_000, max_pixels=900, param="image")


def test_frames_larger_than_the_file_says_are_refused() -> None:
    at = PLAIN.index(b"ispe") + 8
    lying = PLAIN[:at] + struct.pack(">II", 20, 24) + PLAIN[at + 8 :]
    with pytest.raises(InvalidRequest, match="of 20 x 24 pixels, and its code of 40 x 24"):
        read(lying)


def test_frames_without_end_and_without_a_size_are_refused() -> None:
    frame, sequence = b"\x32\x00", b"\x0a\x0a" + bytes(10)
    with pytest.raises(BadHeader, match="before it says their size"):
        check_frames(frame, 10, 10)
    with pytest.raises(BadHeader):
        check_frames(sequence + frame * 100, 2**16, 2**16)
    with pytest.raises(BadHeader, match="too many pieces"):
        check_frames(b"\x12\x00" * 10_000, 10, 10)
    with pytest.raises(BadHeader, match="no frame"):
        check_frames(b"", 10, 10)


def test_a_file_that_is_cut_off_anywhere_is_refused_as_such() -> None:
    for length in range(0, len(PLAIN), 7):
        with pytest.raises(InvalidRequest, match="image: not an image that can be read"):
            read(PLAIN[:length])


def test_a_file_with_any_byte_changed_is_read_or_refused() -> None:
    for at in range(0, len(PLAIN), 3):
        damaged = PLAIN[:at] + bytes([PLAIN[at] ^ 0xFF]) + PLAIN[at + 1 :]
        with suppress(InvalidRequest):
            width, height = read(damaged).size
            assert width * height <= 10_000


def test_a_grid_of_images_is_refused_by_name() -> None:
    grid = PLAIN.replace(b"av01Color", b"gridColor")
    with pytest.raises(InvalidRequest, match="not one coded image"):
        read(grid)
