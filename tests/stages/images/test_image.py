"""Images from strangers: honest ones become RGB, hostile ones a message, and nothing is decoded before its size is known."""

import numpy as np
import pytest
from PIL import Image

from stages.images.formats.essence import ImageFormat
from stages.images.image import ImageInfo, encode, fit
from tests.stages.image_files import (
    BLUE,
    FORMATS,
    GREEN,
    RED,
    WHITE,
    chunk,
    pixels_of,
    png,
    quarters,
    save,
)
from tests.stages.images.reading import half_transparent, look, oriented, read


@pytest.mark.parametrize("format", FORMATS)
def test_every_accepted_format_is_told_by_its_bytes_and_becomes_rgb(format: str) -> None:
    data = save(quarters(), format)
    assert look(data) == ImageInfo(ImageFormat[format], 40, 24)
    assert np.abs(pixels_of(read(data)) - pixels_of(quarters())).max() <= 8


def test_lossy_webp_is_read_too() -> None:
    data = save(quarters(), "WEBP", lossless=False, quality=95)
    assert look(data) == ImageInfo(ImageFormat.WEBP, 40, 24)
    assert read(data).size == (40, 24)


def test_top_down_bitmaps_are_read() -> None:
    data = bytearray(save(quarters(), "BMP"))
    data[22:26] = (-24).to_bytes(4, "little", signed=True)
    assert look(bytes(data)) == ImageInfo(ImageFormat.BMP, 40, 24)
    assert read(bytes(data)).getpixel((0, 0)) == BLUE


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "corners"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
        (9, [RED, GREEN, BLUE, WHITE]),
    ],
)
def test_exif_orientation_is_honoured(format: str, orientation: int, corners: list[tuple[int, int, int]]) -> None:
    data = oriented(format, orientation)
    image = read(data)
    assert (look(data).width, look(data).height) == image.size == ((24, 40) if 5 <= orientation <= 8 else (40, 24))
    right, bottom = image.width - 1, image.height - 1
    seen = [image.getpixel(at) for at in ((0, 0), (right, 0), (0, bottom), (right, bottom))]
    assert np.abs(np.array(seen, np.int16) - np.array(corners)).max() <= 8


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning")  # Pillow's own
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_damaged_exif_means_upright(exif: bytes) -> None:
    data = save(quarters(), "JPEG", exif=exif)
    assert (look(data).width, read(data).size) == (40, (40, 24))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF"])
def test_transparency_shows_white(format: str) -> None:
    image = read(save(half_transparent(), format))
    assert (image.getpixel((1, 1)), image.getpixel((6, 6))) == (RED, WHITE)


def test_half_transparency_is_mixed_with_white() -> None:
    image = read(save(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))
    assert image.getpixel((0, 0)) == (127, 127, 127)


def test_transparent_greyscale_shows_white() -> None:
    image = read(save(Image.merge("LA", (Image.new("L", (4, 4), 50), Image.new("L", (4, 4), 0))), "PNG"))
    assert image.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_transparent_palette_entries_show_white(transparency: int | bytes) -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *BLUE])
    palette.paste(0, (0, 0, 4, 8))
    image = read(save(palette, "PNG", transparency=transparency))
    assert (image.getpixel((1, 1)), image.getpixel((6, 6))) == (WHITE, BLUE)


@pytest.mark.parametrize(("mode", "ink", "transparency"), [("L", 7, 7), ("1", 0, 0), ("RGB", GREEN, GREEN)])
def test_a_colour_declared_transparent_shows_white(mode: str, ink: object, transparency: object) -> None:
    image = read(save(Image.new(mode, (4, 4), ink), "PNG", transparency=transparency))  # type: ignore[arg-type]
    assert image.getpixel((0, 0)) == WHITE


def test_sixteen_bit_greyscale_keeps_its_brightness() -> None:
    grey = np.array([[0, 0x4000, 0x8000, 0xFFFF]], np.uint16)
    image = read(save(Image.fromarray(grey), "PNG"))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 0x40, 0x80, 0xFF)]


def test_a_sixteen_bit_grey_declared_transparent_shows_white() -> None:
    rows = b"\0" + b"\x10\x01" + b"\x10\x02"
    image = read(png(2, 1, rows, depth=16, colour=0, before=chunk(b"tRNS", b"\x10\x01")))
    assert [image.getpixel((x, 0)) for x in range(2)] == [WHITE, (16, 16, 16)]


def test_sixteen_bit_colour_keeps_its_colour() -> None:
    image = read(png(1, 1, b"\0" + b"\x80\x00\x40\x00\xff\xff", depth=16))
    assert image.getpixel((0, 0)) == (0x80, 0x40, 0xFF)


def test_cmyk_becomes_rgb() -> None:
    image = read(save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    pixel = image.getpixel((8, 8))
    assert np.abs(np.array(pixel, np.int16) - RED).max() <= 8


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (GREEN, RED, BLUE)]
    data = save(frames[0], format, save_all=True, append_images=frames[1:], duration=10)
    assert look(data) == ImageInfo(ImageFormat[format], 16, 16)
    assert read(data).getpixel((8, 8)) == GREEN


def test_a_phones_file_of_several_images_is_read_as_its_first() -> None:
    data = save(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 24), RED)])
    assert look(data) == ImageInfo(ImageFormat.JPEG, 40, 24)
    assert read(data).getpixel((0, 23)) != read(data).getpixel((39, 23))


def test_an_image_of_the_size_stays_as_it_is() -> None:
    assert (fit(quarters(64, 48), 64, 48) == pixels_of(quarters(64, 48))).all()


@pytest.mark.parametrize("size", [(32, 32), (96, 16), (16, 96), (200, 200)])
def test_an_image_is_scaled_with_its_proportions_and_cut_about_its_middle(size: tuple[int, int]) -> None:
    pixels = fit(quarters(64, 48), *size)
    width, height = size
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8
    corners = [tuple(int(value) for value in pixels[y, x]) for y in (0, height - 1) for x in (0, width - 1)]
    assert corners == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_pixels_come_back_from_the_file_they_were_encoded_to(format: str) -> None:
    pixels = np.asarray(quarters(64, 64))
    data = encode(pixels, format, quality=95)  # type: ignore[arg-type]
    assert look(data) == ImageInfo(ImageFormat[format.upper()], 64, 64)
    difference = np.abs(pixels_of(read(data)) - pixels)
    assert difference.max() == 0 if format == "png" else difference.mean() < 4


def test_lower_quality_gives_a_smaller_file() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert len(encode(pixels, "jpeg", quality=20)) < len(encode(pixels, "jpeg", quality=95))
    assert len(encode(pixels, "webp", quality=20)) < len(encode(pixels, "webp", quality=95))


def test_pixels_in_any_memory_layout_are_encoded() -> None:
    pixels = np.asarray(quarters())[::-1, ::2]
    assert (pixels_of(read(encode(pixels, "png"))) == pixels).all()


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (3, 4, 4), (1, 4, 4, 3)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="height, width, 3"):
        encode(np.zeros(shape, np.uint8), "png")


def test_pixels_of_another_dtype_and_qualities_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        encode(np.zeros((4, 4, 3), np.float32), "png")  # type: ignore[arg-type,unused-ignore]
    with pytest.raises(ValueError, match="quality: 101"):
        encode(np.zeros((4, 4, 3), np.uint8), "jpeg", quality=101)
