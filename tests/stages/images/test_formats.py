"""What of a file a decoder is to see: its pixels as they are, and nothing that costs what they don't."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from stages.contract.errors import InvalidRequest
from stages.images.formats import exif
from stages.images.formats.essence import BadHeader, ImageFormat
from stages.images.formats.jpeg import MAX_SCAN_PIXELS, MAX_SCANS
from stages.images.image import decoded, inspect
from stages.images.image_header import Header, essence_of, read_header
from stages.images.pixel_budget import PixelBudget
from tests.stages.image_files import FORMATS, chunk, jpeg_with_size, pixels_of, png, quarters, save

MAGICS = [
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"\xff\xd8\xff",
    b"GIF89a",
    b"RIFF\0\0\0\0WEBPVP8X",
    b"RIFF\0\0\0\0WEBPVP8L",
    b"BM",
]
MEGA = 1_000_000


def essence(data: bytes) -> bytes:
    return essence_of(data, read_header(data)).data


def refusal(data: bytes) -> str:
    """What is said of it wherever it is looked at."""
    with pytest.raises(InvalidRequest) as caught:
        inspect(data, max_bytes=100 * MEGA, max_pixels=25 * MEGA, param="image")
    with pytest.raises(InvalidRequest) as again, decoded(data, max_pixels=25 * MEGA, param="image"):
        pass
    assert again.value.message == caught.value.message
    return caught.value.message


# ---- honest files ----


def noise(mode: str, width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(pixels).convert("RGB" if mode in ("P", "1") else mode).convert(mode)


def with_ballast(image: Image.Image, format: str, orientation: int) -> bytes:
    """As a camera or an editor writes it."""
    tags, text = Image.Exif(), PngInfo()
    tags[0x010F], tags[0x0112], tags[0x9286] = "maker", orientation, b"a comment of the user" * 50
    text.add_text("Comment", "x" * 5000, zip=True)
    options: dict[str, dict[str, Any]] = {
        "PNG": {"exif": tags, "pnginfo": text, "icc_profile": b"profile" * 3000},
        "JPEG": {"exif": tags, "comment": b"c" * 500, "icc_profile": b"profile" * 1000, "progressive": image.width % 2},
        "WEBP": {"exif": tags, "icc_profile": b"profile" * 3000, "xmp": b"<x/>" * 1000},
        "GIF": {"comment": b"c" * 5000},
        "BMP": {},
    }
    return save(image, format, **options[format])


MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "JPEG": ["L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["L", "P", "RGB"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
}


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([(format, mode) for format in FORMATS for mode in MODES[format]]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(0, 2**32),
)
def test_the_pixels_are_those_of_the_whole_file_and_the_right_way_up(
    kind: tuple[str, str], width: int, height: int, orientation: int, seed: int
) -> None:
    format, mode = kind
    data = with_ballast(noise(mode, width, height, seed), format, orientation)
    with Image.open(io.BytesIO(data)) as whole:
        upright = ImageOps.exif_transpose(whole)
        white = Image.new("RGBA", upright.size, "white")
        white.alpha_composite(upright.convert("RGBA"))
        wanted = white.convert("RGB") if upright.has_transparency_data else upright.convert("RGB")
    with decoded(data, max_pixels=MEGA, param="image") as image:
        assert (pixels_of(image) == pixels_of(wanted)).all()
    assert len(essence(data)) <= len(data)


@pytest.mark.parametrize("format", FORMATS)
def test_an_essence_has_no_ballast_and_is_its_own_essence(format: str) -> None:
    image = quarters().convert("P" if format == "GIF" else "RGB")
    lean = essence(with_ballast(image, format, 6))
    assert abs(len(lean) - len(essence(save(image, format)))) <= 300  # two ways to write tables
    assert essence(lean) == lean


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_a_decoder_sees_the_first_frame_as_far_as_that_can_be_told(format: str) -> None:
    frames = [noise("RGB", 64, 64, seed) for seed in range(20)]
    one = save(frames[0], format)
    data = save(frames[0], format, save_all=True, append_images=frames[1:])
    if format != "GIF":  # whose decoder stops after the first one by itself
        assert len(essence(data)) < len(one) + 200
    with decoded(data, max_pixels=MEGA, param="image") as image, decoded(one, max_pixels=MEGA, param="image") as alone:
        assert np.abs(pixels_of(image) - pixels_of(alone)).mean() < 4


# ---- hostile files ----


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def references(count: int, size: int) -> bytes:
    """EXIF whose every entry refers to the same `size` bytes: a reader that follows them copies count x size."""
    entries = b"".join(struct.pack("<HHII", 1000 + tag, 1, size, 8) for tag in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes(4) + bytes(size)


def png_with(kind: bytes, content: bytes, count: int = 1) -> bytes:
    return png(40, 24, (b"\0" + bytes(120)) * 24, before=chunk(kind, content) * count)


def jpeg_with(ballast: bytes) -> bytes:
    data = save(quarters(), "JPEG")
    return data[:2] + ballast + data[2:]


def webp_with(kind: bytes, content: bytes) -> bytes:
    image = save(quarters(), "WEBP")[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x2c\0\0\0" + (39).to_bytes(3, "little") + (23).to_bytes(3, "little")
    parts = canvas + image + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


EXPANDING = b"a\0\0" + zlib.compress(bytes(MEGA), 9)
BALLAST = {
    "png text": png_with(b"zTXt", EXPANDING, 900),
    "png profiles": png_with(b"iCCP", EXPANDING, 900),
    "png exif": png_with(b"eXIf", references(60_000, MEGA)),
    "png unknown": png_with(b"abCd", bytes(MEGA)),
    "jpeg exif": jpeg_with(segment(0xE1, b"Exif\0\0" + references(2000, 30_000))),
    "jpeg exif in pieces": jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 300),
    "jpeg comments": jpeg_with(segment(0xFE, bytes(60_000)) * 300),
    "jpeg photoshop": jpeg_with(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * 5000)),
    "webp exif": webp_with(b"EXIF", references(60_000, MEGA)),
    "webp profile": webp_with(b"ICCP", bytes(MEGA)),
}


@pytest.mark.parametrize("name", BALLAST)
def test_whatever_is_beside_the_pixels_costs_no_decoder_anything(name: str) -> None:
    data = BALLAST[name]
    assert len(essence(data)) < 2000 < len(data)
    with decoded(data, max_pixels=MEGA, param="image") as image:
        assert image.size == (40, 24)


def test_a_png_of_pieces_that_stand_for_nothing_is_given_up_soon() -> None:
    empty, rows = b"\0\0\0\xff\xff", zlib.compress((b"\0" + bytes(120)) * 24)  # the former a block of deflate's
    data = png(40, 24, b"")
    at = data.index(b"IDAT") - 4
    for count in (0, 1000, 2 * MEGA):
        filled = data[:at] + chunk(b"IDAT", rows[:2] + empty * count + rows[2:]) + chunk(b"IEND", b"")
        if count < MEGA:
            with decoded(filled, max_pixels=MEGA, param="image") as image:
                assert image.size == (40, 24)
        else:
            with pytest.raises(InvalidRequest, match="hold only 0"), decoded(filled, max_pixels=MEGA, param="image"):
                pass


def packed_png(rows: bytes, width: int, height: int, *pieces: bytes) -> bytes:
    data = png(width, height, rows)
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk(b"IDAT", b"".join(pieces)) + chunk(b"IEND", b"")


def in_fixed_codes(data: bytes) -> bytes:
    """zlib's format, each byte by deflate's own code for it."""
    values = np.frombuffer(data, np.uint8).astype(int)
    codes = np.where(values < 144, 0b00110000 + values << 1, 0b110010000 + values - 144)  # of eight bits, and of nine
    bits = codes[:, None] >> np.arange(8, -1, -1) & 1
    is_used = np.ones(bits.shape, bool)
    is_used[values < 144, -1] = False
    block = np.concatenate([[1, 1, 0], bits[is_used], np.zeros(7, int)])  # the last one, of this kind; its end
    return b"\x78\x01" + np.packbits(block, bitorder="little").tobytes() + struct.pack(">I", zlib.adler32(data))


def test_a_png_may_take_what_the_worst_encoding_takes_and_no_more() -> None:
    """Bytes of which each takes nine bits; and the same pixels with as many bytes that stand for nothing behind the first of them."""
    side = 600
    rows = (b"\0" + np.random.default_rng(0).integers(144, 256, 3 * side, np.uint8).tobytes()) * side
    worst = packed_png(rows, side, side, in_fixed_codes(rows))
    assert len(worst) > 1.12 * len(rows)
    with decoded(worst, max_pixels=MEGA, param="image") as image:
        assert image.size == (side, side)
    deflate = zlib.compressobj(9)
    most = deflate.compress(rows[: -3 * side - 1]) + deflate.flush(zlib.Z_SYNC_FLUSH)
    last = deflate.compress(rows[-3 * side - 1 :]) + deflate.flush()
    nothing = b"\0\0\0\xff\xff" * (len(rows) * 13 // 10 // 5)
    with pytest.raises(InvalidRequest, match=f"hold only {len(rows) - 3 * side - 1}"):
        with decoded(packed_png(rows, side, side, most, nothing, last), max_pixels=MEGA, param="image"):
            pass


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_endless_fill_bytes_is_read_in_time_that_grows_with_its_length(progressive: bool) -> None:
    data = save(quarters(), "JPEG", progressive=progressive)
    at = data.index(b"\xff\xc4", data.index(b"\xff\xda")) if progressive else data.rindex(b"\xff\xd9")
    filled = data[:at] + b"\xff" * 19 * MEGA + data[at:]
    assert len(essence(filled)) < 50_000
    with decoded(filled, max_pixels=MEGA, param="image") as found, decoded(data, max_pixels=MEGA, param="image") as plain:
        assert np.array_equal(pixels_of(found), pixels_of(plain))


def test_the_tables_of_a_lossless_webp_count_as_what_they_may_take() -> None:
    image = noise("RGB", 256, 256, 0)
    lossless, lossy = save(image, "WEBP", lossless=True), save(image, "WEBP", lossless=False, quality=50)
    small = save(quarters(), "WEBP", lossless=True)
    budget = PixelBudget(25 * MEGA)
    for data, held in ((lossless, (256 // 4) ** 2 * 384 + 256**2), (lossy, 256**2)):
        with decoded(data, max_pixels=MEGA, param="image", budget=budget):
            assert budget.held_pixels == held
    assert essence_of(small, read_header(small)).tables < 384 * len(small)
    with decoded(
        lossless, max_pixels=MEGA, param="image", budget=PixelBudget(256**2)
    ) as found:  # never more than there is room for
        assert found.size == (256, 256)


@pytest.mark.parametrize(("compression", "name"), [(1, "RLE8"), (2, "RLE4"), (4, "JPEG"), (5, "PNG")])
def test_compressed_bitmaps_are_refused_by_name(compression: int, name: str) -> None:
    head = struct.pack("<IiiHHIIiiII", 40, 70_000, 350, 1, 8 if compression == 1 else 4, compression, 0, 0, 0, 256, 0)
    rows = b"\0\2\0\xff" * 10  # down 255 rows, without a pixel
    data = b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + head + bytes(range(256)) * 4 + rows
    assert len(data) < 1200
    assert f"BMP is compressed ({name})" in refusal(data)


def test_a_bitmap_without_the_bytes_of_its_pixels_is_refused_before_they_are_allocated() -> None:
    data = bytearray(save(quarters(), "BMP"))
    data[18:26] = struct.pack("<ii", 5000, 5000)
    assert "truncated" in refusal(bytes(data))


@pytest.mark.parametrize("marker", sorted(set(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}))
def test_jpegs_that_no_browser_shows_are_refused_by_name(marker: int) -> None:
    data = bytearray(save(quarters(), "JPEG"))
    data[data.index(b"\xff\xc0") + 1] = marker
    assert f"SOF{marker - 0xC0}" in refusal(bytes(data))


@pytest.mark.parametrize(
    ("ballast", "told"),
    [
        (segment(0xDB, (b"\0" + b"\1" * 64) * 1000) * 50, "quantization tables"),
        (segment(0xC0, b"\x08\0\x18\0\x28\3" + b"\1\x11\0" * 20_000), "frame header"),
        (segment(0xC0, b"\x08\0\x18\0\x28\3" + b"\1\x11\0" * 3) * 2, "frame headers"),
    ],
)
def test_a_jpeg_of_endless_tables_is_refused(ballast: bytes, told: str) -> None:
    assert told in refusal(jpeg_with(ballast))


def test_the_larger_a_jpeg_the_fewer_passes_over_it_are_taken() -> None:
    def scans(width: int, height: int, count: int) -> bytes:
        data = jpeg_with_size(width, height)
        scan = data[data.index(b"\xff\xda") : -2]
        return data[:-2] + scan * (count - 1) + data[-2:]

    assert MAX_SCAN_PIXELS // (25 * MEGA) == 32
    assert "33 scans of 25000000 pixels; at most 32" in refusal(scans(5000, 5000, 33))
    assert f"{MAX_SCANS + 1} scans of 960 pixels" in refusal(scans(40, 24, MAX_SCANS + 1))
    assert essence(scans(5000, 5000, 32))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_film_behind_a_photo_is_no_part_of_it(progressive: bool) -> None:
    photo = save(quarters(), "JPEG", progressive=progressive)
    film = np.random.default_rng(2).bytes(20 * MEGA)  # which holds, by chance, what begins a scan
    assert film.count(b"\xff\xda") > MAX_SCANS
    assert essence(photo + film) == essence(photo)
    with decoded(photo + film, max_pixels=MEGA, param="image") as image, Image.open(io.BytesIO(photo)) as expected:
        assert np.array_equal(pixels_of(image), pixels_of(expected))


def test_where_a_jpeg_ends_is_not_looked_for_inside_its_segments() -> None:
    photo = save(quarters(), "JPEG", progressive=True)
    second = photo.index(b"\xff\xda", photo.index(b"\xff\xda") + 2)
    with_comment = photo[:second] + b"\xff\xfe\x00\x06\xff\xd9\xff\xda" + photo[second:]
    assert essence(with_comment).endswith(photo[second:])
    for rest in (b"", b"\xff", b"\xff\xfe", b"\xff\xfe\x00", b"\xff\xfe\xff\xff"):
        assert essence(photo[:second] + rest).endswith(photo[second - 8 : second] + rest)


@pytest.mark.parametrize(("kind", "most"), [(b"PLTE", 768), (b"tRNS", 256)])
def test_a_png_with_more_colours_than_there_are_is_refused(kind: bytes, most: int) -> None:
    assert f"{kind.decode()}; at most {most}" in refusal(png_with(kind, b"\xff" * (most + 1)))


def test_a_gif_that_is_no_image_after_its_header_is_not_searched_for_one() -> None:
    data = save(quarters(), "GIF")
    assert "no frame" in refusal(data[: data.index(b",\0\0\0\0", 13)] + b"\1" * MEGA)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(MAGICS), st.binary(max_size=300))
def test_any_bytes_are_a_header_or_are_none(magic: bytes, rest: bytes) -> None:
    data = magic + rest
    try:
        header = read_header(data)
        lean = essence_of(data, header)
    except BadHeader:
        return
    assert 1 <= lean.orientation <= 8
    assert len(lean.data) <= len(data) + 64
    assert header.format in ImageFormat


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([with_ballast(quarters(), format, 6) for format in FORMATS]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
)
def test_a_damaged_head_gives_an_essence_of_the_same_size_or_none(data: bytes, edits: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for at, value in edits:
        damaged[at % len(damaged)] = value
    header = header_or_none(bytes(damaged))
    if header is not None:
        try:
            lean = essence_of(bytes(damaged), header)
        except BadHeader:
            return
        assert header_or_none(lean.data) in (header, None)


def header_or_none(data: bytes) -> Header | None:
    try:
        return read_header(data)
    except BadHeader:
        return None


# ---- which way is up ----


@given(st.binary(max_size=200))
def test_any_bytes_of_exif_have_an_orientation(data: bytes) -> None:
    assert 1 <= exif.orientation(data) <= 8


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [(1, "Bxxx"), (3, "Hxx"), (4, "I")])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("num_before", [0, 3])
def test_the_orientation_is_found_in_either_byte_order_among_other_tags(
    order: str, kind: int, form: str, prefix: bytes, num_before: int
) -> None:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    others = struct.pack(f"{order}HHII", 0x010F, 2, 40_000_000, 8) * num_before
    entry = struct.pack(f"{order}HHI", 0x0112, kind, 1) + struct.pack(f"{order}{form}", 6)
    directory = struct.pack(f"{order}H", num_before + 1) + others + entry
    assert exif.orientation(prefix + magic + struct.pack(f"{order}I", 8) + directory) == 6


@given(st.integers(0, 12), st.dictionaries(st.sampled_from([0x010E, 0x010F, 0x0131]), st.text("abc", max_size=50)))
def test_what_pillow_writes_is_read(orientation: int, texts: dict[int, str]) -> None:
    tags = Image.Exif()
    tags.update(texts)
    tags[0x0112] = orientation
    assert exif.orientation(tags.tobytes()) == (orientation if 1 <= orientation <= 8 else 1)
