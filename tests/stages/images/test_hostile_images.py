"""Files that are no images, cut off, damaged, or made to cost more than they say."""

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
from stages.images.image import decoded
from tests.stages.image_files import (
    FORMATS,
    GREEN,
    RED,
    chunk,
    png,
    quarters,
    save,
)
from tests.stages.images.reading import MEGA, half_transparent, oriented, read, refusal


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
