"""Images from strangers: honest ones become RGB, hostile ones a message, and nothing is decoded before its size is known."""

import tracemalloc
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.contract.errors import InvalidRequest, TooLarge
from stages.images import image as codecs
from stages.images.formats.essence import ImageFormat
from stages.images.image import ImageInfo, decoded, encode, fit, inspect
from stages.images.image_header import read_header
from tests.stages.image_files import (
    BLUE,
    FORMATS,
    GREEN,
    RED,
    WHITE,
    chunk,
    gif_with_first_frame,
    jpeg_with_size,
    pixels_of,
    png,
    quarters,
    save,
    webp_with_canvas,
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


# ---- honest files ----


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


def oriented(format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(quarters(), format, exif=exif)


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


def half_transparent() -> Image.Image:
    """Left half opaque red, right half fully transparent black."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (*RED, 255)
    return Image.fromarray(pixels)


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


# ---- limits ----


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


# ---- hostile files ----


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\0",
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8" + b"\xff" * 5000,
        b"GIF89a",
        b"GIF89a\1\0\1\0\0\0\0;",
        b"RIFF\0\0\0\0WEBP",
        b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\0\0\0\0\0",
        b"RIFF\0\0\0\0WEBPVP8 " + bytes(40),
        b"RIFF\0\0\0\0WEBPALPH" + bytes(40),
        b"BM",
        b"BM" + bytes(60),
        png(0, 5, b""),
        png(5, 0, b""),
        b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"a\0b"),
        b"<svg xmlns='http://www.w3.org/2000/svg' width='4' height='4'/>",
        b"<?xml version='1.0'?><svg/>",
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"II*\0\x08\0\0\0",
        b"\0\0\0\x20ftypavif",
        b"P6 4 4 255\n" + bytes(48),
        b"\0\0\1\0\1\0",
        b"hello, this is text",
        bytes(1000),
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert not isinstance(refusal(data), TooLarge)


@pytest.mark.parametrize("format", ["TIFF", "PPM", "ICO", "TGA", "PCX"])
def test_real_images_of_other_formats_are_refused(format: str) -> None:
    out = save(quarters(), format)
    assert "PNG, JPEG, WebP, AVIF, GIF or BMP" in refusal(out).message


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_file_that_is_cut_off_is_refused(format: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = save(noise, format)
    with pytest.raises(InvalidRequest, match="not an image that can be read"):
        read(data[: int(len(data) * kept)])


def test_a_file_that_holds_fewer_rows_than_it_says_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="truncated"):
        read(png(100, 100, b"\0" * 301))


@pytest.mark.parametrize(("depth", "mode"), [(1, "1"), (8, "L"), (8, "P"), (8, "LA"), (8, "RGBA"), (16, "I;16")])
def test_honest_pngs_of_every_kind_have_all_their_rows(depth: int, mode: str) -> None:
    assert read(save(Image.new("L", (13, 7)).convert(mode), "PNG")).size == (13, 7)


def test_an_interlaced_png_has_all_its_rows_and_is_told_when_one_byte_is_missing() -> None:
    rows = bytes(sum(row * (1 + 3 * column) for column, row in [(2, 1), (1, 1), (3, 1), (3, 2), (6, 1), (5, 3), (11, 2)]))
    # Adam7 passes of 11 x 5, from the specification's own table of starts and steps
    assert read(interlaced(11, 5, rows)).size == (11, 5)
    with pytest.raises(InvalidRequest, match="1 bytes of its 11 x 5"):
        read(interlaced(11, 5, rows[:-1]))


def interlaced(width: int, height: int, rows: bytes) -> bytes:
    data = png(width, height, rows)
    header = data[16:28] + b"\x01"
    return data[:8] + chunk(b"IHDR", header) + data[33:]


def test_a_file_that_holds_far_more_than_it_says_gives_what_it_says() -> None:
    data = png(2, 1, b"\0" + bytes([*RED, *GREEN]) + bytes(50 * MEGA))
    assert len(data) < 100_000
    image = read(data)
    assert (image.size, image.getpixel((0, 0))) == ((2, 1), RED)


@pytest.mark.parametrize("magic", FORMATS)
@pytest.mark.parametrize("content", FORMATS)
def test_magic_of_one_format_before_the_content_of_another_is_refused(magic: str, content: str) -> None:
    if magic == content:
        data = save(quarters(), magic)
        assert read(data).size == (40, 24)
    else:
        head = 12 if magic == "WEBP" else 8
        refusal(save(quarters(), magic)[:head] + save(quarters(), content)[head:])


ROW = b"\0" + bytes(RED)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_compressed_chunk_that_expands_a_thousandfold_is_not_expanded(kind: bytes) -> None:
    head = b"a\0\1\0\0\0" if kind == b"iTXt" else b"a\0\0"
    data = png(1, 1, ROW, before=chunk(kind, head + zlib.compress(bytes(50 * MEGA), 9)))
    tracemalloc.start()
    try:
        assert read(data).getpixel((0, 0)) == RED
        assert tracemalloc.get_traced_memory()[1] < MEGA
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_png_of_endless_tiny_chunks_is_refused(where: str) -> None:
    chunks = chunk(b"tEXt", b"a\0b") * 2000
    assert "chunks" in refusal(png(1, 1, ROW, before=chunks) if where == "before" else png(1, 1, ROW, after=chunks)).message


def test_a_png_whose_pixels_are_cut_into_endless_tiny_chunks_is_refused() -> None:
    assert "chunks" in refusal(png(1, 1, ROW, after=chunk(b"IDAT", b"") * 2000)).message


def test_a_gif_of_endless_comments_is_refused() -> None:
    data = save(quarters(), "GIF")
    at = data.index(b",\0\0\0\0", 13)
    assert "blocks" in refusal(data[:at] + b"!\xfe" + b"\x01a" * 2000 + b"\0" + data[at:]).message


@pytest.mark.parametrize("stuffing", [b"\xff\xef\0\2" * 2000, b"\xff" * 5000])
def test_a_jpeg_of_endless_stuffing_is_refused(stuffing: bytes) -> None:
    data = save(quarters(), "JPEG")
    refusal(data[:2] + stuffing + data[2:])


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = save(quarters(), "JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : -2]
    assert "scans" in refusal(data[:-2] + scan * 100 + data[-2:]).message


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, about what it met
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([save(quarters(), format) for format in FORMATS] + [oriented("JPEG", 6), save(half_transparent(), "PNG")]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=12),
    st.integers(0, 400),
)
def test_any_damage_gives_an_image_within_the_limit_or_a_refusal(
    honest: bytes, edits: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(honest[: len(honest) - cut])
    for position, value in edits:
        if damaged:
            damaged[position % len(damaged)] = value
    try:
        image = read(bytes(damaged), max_pixels=10_000)
    except InvalidRequest:
        return
    assert image.width * image.height <= 10_000


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_decode_may_be_stopped_about_every_million_pixels(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image that is easily compressed, a block of Pillow's own size holds everything."""
    side, ends = 3000, [0]

    class Noted(codecs._WatchedFile):
        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            ends.append(self.tell())
            return found

    data = save(Image.new("RGB", (side, side), "teal"), format)
    monkeypatch.setattr(codecs, "_WatchedFile", Noted)
    with decoded(data, max_pixels=side * side, param="image"):
        pass
    assert ends[-1] > len(data) * 0.9
    farthest = max(later - earlier for earlier, later in pairwise(ends))
    assert farthest * side * side / len(data) < 1.3 * 2**20


def test_a_refusal_speaks_of_no_object_of_ours() -> None:
    assert "object at 0x" not in refusal(b"RIFF\0\0\0\0WEBPVP8X" + bytes(20)).message


# ---- another size ----


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


# ---- the way back ----


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
