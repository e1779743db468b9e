"""What a coded AV1 image says of itself: how large its frames may be, and how many there are. Pure, and trusts nothing.

A decoder believes the code, not the file around it: a file that says 8 x 8 may hold frames of 64 k x 64 k, or thousands of them that are
never shown.

Source: AV1 Bitstream & Decoding Process Specification, 5.3, 5.5 and 5.9.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.images.formats.essence import BadHeader

MAX_FRAMES = 4
"""A still image is one; of one that comes into view in layers a few."""
MAX_UNITS = 512
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME, _REDUNDANT_HEADER = 1, 3, 6, 7
_KEY, _SWITCH = 0, 3
_EACH_FRAME = 2


def check_frames(code: bytes | memoryview, width: int, height: int) -> None:
    """Raises `BadHeader` where its frames may be larger than that, or are too many."""
    num_frames, num_sequences, sequence = 0, 0, None
    for kind, content in _units(memoryview(code)):
        if kind == _SEQUENCE_HEADER:
            num_sequences += 1
            if num_sequences > MAX_FRAMES:
                raise BadHeader("its AVIF says too often how large its frames are")
            sequence = _sequence(_Bits(content[:256]))
            _check_size((sequence.width, sequence.height), width, height)
        elif kind in (_FRAME_HEADER, _FRAME, _REDUNDANT_HEADER):
            num_frames += 1
            if sequence is None or num_frames > MAX_FRAMES:
                raise BadHeader(
                    "its AVIF has frames before it says their size" if sequence is None else "its AVIF has too many frames"
                )
            _check_size(_size_of_its_own(_Bits(content[:64]), sequence), width, height)
    if not num_frames:
        raise BadHeader("its AVIF has no frame")


def _check_size(size: tuple[int, int] | None, width: int, height: int) -> None:
    if size is not None and (size[0] > width or size[1] > height):
        raise BadHeader(f"its AVIF is of {width} x {height} pixels, and its code of {size[0]} x {size[1]}")


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
        """Of over 31 bits decoders make different things, and so of all that follows: it is refused."""
        for zeros in range(32):
            if self.read(1):
                self.read(zeros)
                return
        raise BadHeader("its AVIF's code has a number of over 31 bits")


@dataclass(frozen=True, slots=True)
class _Clock:
    """Of a sequence: whether it says when frames are to be decoded, and in how many bits when each is to be shown."""

    has_model: bool = False
    show_bits: int = 0


@dataclass(frozen=True, slots=True)
class _Tools:
    """Of a sequence: `screen` content and `integer` motion are 0 and 1 as in the header, or `_EACH_FRAME` says it itself."""

    screen: int = _EACH_FRAME
    integer: int = _EACH_FRAME
    order_bits: int = 0


@dataclass(frozen=True, slots=True)
class _Sequence:
    """What a sequence header says of all frames: the size that one has which says none of its own, and what it takes to find the size of
    one that does."""

    width: int
    height: int
    width_bits: int
    height_bits: int
    is_reduced: bool
    clock: _Clock
    id_bits: int
    tools: _Tools


def _sequence(bits: _Bits) -> _Sequence:
    """AV1, 5.5.1."""
    bits.read(4)  # profile, still picture
    is_reduced, clock = bool(bits.read(1)), _Clock()
    if is_reduced:
        bits.read(5)
    else:
        clock = _operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width, height = bits.read(width_bits) + 1, bits.read(height_bits) + 1
    id_bits = 0
    if not is_reduced and bits.read(1):
        id_bits = bits.read(4) + bits.read(3) + 3
    bits.read(3)  # superblocks, intra filters
    tools = _Tools() if is_reduced else _tools(bits)
    return _Sequence(width, height, width_bits, height_bits, is_reduced, clock, id_bits, tools)


def _tools(bits: _Bits) -> _Tools:
    bits.read(4)  # compounds, warped motion, dual filter
    has_order = bits.read(1)
    bits.read(2 if has_order else 0)
    screen = _EACH_FRAME if bits.read(1) else bits.read(1)
    integer = _EACH_FRAME
    if screen:
        integer = _EACH_FRAME if bits.read(1) else bits.read(1)
    return _Tools(screen, integer, bits.read(3) + 1 if has_order else 0)


def _size_of_its_own(bits: _Bits, sequence: _Sequence) -> tuple[int, int] | None:
    """Of a frame header: (width, height) where it says another than the sequence's, which nothing holds to that. Read of key frames that
    are shown, as the small layers of an image are which comes into view bit by bit; raises `BadHeader` for others. AV1, 5.9.2."""
    if sequence.is_reduced or bits.read(1):  # or one again that was checked
        return None
    kind, is_shown = bits.read(2), bits.read(1)
    bits.read(sequence.clock.show_bits if is_shown else 1)
    is_key = kind == _KEY and is_shown
    if kind != _SWITCH and not is_key:
        bits.read(1)  # resilience
    bits.read(1)
    has_tools = bits.read(1) if sequence.tools.screen == _EACH_FRAME else sequence.tools.screen
    if has_tools and sequence.tools.integer == _EACH_FRAME:
        bits.read(1)
    bits.read(sequence.id_bits)
    if kind != _SWITCH and not bits.read(1):
        return None
    if not is_key or sequence.clock.has_model:
        raise BadHeader("its AVIF has a frame whose size depends on others")
    bits.read(sequence.tools.order_bits)
    return bits.read(sequence.width_bits) + 1, bits.read(sequence.height_bits) + 1


def _operating_points(bits: _Bits) -> _Clock:
    delay_bits = show_bits = 0
    has_model = False
    if bits.read(1):  # timing
        bits.read(64)
        is_even = bool(bits.read(1))
        if is_even:
            bits.skip_uvlc()
        has_model = bool(bits.read(1))
        if has_model:
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5)
            show_bits = 0 if is_even else bits.read(5) + 1
            bits.read(5 if is_even else 0)
    has_delays = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if has_model and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_delays and bits.read(1):
            bits.read(4)
    return _Clock(has_model, show_bits)
