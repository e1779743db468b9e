"""AVIF files, honest and hostile: what a decoder sees of them is one image, of frames no larger than they say."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from stages.contract.errors import InvalidRequest, TooLarge
from stages.images.formats import avif
from stages.images.formats.av1 import MAX_FRAMES, check_frames
from stages.images.formats.avif import MAX_PROPERTIES, MAX_PROPERTY_BYTES
from stages.images.formats.boxes import MAX_BOXES, Box, Fields, boxes, written, written_full
from stages.images.formats.essence import MAX_PIECES, BadHeader
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
    frame, sequence = b"\x32\x08" + bytes(8), b"\x0a\x0a" + bytes(10)
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


SIZE = bytes(4) + struct.pack(">II", 40, 24)
CODE = bytes(next(box.content for box in boxes(PLAIN) if box.kind == b"mdat"))


def made(**parts: bytes) -> bytes:
    """`PLAIN`'s image in a file with other boxes in `meta`: kind -> content."""
    outer = {box.kind.decode(): bytes(box.content) for box in boxes(PLAIN)}
    inner = {box.kind.decode(): bytes(box.content) for box in boxes(outer["meta"][4:])} | parts
    if "iloc" not in parts:
        length = sum(8 + len(content) for content in (outer["ftyp"], *inner.values(), CODE)) + 12
        inner["iloc"] = bytes(4) + struct.pack(">HHHHHII", 0x4400, 1, 1, 0, 1, length - len(CODE), len(CODE))
    meta = written_full(b"meta", *(written(kind.encode(), content) for kind, content in inner.items()))
    return written(b"ftyp", outer["ftyp"]) + meta + written(b"mdat", CODE)


def properties(size: bytes, numbers: bytes) -> bytes:
    """Of an `iprp`: `PLAIN`'s, but for the first, which says the size; an item has those of such numbers, from 1."""
    known = [box for box in boxes(made()[made().index(b"ipco") + 4 :]) if box.kind in (b"pixi", b"av1C", b"colr")]
    others = [written(box.kind, box.content) for box in known]
    return written(b"ipco", written(b"ispe", size), *others) + written_full(
        b"ipma", struct.pack(">IHB", 1, 1, len(numbers)), numbers
    )


def refused(data: bytes, match: str) -> None:
    for look in (avif.size, avif.essence):
        with pytest.raises(BadHeader, match=match):
            look(data)


def test_a_property_that_is_named_again_and_again_is_not_copied_as_often() -> None:
    often = MAX_PROPERTIES - 3
    data = made(iprp=properties(SIZE + bytes(4000), bytes([1] * often + [2, 3, 4])))
    assert len(avif.essence(data).data) < len(data) + 100
    assert np.abs(pixels_of(read(data)) - pixels_of(quarters())).mean() < 3
    refused(made(iprp=properties(SIZE + bytes(100_000), b"\1" * 200)), f"over {MAX_PROPERTIES} properties")


def test_a_property_that_a_decoder_needs_is_short() -> None:
    data = made(iprp=properties(SIZE.ljust(MAX_PROPERTY_BYTES + 1, b"\0"), b"\1\2\3\4"))
    with pytest.raises(BadHeader, match=f"a property of {MAX_PROPERTY_BYTES + 1} bytes"):
        avif.essence(data)


def places(sizes: int, num_items: int, extents: bytes) -> bytes:
    """Of an `iloc`."""
    return bytes(4) + struct.pack(">HH", sizes, num_items) + extents


