"""JPEG: its size, and its essence (tables, frame and scans, and what tells the colours apart). Pure.

Only what every browser shows is read: Huffman-coded, baseline or progressive. Profiles, thumbnails, comments, and whatever a camera
writes behind the image (further images, a film) are left out; of EXIF the orientation is read.

Sources: ITU T.81, B.1.1 and B.2; JFIF 1.02 and Adobe's APP14, which say what the components are.
"""

import re
import struct
from collections.abc import Iterator
from math import prod

from stages.images.formats import exif
from stages.images.formats.essence import MAX_PIECES, BadHeader, Essence

MAX_SCANS = 100
MAX_SCAN_PIXELS = 800_000_000
"""Scans x pixels. A decoder passes over the whole image once a scan, however few bytes it has; files made in earnest have about ten."""

_MAX_TABLE_BYTES = 2048  # of quantization tables before the pixels: there are four, of 130 bytes at most
_FILL = b"\xff" * 1024  # more in a row than anybody writes
_NOT_FILL = re.compile(rb"[^\xff]")
_AMONG_PIXELS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that is neither a byte 0xFF of the pixels nor a restart
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_READ_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_BARE_MARKERS = frozenset(range(0xD0, 0xD8)) | {0x01}
_NO_SEGMENT_MARKERS = frozenset({0x00, 0xD8, 0xD9})
_START_OF_SCAN, _HUFFMAN, _QUANTIZATION, _RESTARTS, _END_OF_IMAGE = 0xDA, 0xC4, 0xDB, 0xDD, 0xD9
_JFIF, _EXIF, _ADOBE = (0xE0, b"JFIF\0"), (0xE1, b"Exif\0\0"), (0xEE, b"Adobe")


def size(data: bytes | memoryview) -> tuple[int, int]:
    """Of several frames, the largest counts."""
    frames = [(0, 0)]
    for marker, start, _ in _segments(data):
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, start + 5)
            frames.append((width, height))
    return max(frames, key=prod)


def essence(data: bytes) -> Essence:
    """Raises `BadHeader`."""
    view = memoryview(data)
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    orientation, num_frames, table_bytes, scans = exif.UPRIGHT, 0, 0, len(data)
    for marker, start, end in _segments(data):
        segment = view[start:end]
        if marker == _START_OF_SCAN:
            scans = start
        elif marker in _FRAME_MARKERS:
            _check_frame(marker, segment)
            num_frames += 1
            kept.append(segment)
        elif marker == _QUANTIZATION:
            table_bytes += len(segment)
            kept.append(segment)
        elif marker in (_HUFFMAN, _RESTARTS) or _is(segment, _JFIF) or _is(segment, _ADOBE):
            kept.append(segment)
        elif _is(segment, _EXIF) and orientation == exif.UPRIGHT:
            orientation = exif.orientation(segment[4:])
    if num_frames != 1:
        raise BadHeader(f"its JPEG has {num_frames} frame headers")
    if table_bytes > _MAX_TABLE_BYTES:
        raise BadHeader(
            f"its JPEG has {table_bytes} bytes of quantization tables before its pixels; at most {_MAX_TABLE_BYTES}"
        )
    end = _image_ends(data, scans)
    _check_scans(data, scans, end)
    return Essence(b"".join([*kept, _without_fill(data, scans, end)]), orientation)


def _without_fill(data: bytes, start: int, end: int) -> bytes | memoryview:
    """What lies there. A decoder that is given it in blocks reads a run of fill bytes from its beginning again with every block."""
    if data.find(_FILL, start, end) < 0:
        return memoryview(data)[start:end]
    return data[start:end].replace(_FILL, _FILL[:1])


def _check_frame(marker: int, segment: memoryview) -> None:
    if marker not in _READ_FRAMES:
        raise BadHeader(f"its JPEG is coded in a way that is not read here (SOF{marker - 0xC0}); baseline and progressive are")
    if len(segment) < 10 or len(segment) != 10 + 3 * segment[9]:
        raise BadHeader("its JPEG frame header contradicts itself")


def _image_ends(data: bytes, start: int) -> int:
    """Where the marker of its end does, of what is from its first scan on. The end of the data, where it has none, or too many others
    before it."""
    position = start
    for _ in range(MAX_PIECES):
        found = _AMONG_PIXELS.search(data, position)
        if found is None:
            break
        marker, position = data[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            return position
        if marker not in _BARE_MARKERS and marker not in _NO_SEGMENT_MARKERS:
            position += max(2, int.from_bytes(data[position : position + 2]))
    return len(data)


def _check_scans(data: bytes, start: int, end: int) -> None:
    num_scans, pixels = data.count(b"\xff\xda", start, end), prod(size(data))
    most = min(MAX_SCANS, MAX_SCAN_PIXELS // max(1, pixels))
    if num_scans > most:
        raise BadHeader(f"its JPEG has {num_scans} scans of {pixels} pixels; at most {most}")


def _is(segment: memoryview, known: tuple[int, bytes]) -> bool:
    marker, name = known
    return segment[1] == marker and segment[4 : 4 + len(name)] == name


def _segments(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Marker, where the segment begins (with its marker, without fill bytes) and ends, of all before the pixels: the last is the first
    scan's."""
    position = 2
    for _ in range(MAX_PIECES):
        marker, position = _marker(data, position)
        if marker in _BARE_MARKERS:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        yield marker, position - 2, position + length
        if marker == _START_OF_SCAN:
            return
        position += length
    raise BadHeader(f"its JPEG has no pixels after {MAX_PIECES} segments")


def _marker(data: bytes | memoryview, position: int) -> tuple[int, int]:
    """The marker that begins at `position`, and where it ends. It may be preceded by fill bytes (0xFF)."""
    end = _NOT_FILL.search(data, position, position + MAX_PIECES + 1)
    if end is None or end.start() == position or data[end.start()] in _NO_SEGMENT_MARKERS:
        raise BadHeader(f"its JPEG has no marker at byte {position}")
    return data[end.start()], end.end()
