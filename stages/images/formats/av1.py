"""What a coded AV1 image says of itself: how large its frames may be, and how many there are. Pure, and trusts nothing.

A decoder believes the code, not the file around it: a file that says 8 x 8 may hold frames of 64 k x 64 k, or thousands of them that are
never shown.

Source: AV1 Bitstream & Decoding Process Specification, 5.3 and 5.5.
"""

from collections.abc import Iterator

from stages.images.formats.essence import BadHeader

MAX_FRAMES = 4
"""A still image is one; of one that comes into view in layers a few."""
MAX_UNITS = 512
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME, _REDUNDANT_HEADER = 1, 3, 6, 7


def check_frames(code: bytes | memoryview, width: int, height: int) -> None:
    """Raises `BadHeader` where its frames may be larger than that, or are too many."""
    num_frames, has_size = 0, False
    for kind, content in _units(memoryview(code)):
        if kind == _SEQUENCE_HEADER:
            has_size = True
            most = _most_size(_Bits(content[:256]))
            if most[0] > width or most[1] > height:
                raise BadHeader(f"its AVIF is of {width} x {height} pixels, and its code of {most[0]} x {most[1]}")
        elif kind in (_FRAME_HEADER, _FRAME, _REDUNDANT_HEADER):
            num_frames += 1
            if not has_size or num_frames > MAX_FRAMES:
                raise BadHeader(
                    "its AVIF has frames before it says their size" if not has_size else "its AVIF has too many frames"
                )
    if not num_frames:
        raise BadHeader("its AVIF has no frame")


def _units(code: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Kind and content."""
    at = 0
    for _ in range(MAX_UNITS):
        if at >= len(code):
            return
        head = code[at]
        kind, is_extended, has_size = head >> 3 & 15, head >> 2 & 1, head >> 1 & 1
        if head & 0x80:
            raise BadHeader("its AVIF's code is damaged")
        at += 1 + is_extended
        size, num_read = _leb128(code, at) if has_size else (len(code) - at, 0)
        at += num_read
        yield kind, code[at : at + size]
        at += size
    raise BadHeader("its AVIF's code is cut into too many pieces")


def _leb128(code: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        if at + index >= len(code):
            break
        byte = code[at + index]
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, index + 1
    raise BadHeader("its AVIF's code is cut off")


class _Bits:
    def __init__(self, content: memoryview) -> None:
        self._value, self._left = int.from_bytes(content, "big"), 8 * len(content)

    def read(self, count: int) -> int:
        if count > self._left:
            raise BadHeader("its AVIF's code is cut off")
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def skip_uvlc(self) -> None:
        zeros = 0
        while not self.read(1):
            zeros += 1
        self.read(min(zeros, 32) if zeros < 32 else 0)


def _most_size(bits: _Bits) -> tuple[int, int]:
    """Of a sequence header: (width, height) that no frame goes over."""
    bits.read(4)  # profile, still picture
    if bits.read(1):  # reduced header
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(width_bits) + 1, bits.read(height_bits) + 1


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    has_model = False
    if bits.read(1):  # timing
        bits.read(64)
        if bits.read(1):
            bits.skip_uvlc()
        has_model = bool(bits.read(1))
        if has_model:
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5 + 5)
    has_delays = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if has_model and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_delays and bits.read(1):
            bits.read(4)