NO_BYTES = struct.pack(">HHH", 1, 0, 1000)
LISTS = {
    "extents of no bytes": {"iloc": places(0, 1000, NO_BYTES * 1000)},
    "one item of extents of no bytes": {"iloc": places(0, 1, struct.pack(">HHH", 1, 0, 900))},
    "items of one extent": {"iloc": places(0, 1000, struct.pack(">HHH", 1, 0, 1) * 1000)},
    "items of one byte each": {"iloc": places(0x1000, 600, struct.pack(">HHHB", 1, 0, 1, 0) * 600)},
    "properties of nobody": {
        "iprp": written(b"ipco")
        + written_full(b"ipma", struct.pack(">I", 999) + (struct.pack(">HB", 9, 255) + bytes(255)) * 999)
    },
    "lists of properties": {"iprp": written_full(b"ipma", struct.pack(">IHB", 1, 9, 99) + bytes(99)) * 200},
    "properties": {"iprp": written(b"ipco", written(b"free") * 200) * 200},
    "references": {"iref": bytes(4) + written(b"auxl", struct.pack(">HH", 1, 900), bytes(1800)) * 200},
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_a_small_file_cost_no_more_than_one_of_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand within one another: a thousand of a thousand once took a million turns, from eight thousand bytes."""
    num_read, num_boxes = 0, 0
    number, box = Fields.number, Box.__init__

    def counted(fields: Fields, num_bytes: int) -> int:
        nonlocal num_read
        num_read += 1
        return number(fields, num_bytes)

    def counted_box(made: Box, kind: bytes, content: memoryview) -> None:
        nonlocal num_boxes
        num_boxes += 1
        box(made, kind, content)

    data = made(**LISTS[name])
    monkeypatch.setattr(Fields, "number", counted)
    monkeypatch.setattr(Box, "__init__", counted_box)
    with pytest.raises(BadHeader):
        avif.essence(data)
    assert num_read < 6 * MAX_PIECES
    assert num_boxes < 6 * MAX_BOXES


def test_a_file_of_our_own_making_is_read() -> None:
    assert np.abs(pixels_of(read(made())) - pixels_of(quarters())).mean() < 3


def unit(kind: int, bits: str) -> bytes:
    """Of AV1's code, from zeros and ones that may be set apart, filled up with zeros."""
    digits = bits.replace(" ", "") + "0" * 64
    content = int(digits, 2) << -len(digits) % 8
    length = -(-len(digits) // 8)
    return bytes([kind << 3 | 2, length]) + content.to_bytes(length, "big")


def number(value: int, num_bits: int) -> str:
    return f"{value:0{num_bits}b}"


SIDES = f"1111 1111 {number(40 - 1, 16)} {number(24 - 1, 16)}"
NO_CLOCK, SIMPLE_TOOLS = "0 0 00000" + number(0, 12) + "00000", "000 0000 0 0 0"
SEQUENCES = {  # -> what stands in a frame header between its kind and its size's flag: of one that is shown, of a key frame
    "simple": (f"000 0 0 {NO_CLOCK} {SIDES} 0 {SIMPLE_TOOLS}", "", "0"),
    "each frame says its tools": (f"000 0 0 {NO_CLOCK} {SIDES} 0 000 0000 0 1 1", "", "0 1 0"),
    "tools for all": (f"000 0 0 {NO_CLOCK} {SIDES} 0 000 0000 0 0 1 0 1", "", "0"),
    "frames have ids": (f"000 0 0 {NO_CLOCK} {SIDES} 1 0011 001 000 0000 0 0 0", "", "0 1010101"),
    "frames say when they are shown": (
        f"000 0 0 1 {number(1, 32)} {number(25, 32)} 0 1 00111 {number(1, 32)} 00011 01001 0 00000 {number(0, 12)} 00000 0 {SIDES} 0"
        f" {SIMPLE_TOOLS}",
        "1010101010",
        "0",
    ),
    "frames come evenly": (
        f"000 0 0 1 {number(1, 32)} {number(25, 32)} 1 1 1 00111 {number(1, 32)} 00011 01001 0 00000 {number(0, 12)} 00000 0 {SIDES} 0"
        f" {SIMPLE_TOOLS}",
        "",
        "0",
    ),
}
KEY = "0 00 1"


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_frame_that_may_be_larger_than_its_sequence_says_is_refused(name: str) -> None:
    """A decoder holds a frame's own size, of up to 64 k x 64 k, to nothing."""
    sequence, shown, tools = SEQUENCES[name]
    own = f"1 {number(2**16 - 1, 16)} {number(2**16 - 1, 16)}"
    for flag, is_read in (("0", True), (own, False)):
        code = unit(1, sequence) + unit(6, f"{KEY} {shown} {tools} {flag}")
        if is_read:
            check_frames(code, 40, 24)
        else:
            with pytest.raises(BadHeader, match=r"of 65536 x 65536|depends on others"):
                check_frames(code, 40, 24)


def evenly(ticks: str) -> str:
    """A sequence header with frames that come every so many ticks."""
    return f"000 0 0 1 {number(1, 32)} {number(25, 32)} 1 {ticks} 0 0 00000 {number(0, 12)} 00000 {SIDES} 0 {SIMPLE_TOOLS}"


def test_a_number_that_decoders_read_differently_is_refused() -> None:
    """One that goes on after 32 zeros, and one that stops there, find other sizes behind it."""
    frame = unit(6, f"{KEY} 0 0")
    check_frames(unit(1, evenly("0" * 31 + "1" + "1" * 31)) + frame, 40, 24)
    with pytest.raises(BadHeader, match="over 31 bits"):
        check_frames(unit(1, evenly("0" * 32 + "1")) + frame, 40, 24)


def test_headers_of_a_sequence_that_come_again_and_again_are_refused() -> None:
    header = unit(1, SEQUENCES["simple"][0])
    frame = unit(6, f"{KEY} 0 0")
    check_frames((header + frame) * MAX_FRAMES, 40, 24)
    with pytest.raises(BadHeader, match="too often"):
        check_frames(header * (MAX_FRAMES + 1) + frame, 40, 24)


def test_a_smaller_frame_that_comes_first_is_read() -> None:
    """As of an image that comes into view bit by bit."""
    sequence = f"000 0 0 {NO_CLOCK} {SIDES} 0 000 0000 1 00 0 0 110"
    small, over = (unit(3, f"{KEY} 0 1 {number(9, 7)} {number(19, 16)} {number(height - 1, 16)}") for height in (24, 25))
    check_frames(unit(1, sequence) + small, 40, 24)
    with pytest.raises(BadHeader, match="of 40 x 24 pixels, and its code of 20 x 25"):
        check_frames(unit(1, sequence) + over, 40, 24)


@pytest.mark.parametrize("frame", ["0 11 1 0", "0 01 1 0 0 1", "0 01 1 1 0 1", "0 00 0 0 0 0 1", "0 10 1 0 0 1"])
def test_a_frame_whose_own_size_depends_on_others_is_refused(frame: str) -> None:
    with pytest.raises(BadHeader, match="whose size depends on others"):
        check_frames(unit(1, SEQUENCES["simple"][0]) + unit(6, frame), 40, 24)


def test_frames_that_have_the_size_of_their_sequence_are_read() -> None:
    reduced = f"000 1 1 00000 {SIDES} 000"
    check_frames(unit(1, reduced) + unit(6, "1" * 60), 40, 24)
    for frame in ("0 01 1 0 0 0", "0 01 0 0 0 0 0", "1 000", "0 10 1 0 0 0"):
        check_frames(unit(1, SEQUENCES["simple"][0]) + unit(6, frame), 40, 24)


@pytest.mark.parametrize("speed", [0, 6, 10])
@pytest.mark.parametrize(
    "options", [{}, {"save_all": True}, {"tile_rows": 1}, {"subsampling": "4:2:0", "tile_cols": 1}], ids=str
)
def test_what_an_encoder_writes_is_read(speed: int, options: dict[str, object]) -> None:
    image = quarters(400, 240)
    more = {"append_images": [image.rotate(180)] * 2} if "save_all" in options else {}
    info = inspect(save(image, "AVIF", speed=speed, **options, **more), max_bytes=10**6, max_pixels=10**6, param="image")
    assert (info.width, info.height) == (400, 240)
    assert read(save(image, "AVIF", speed=speed, **options, **more), 10**6).size == (400, 240)
